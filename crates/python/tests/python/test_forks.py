"""A child made by fork, as multiprocessing makes them."""

import asyncio
import os
import select
import threading

import busway
from busway import aio
from stage import PATIENCE, Claims


class Forks(Claims):
    def in_child(self, child):
        """Runs it in a fork of this process, and says how that ended: 0 where it returned."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child()
                status = 0
            except BaseException as error:
                print("in the child:", type(error), error, flush=True)
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]

    def setUp(self):
        self.bus = busway.Bus("forks")
        self.addCleanup(self.bus.close)

    def test_a_forked_child_is_told_and_opens_a_bus_of_its_own(self):
        bus = self.bus
        subscriber, publisher = bus.subscriber("x"), bus.publisher("x")
        from_child = bus.subscriber("from.child")
        publisher.send(b"l" * 1000)
        sample = subscriber.recv(PATIENCE)
        loan = publisher.loan(1000)
        stop = threading.Event()

        # Threads that are in the midst of a call when the process forks.
        busy = bus.publisher("busy", max_wait=PATIENCE)

        def work():
            while not stop.is_set():
                busy.send(bytes(700))
                try:
                    subscriber.recv(0.001)
                except busway.TimedOut:
                    pass

        def child():
            calls = [
                lambda: publisher.send(b"x"),
                lambda: publisher.try_send(b"x"),
                lambda: busy.send(b"x"),
                lambda: publisher.loan(10),
                lambda: publisher.flush(1),
                lambda: publisher.wait_for_subscribers(1),
                lambda: publisher.account(),
                lambda: loan.send(),
                lambda: memoryview(loan),
                lambda: subscriber.recv(1),
                lambda: subscriber.try_recv(),
                lambda: subscriber.recv_many(),
                lambda: next(iter(subscriber)),
                lambda: subscriber.losses(),
                lambda: subscriber.closed,
                lambda: publisher.closed,
                lambda: memoryview(sample),
                lambda: bytes(sample),
                lambda: bus.publisher("y"),
                lambda: bus.subscriber("y"),
                lambda: bus.inspect(),
            ]
            for at, call in enumerate(calls):
                with self.assertRaises(busway.Forked, msg=f"call {at}") as told:
                    call()
                self.assertEqual(told.exception.code, "BUS-0601")
            sample.release()
            loan.release()
            subscriber.close()
            publisher.close()
            bus.close()
            with busway.Bus("forks") as own, own.publisher("from.child") as mine:
                mine.wait_for_subscribers(1, PATIENCE)
                mine.send(b"c" * 300)
                mine.flush(PATIENCE)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(5):
                self.assertEqual(self.in_child(child), 0)
                self.assertEqual(from_child.recv(PATIENCE), b"c" * 300)
        finally:
            stop.set()
            thread.join(PATIENCE)
        # The parent goes on, with what it had.
        self.assertEqual(sample, b"l" * 1000)
        loan.data[:] = b"p" * 1000
        loan.send()
        self.assertEqual(subscriber.recv(PATIENCE), b"p" * 1000)

    def test_a_child_neither_finishes_nor_gives_back_the_work_of_its_parent(self):
        pusher, puller = self.bus.pusher("work"), self.bus.puller("work", ack=PATIENCE)
        for name in (b"acked" * 100, b"left", b"dropped" * 100):
            pusher.send(name)
        tasks = puller.recv_many(3, PATIENCE)
        view = memoryview(tasks[0])

        def child():
            task, left, dropped = tasks
            calls = [
                lambda: pusher.send(b"x"),
                lambda: pusher.pullers,
                lambda: pusher.wait_for_pullers(1),
                lambda: puller.recv(1),
                lambda: puller.try_recv_many(),
                lambda: puller.pushers,
                lambda: next(iter(puller)),
                lambda: task.ack(),
                lambda: task.nack(),
                lambda: task.done,
                lambda: bytes(task),
                lambda: self.bus.pusher("y"),
                lambda: self.bus.puller("y"),
            ]
            for at, call in enumerate(calls):
                with self.assertRaises(busway.Forked, msg=f"call {at}"):
                    call()
            self.assertEqual(bytes(view), bytes(500))
            with left:
                pass
            dropped.release()
            tasks.clear()
            puller.close()
            pusher.close()

        self.assertEqual(self.in_child(child), 0)
        self.assertEqual([task.done for task in tasks], [False] * 3)
        self.assertIsNone(puller.try_recv())
        self.assertEqual(view, b"acked" * 100)
        for task in tasks:
            task.ack()
        pusher.flush(PATIENCE)
        self.assertEqual(pusher.account()["delivered"], 3)

    def test_what_was_shown_before_a_fork_can_be_read_in_the_child(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        publisher.send(b"l" * 100_000)
        publisher.send(b"small")
        large, small = memoryview(subscriber.recv(PATIENCE)), memoryview(subscriber.recv(PATIENCE))
        loan = publisher.loan(50_000)
        room = memoryview(loan)
        room[:] = b"r" * 50_000

        def child():
            # The memory did not come along; nobody is to die of that.
            self.assertEqual(bytes(large), bytes(100_000))
            self.assertEqual(bytes(small), b"small")
            room[:] = b"w" * 50_000
            large.release()
            room.release()

        self.assertEqual(self.in_child(child), 0)
        self.assertEqual(large, b"l" * 100_000)
        self.assertEqual(room, b"r" * 50_000)
        room.release()
        loan.send()
        self.assertEqual(subscriber.recv(PATIENCE), b"r" * 50_000)

    def test_a_child_that_closes_does_not_make_its_parent_deaf(self):
        publisher, native = self.bus.publisher("x"), self.bus.subscriber("x")
        subscriber = aio.Subscriber(lambda: native)
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)

        async def start():
            await subscriber
            waiting = asyncio.create_task(subscriber.recv())
            await asyncio.sleep(0)
            return waiting

        for number in range(2):
            waiting = loop.run_until_complete(start())
            if number == 0:
                # It has rung already, but the loop has not seen it.
                publisher.send(b"0")
                self.assertTrue(select.select([native._fileno()], [], [], PATIENCE)[0])
            self.assertEqual(self.in_child(lambda: asyncio.run(subscriber.close())), 0)
            if number == 1:
                publisher.send(b"1")
            sample = loop.run_until_complete(asyncio.wait_for(waiting, PATIENCE))
            self.assertEqual(bytes(sample), str(number).encode())

    def test_messages_that_share_pages_can_be_read_in_a_child(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        for number in range(6):
            publisher.send(bytes([number]) * 6000)
        views = [memoryview(subscriber.recv(PATIENCE)) for _ in range(6)]

        def child():
            for view in views:
                self.assertEqual(bytes(view), bytes(6000))

        self.assertEqual(self.in_child(child), 0)
        self.assertEqual([bytes(view) for view in views], [bytes([number]) * 6000 for number in range(6)])
