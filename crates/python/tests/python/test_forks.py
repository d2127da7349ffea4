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

    def test_a_child_neither_answers_nor_cancels_the_requests_of_its_parent(self):
        requester, responder = self.bus.requester("ask"), self.bus.responder("ask")
        pendings = [requester.send(b"q" * 300, timeout=PATIENCE) for _ in range(3)]
        requests = responder.recv_many(3, PATIENCE)
        requests[2].reply(b"r" * 500)
        reply = pendings[2].recv()
        asked, answer = memoryview(requests[0]), memoryview(reply)
        stop = threading.Event()

        # Threads that are in the midst of a call when the process forks.
        def work():
            while not stop.is_set():
                with requester.send(b"cancelled", timeout=PATIENCE):
                    responder.try_recv()

        def child():
            calls = [
                lambda: requester.request(b"x"),
                lambda: requester.send(b"x"),
                lambda: requester.responders,
                lambda: requester.under_way,
                lambda: requester.strays(),
                lambda: requester.account(),
                lambda: requester.wait_for_responders(1),
                lambda: pendings[0].recv(),
                lambda: pendings[0].try_recv(),
                lambda: pendings[0].over,
                lambda: pendings[0].remaining,
                lambda: next(iter(pendings[0])),
                lambda: responder.recv(),
                lambda: responder.try_recv(),
                lambda: responder.unhandled(),
                lambda: requests[0].reply(b"x"),
                lambda: requests[0].reply_part(b"x"),
                lambda: requests[0].fail(),
                lambda: requests[0].is_cancelled,
                lambda: requests[0].done,
                lambda: bytes(requests[0]),
                lambda: bytes(reply),
                lambda: self.bus.requester("y"),
                lambda: self.bus.responder("y"),
            ]
            for at, call in enumerate(calls):
                with self.assertRaises(busway.Forked, msg=f"call {at}"):
                    call()
            self.assertEqual((bytes(asked), bytes(answer)), (bytes(300), bytes(500)))
            with requests[1]:
                pass
            requests.clear()
            pendings[0].cancel()
            pendings.clear()
            requester.close()
            responder.close()
            with busway.Bus("forks") as own, own.requester("child") as mine:
                self.assertEqual(mine.request(b"from the child", PATIENCE), b"heard")

        elsewhere = self.bus.responder("child")
        thread = threading.Thread(target=work)
        thread.start()
        answering = threading.Thread(target=lambda: [elsewhere.recv(PATIENCE).reply(b"heard") for _ in range(3)])
        answering.start()
        try:
            for _ in range(3):
                self.assertEqual(self.in_child(child), 0)
        finally:
            stop.set()
            thread.join(PATIENCE)
            answering.join(PATIENCE)
        self.assertEqual((asked, answer), (b"q" * 300, b"r" * 500))
        for request, pending in zip(requests[:2], pendings[:2]):
            self.assertFalse(request.is_cancelled or pending.over)
            request.reply(b"answered")
            self.assertEqual(pending.recv(PATIENCE), b"answered")

    def test_a_child_that_closes_a_requester_leaves_its_parent_s_loop_alone(self):
        native, responder = self.bus.requester("ask"), self.bus.responder("ask")
        requester = aio.Requester(lambda: native)
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)

        async def start():
            await requester
            waiting = asyncio.create_task(requester.request(b"x", PATIENCE))
            await asyncio.sleep(0)
            return waiting

        waiting = loop.run_until_complete(start())
        request = responder.recv(PATIENCE)
        self.assertEqual(self.in_child(lambda: asyncio.run(requester.close())), 0)
        request.reply(b"answered")
        self.assertEqual(self.in_child(lambda: asyncio.run(requester.close())), 0)
        self.assertEqual(bytes(loop.run_until_complete(asyncio.wait_for(waiting, PATIENCE))), b"answered")

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
