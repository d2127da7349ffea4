"""Work that is shared: pushers, pullers and tasks."""

import asyncio
import gc
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import busway
from busway import aio
from stage import PATIENCE, Child, Claims, mapping_of, resident


class Work(Claims):
    def setUp(self):
        self.bus = busway.Bus("work")
        self.addCleanup(self.bus.close)

    def test_a_task_is_shown_where_its_pusher_wrote_it_also_after_it_was_acknowledged(self):
        pusher, puller = self.bus.pusher("x"), self.bus.puller("x", group="workers", ack=PATIENCE)
        with pusher.loan(1 << 16) as loan:
            loan.data[:] = b"w" * (1 << 16)
            loan.send()
        task = puller.recv(PATIENCE)
        self.assertTrue(task.held)
        self.assertIsInstance(task, busway.Sample)
        self.assertEqual((task.topic, task.sequence, task.publisher.name), ("x", 1, self.bus.name))
        view = memoryview(task)
        self.assertIn("memfd:busway", mapping_of(view).name)
        with self.assertRaises(TypeError):
            view[0] = 0
        self.assertFalse(task.done)
        task.ack()
        self.assertTrue(task.done)
        pusher.flush(PATIENCE)
        puller.close()
        # The work is over, and others have come and gone: what shows it keeps it.
        with self.bus.puller("x", group="workers", ack=PATIENCE) as other:
            for number in range(2000):
                pusher.send(bytes([number % 256]) * 5000)
                with other.recv(PATIENCE) as next:
                    self.assertEqual(next.data[0], number % 256)
        self.assertEqual(view, b"w" * (1 << 16))
        with self.assertRaises(BufferError):
            task.release()
        view.release()
        task.release()
        self.assertEqual(self.bus.held, 0)

    def test_work_that_was_not_acknowledged_comes_back_and_no_other_does(self):
        pusher = self.bus.pusher("x")
        puller = self.bus.puller("x", group="workers", ack=PATIENCE, attempts=62, redelivery=0)
        given = 0

        def next_is(deliveries):
            task = puller.recv(PATIENCE)
            self.assertEqual((bytes(task), task.deliveries), (b"work", deliveries))
            return task

        def raise_in_block():
            try:
                with next_is(given):
                    raise KeyError("in the midst of it")
            except KeyError:
                pass

        def leave_in_block():
            with next_is(given) as task:
                task.nack()

        ways = [
            lambda: next_is(given).nack(),
            lambda: next_is(given).release(),
            lambda: next_is(given) and None,
            raise_in_block,
            leave_in_block,
        ]
        pusher.send(b"work")
        for way in ways * 2:
            given += 1
            way()
            gc.collect()
        self.assertEqual(pusher.account()["in_flight"], 1)
        with next_is(given + 1) as task:
            pass
        for again in (task.ack, task.nack):
            with self.assertRaises(ValueError):
                again()
        pusher.flush(PATIENCE)
        self.assertIsNone(puller.try_recv())
        # Where nothing is acknowledged, what is dropped is over.
        plain = self.bus.puller("y")
        other = self.bus.pusher("y")
        for end in (lambda task: task.nack(), lambda task: task.release(), lambda task: task.ack()):
            other.send(b"once")
            end(plain.recv(PATIENCE))
        other.flush(PATIENCE)
        self.assertEqual(other.account()["delivered"], 3)
        self.evidence(given_back=given, handled=1)

    def test_an_acknowledgement_that_is_too_late_is_told_and_what_nobody_acknowledges_lies_with_the_dead(self):
        pusher = self.bus.pusher("x")
        slow, other = (self.bus.puller("x", group="late", ack=0.05, attempts=2) for _ in range(2))
        dead = self.bus.puller("dead-letters.late")
        pusher.send(b"poison")
        first = slow.recv(PATIENCE)
        second = other.recv(PATIENCE)
        self.assertEqual((first.deliveries, second.deliveries), (1, 2))
        with self.assertRaises(busway.TooLate) as told:
            first.ack()
        self.assertEqual(told.exception.code, "BUS-0405")
        # Nobody acknowledges it; who waits for other work notices.
        self.assertEqual(slow.recv_many(1, 0.5), [])
        self.assertEqual(bytes(dead.recv(PATIENCE)), b"poison")
        with self.assertRaises(busway.TooLate), second:
            pass

    def test_programs_share_work_and_what_a_killed_one_had_goes_to_another(self):
        script = """
with busway.Bus("work") as bus, bus.puller("x", group="workers", ack=PATIENCE) as puller:
    print("here", flush=True)
    done = 0
    for task in puller:
        if task == b"stop":
            task.ack()
            break
        with task:
            if int.from_bytes(task.data[:4], "big") == 700:
                print("has it", flush=True)
                sys.stdin.readline()
            done += 1
    print(done, flush=True)
"""
        with self.bus.pusher("x", max_wait=PATIENCE, slots_max=4096) as pusher:
            with Child(script) as one, Child(script) as other:
                self.assertEqual([one.hear(), other.hear()], ["here", "here"])
                pusher.wait_for_pullers(2, PATIENCE)
                for number in range(1000):
                    pusher.send(number.to_bytes(4, "big") * (1 if number % 2 else 100))
                heard = {}
                threads = [threading.Thread(target=lambda c=c: heard.update({c: c.hear()})) for c in (one, other)]
                [thread.start() for thread in threads]
                killed = None
                while pusher.account()["in_flight"] > 0:
                    for child in (one, other):
                        if killed is None and heard.get(child) == "has it":
                            killed = child
                            child.process.kill()
                            child.process.wait(PATIENCE)
                            # It is given to the other, which asks what to do with it, and is told to go on.
                            (other if child is one else one).say("go on")
                self.assertIsNotNone(killed)
                pusher.send(b"stop")
                [thread.join(PATIENCE) for thread in threads]
                pusher.flush(PATIENCE)
                account = pusher.account()
                self.assertEqual((account["sent"], account["delivered"], account["dropped"]), (1001, 1001, {}))
        self.evidence(tasks=1000, killed=1)

    def test_a_wait_for_work_ends_with_time_interrupts_and_closing(self):
        puller = self.bus.puller("x")
        for timeout in (0, 0.01, -1):
            with self.assertRaises(TimeoutError) as told:
                puller.recv(timeout)
            self.assertEqual(told.exception.code, "BUS-0402")
        with self.assertRaises(busway.SettingError):
            puller.recv(float("nan"))
        self.assertEqual(puller.recv_many(timeout=0.01), [])
        for call in ("puller.recv()", "puller.recv_many()", "next(iter(puller))", "pusher.wait_for_pullers(9)"):
            script = f"""
with busway.Bus("interrupted") as bus:
    puller, pusher = bus.puller("x", ack=5), bus.pusher("y")
    try:
        print("waits", flush=True)
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
            with Child(script) as child:
                self.assertEqual(child.hear(), "waits")
                child.sleeps()
                child.process.send_signal(signal.SIGINT)
                self.assertEqual(child.hear(), "interrupted", call)
                self.assertEqual(child.process.wait(PATIENCE), 0)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(puller.recv), pool.submit(puller.recv_many)]
            iterating = pool.submit(list, puller)
            while not all(call.running() or call.done() for call in waiting):
                pass
            self.assertEqual(puller.pushers, 0)
            puller.close()
            self.assertEqual(iterating.result(PATIENCE), [])
            for call in waiting:
                self.assertIsInstance(call.exception(PATIENCE), busway.Closed)

    def test_a_pusher_without_room_says_so_and_does_not_hold_the_interpreter(self):
        puller = self.bus.puller("x", ack=PATIENCE)
        pusher = self.bus.pusher("x", slots_max=32, max_wait=PATIENCE)
        with self.assertRaises(busway.Full):
            for _ in range(100):
                pusher.try_send(b"fill")
        with self.assertRaises(busway.TimedOut):
            pusher.send(b"no time", timeout=0.01)
        with ThreadPoolExecutor(2) as pool:
            waiting = pool.submit(pusher.send, b"last")
            self.assertFalse(waiting.done())
            taken = []
            while not taken or taken[-1] != b"last":
                with puller.recv(PATIENCE) as task:
                    taken.append(bytes(task))
            self.assertGreaterEqual(waiting.result(PATIENCE).sequence, 33)
        pusher.flush(PATIENCE)
        self.assertEqual(pusher.account()["dropped"], {})

    def test_memory_is_flat_over_a_hundred_thousand_tasks(self):
        pusher, puller = self.bus.pusher("x"), self.bus.puller("x", group="many", ack=PATIENCE)

        def work(rounds):
            for _ in range(rounds):
                for number in range(50):
                    pusher.send(b"x" * (20 if number % 2 else 2000))
                for task in puller.recv_many(25, PATIENCE):
                    task.ack()
                taken = 0
                while taken < 25:
                    with puller.recv(PATIENCE):
                        taken += 1

        work(200)
        gc.collect()
        before = resident()
        work(1800)
        gc.collect()
        grown = resident() - before
        self.assertLess(grown, 8 << 20)
        self.assertEqual(self.bus.held, 0)
        self.evidence(tasks=100_000, grown_bytes=grown)

    def test_a_loop_pulls_work_and_a_receive_that_is_cancelled_keeps_none(self):
        async def main():
            async with aio.Bus("work") as bus, bus.pusher("x") as pusher:
                async with bus.puller("x", group="loop", ack=PATIENCE) as puller:
                    self.assertEqual(await pusher.wait_for_pullers(1, PATIENCE), 1)
                    handled = []
                    for number in range(300):
                        waiting = asyncio.create_task(puller.recv())
                        for _ in range(number % 3):
                            await asyncio.sleep(0)
                        await pusher.send(number.to_bytes(4, "big"))
                        for _ in range(number % 5):
                            await asyncio.sleep(0)
                        waiting.cancel()
                        try:
                            task = await waiting
                        except asyncio.CancelledError:
                            task = await asyncio.wait_for(puller.recv(), PATIENCE)
                        with task:
                            handled.append(int.from_bytes(task.data, "big"))
                    self.assertEqual(handled, list(range(300)))
                    for number in range(1000):
                        await pusher.send(number.to_bytes(4, "big"))
                    taken = 0
                    async for batch in puller.batches(100):
                        for task in batch:
                            task.ack()
                        taken += len(batch)
                        if taken == 1000:
                            break
                    await pusher.flush(PATIENCE)
                    waiting = [asyncio.create_task(puller.recv()) for _ in range(3)]
                    await asyncio.sleep(0)
                ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE)
                self.assertEqual({type(error) for error in ended}, {busway.Closed})
                return pusher.pusher.account()

        account = asyncio.run(main())
        self.assertEqual((account["sent"], account["delivered"], account["dropped"]), (1300, 1300, {}))

    def test_a_loop_that_waits_notices_what_others_have_had_for_too_long(self):
        async def main():
            async with aio.Bus("work") as bus, bus.pusher("x") as pusher:
                # What is given must not be too late before the other is there, nor before it says that it is done.
                lazy = await bus.puller("x", group="loop", ack=2)
                await pusher.send(b"work")
                kept = await lazy.recv()
                async with bus.puller("x", group="loop", ack=2) as eager:
                    waiting = asyncio.create_task(eager.recv())
                    await asyncio.sleep(0)
                    # What would wake it otherwise is the beat of this process, now and then.
                    self.assertIsNotNone(eager._timer, "it looks by itself")
                    task = await asyncio.wait_for(waiting, PATIENCE)
                    self.assertEqual((bytes(task), task.deliveries), (b"work", 2))
                    task.ack()
                with self.assertRaises(busway.TooLate):
                    kept.ack()
                await lazy.close()

        asyncio.run(main())

    def test_loops_in_threads_share_work(self):
        pusher = self.bus.pusher("x", max_wait=PATIENCE)
        started = threading.Barrier(4)

        async def loop():
            done = 0
            async with aio.Bus("work") as bus, bus.puller("x", group="loops", ack=PATIENCE) as puller:
                await asyncio.to_thread(started.wait, PATIENCE)
                async for task in puller:
                    with task:
                        if task == b"stop":
                            return done
                    done += 1

        with ThreadPoolExecutor(3) as pool:
            loops = [pool.submit(asyncio.run, loop()) for _ in range(3)]
            started.wait(PATIENCE)
            for number in range(3000):
                pusher.send(number.to_bytes(4, "big"))
            pusher.flush(PATIENCE)
            left = set(loops)
            while left:
                pusher.send(b"stop")
                pusher.flush(PATIENCE)
                while not any(call.done() for call in left):
                    os.sched_yield()
                left = {call for call in left if not call.done()}
            shares = [call.result(PATIENCE) for call in loops]
        self.assertEqual(sum(shares), 3000)
        self.evidence(tasks=3000, shares=shares)

    def full_behind_one(self, takes):
        """What `takes` of one puller is not over, and the ring is full behind it; others have done the rest."""
        pusher, other = self.bus.pusher("x", slots_max=32), self.bus.puller("x", group="kept")
        pusher.send(b"kept")
        kept = takes()
        sent = 1
        with self.assertRaises(busway.Full):
            while True:
                pusher.try_send(b"other")
                sent += 1
                self.assertEqual(bytes(other.recv(PATIENCE)), b"other")
        other.close()
        return pusher, kept, sent

    def test_a_task_that_stands_in_a_variable_does_not_hold_up_who_waits_for_the_next(self):
        puller = self.bus.puller("x", group="kept")
        takes = {
            "recv": lambda: puller.recv(PATIENCE),
            "next": lambda: next(puller),
            "recv_many": lambda: puller.recv_many(1, PATIENCE)[0],
        }
        for name, take in takes.items():
            pusher, kept, sent = self.full_behind_one(take)
            with ThreadPoolExecutor(1) as pool:
                self.assertFalse(kept.done, name)
                sending = pool.submit(pusher.send, b"next", PATIENCE)
                self.assertEqual(bytes(take()), b"next", name)
                self.assertEqual(sending.result(PATIENCE).sequence, sent + 1)
            self.assertTrue(kept.done, name)
            self.assertEqual(bytes(kept), b"kept")
            # What another thread has in hand is not over.
            pusher.send(b"last")
            last = take()
            with ThreadPoolExecutor(1) as pool, self.assertRaises(busway.TimedOut):
                pool.submit(puller.recv, 0).result(PATIENCE)
            self.assertFalse(last.done)
            last.ack()
            pusher.flush(PATIENCE)
            self.assertEqual(pusher.account()["dropped"], {}, name)
            pusher.close()

    def test_a_loop_that_keeps_a_task_in_a_variable_gets_the_next(self):
        async def main():
            async with aio.Bus("work") as bus, bus.puller("x", group="kept") as puller:

                async def waits():
                    return await asyncio.wait_for(puller.recv(), PATIENCE)

                for take in (puller.recv, waits, lambda: anext(aiter(puller))):
                    pusher = self.bus.pusher("x", slots_max=32)
                    pusher.send(b"kept")
                    kept = await take()
                    other = await bus.puller("x", group="kept")
                    with self.assertRaises(busway.Full):
                        while True:
                            pusher.try_send(b"other")
                            self.assertEqual(bytes(await other.recv()), b"other")
                    await other.close()
                    self.assertFalse(kept.done)
                    sending = asyncio.create_task(asyncio.to_thread(pusher.send, b"next", PATIENCE))
                    async with asyncio.timeout(PATIENCE):
                        self.assertEqual(bytes(await take()), b"next")
                    await sending
                    self.assertEqual((kept.done, bytes(kept)), (True, b"kept"))
                    pusher.close()

        asyncio.run(main())

    def test_a_puller_that_acknowledges_otherwise_than_its_group_is_told(self):
        pusher, first = self.bus.pusher("x"), self.bus.puller("x")
        pusher.wait_for_pullers(1, PATIENCE)
        self.assertEqual(first.unread(), [])
        other = self.bus.puller("x", ack=30)
        (unread,) = other.unread()
        self.assertEqual((unread["topic"], unread["code"], unread["pid"]), ("x", "BUS-0309", os.getpid()))
        pusher.send(b"work")
        with self.assertRaises(busway.TimedOut) as raised:
            other.recv(0)
        self.assertIn("cannot be pulled: " + unread["cause"], raised.exception.cause)
        self.assertEqual(bytes(first.recv(PATIENCE)), b"work")
        self.evidence(told=unread["cause"].replace(" ", "_"))
