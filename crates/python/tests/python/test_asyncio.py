"""The same in an event loop."""

import asyncio
import gc
import os
import select
import threading

import busway
from busway import aio
from stage import PATIENCE, Child, Claims


class Asyncio(Claims):
    def test_a_loop_receives_while_it_does_other_things(self):
        script = """
with busway.Bus("asyncio") as bus, bus.publisher("x.y") as publisher:
    publisher.wait_for_subscribers(1, PATIENCE)
    for number in range(3000):
        publisher.send(number.to_bytes(4, "big") * (10 if number % 2 else 100))
    publisher.flush(PATIENCE)
"""
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def main():
            async with aio.Bus("asyncio") as bus, bus.subscriber("x.*", policy="block") as subscriber:
                other = asyncio.create_task(turn())
                numbers = []
                with Child(script) as child:
                    async for sample in subscriber:
                        numbers.append(int.from_bytes(sample.data[:4], "big"))
                        if len(numbers) == 3000:
                            break
                    self.assertEqual(await asyncio.to_thread(child.process.wait, PATIENCE), 0)
                other.cancel()
                return numbers

        self.assertEqual(asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE)), list(range(3000)))
        self.assertGreater(turns, 3)
        self.evidence(messages=3000, turns_of_another_task=turns)

    def test_a_loop_sends_a_list_and_goes_on_while_there_is_no_room(self):
        sent = [b"%d" % number for number in range(500)]

        async def main():
            async with aio.Bus("asyncio") as bus:
                publisher = await bus.publisher("x", slots_max=32, max_wait=PATIENCE)
                subscriber = await bus.subscriber("x", policy="block")
                await publisher.wait_for_subscribers(1, PATIENCE)
                many, got = asyncio.create_task(publisher.send_many(sent, PATIENCE)), []
                # Nobody reads before this loop has its turn.
                while len(got) < len(sent):
                    got += [bytes(sample) for sample in await subscriber.recv_many()]
                self.assertEqual((await many, got), (len(sent), sent))
                with self.assertRaises(busway.TimedOut) as told:
                    await publisher.send_many(sent, 0.05)
                self.assertEqual(told.exception.sent, 32)

        asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))

    def test_a_loop_is_woken_once_for_whatever_has_come(self):
        async def main():
            async with aio.Bus("asyncio") as bus:
                subscriber = await bus.subscriber("x")
                rung = 0
                tell = subscriber._rung

                def count():
                    nonlocal rung
                    rung += 1
                    tell()

                subscriber._rung = count
                publisher = await bus.publisher("x")
                taken = 0
                for _ in range(20):
                    waiting = asyncio.create_task(subscriber.recv_many(100))
                    await asyncio.sleep(0)
                    # The loop stands still meanwhile.
                    for _ in range(100):
                        publisher.publisher.send(b"one of a hundred")
                    taken += len(await asyncio.wait_for(waiting, PATIENCE))
                self.assertEqual(taken, 2000)
                return rung

        rung = asyncio.run(main())
        self.assertGreaterEqual(rung, 1)
        # Once for each hundred, and now and then for news that is no message.
        self.assertLessEqual(rung, 60)
        self.evidence(messages=2000, wake_ups=rung)

    def test_a_loop_that_receives_much_is_not_woken_for_it(self):
        rounds = 500

        async def main():
            async with aio.Bus("asyncio") as bus:
                subscriber = await bus.subscriber("x", policy="block")
                publisher = await bus.publisher("x")
                await publisher.wait_for_subscribers(1, PATIENCE)
                waits, wait = 0, subscriber._wait_for_news

                async def news(loop):
                    nonlocal waits
                    waits += 1
                    await wait(loop)

                subscriber._wait_for_news = news

                async def send():
                    for _ in range(rounds):
                        await publisher.send_many([b"1", b"2"])
                        await asyncio.sleep(0)

                sends, got = asyncio.create_task(send()), 0
                while got < 2 * rounds:
                    got += len(await subscriber.recv_many())
                await sends
                much = waits
                # And where nothing comes it does not go on looking.
                idle, turns = asyncio.create_task(subscriber.recv_many()), 0
                while waits == much or turns < 1000:
                    await asyncio.sleep(0)
                    turns += waits > much
                idle.cancel()
                return much, waits - much

        much, idle = asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))
        self.assertLessEqual(much, rounds // 50)
        self.assertEqual(idle, 1)
        self.evidence(rounds=rounds, waits=much, waits_of_an_idle_loop=idle)

    def test_a_receive_that_is_cancelled_has_taken_nothing(self):
        async def main():
            async with aio.Bus("asyncio") as bus:
                subscriber, publisher = await bus.subscriber("x"), await bus.publisher("x")
                received = []
                for number in range(300):
                    waiting = asyncio.create_task(subscriber.recv())
                    for _ in range(number % 3):
                        await asyncio.sleep(0)
                    await publisher.send(number.to_bytes(4, "big"))
                    for _ in range(number % 5):
                        await asyncio.sleep(0)
                    waiting.cancel()
                    try:
                        received.append(await waiting)
                    except asyncio.CancelledError:
                        received.append(await asyncio.wait_for(subscriber.recv(), PATIENCE))
                return [int.from_bytes(bytes(sample), "big") for sample in received]

        self.assertEqual(asyncio.run(main()), list(range(300)))

        async def in_turn():
            # Also where many were taken, and the next receive gives the loop its turn first.
            async with aio.Bus("asyncio") as bus:
                subscriber, publisher = await bus.subscriber("x"), await bus.publisher("x")
                for number in range(aio.TURN + 2):
                    await publisher.send(number.to_bytes(4, "big"))
                received = [await subscriber.recv() for _ in range(aio.TURN)]
                waiting = asyncio.create_task(subscriber.recv())
                await asyncio.sleep(0)
                waiting.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await waiting
                return received[-1].sequence, (await subscriber.recv()).sequence

        self.assertEqual(asyncio.run(in_turn()), (aio.TURN, aio.TURN + 1))

    def test_a_flood_does_not_stop_the_loop(self):
        async def main():
            async with aio.Bus("asyncio") as bus:
                subscriber, publisher = await bus.subscriber("x"), await bus.publisher("x", slots_max=16384)
                for _ in range(10_000):
                    publisher.publisher.send(b"there already")
                turns = 0

                async def turn():
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                other = asyncio.create_task(turn())
                taken = 0
                async for _ in subscriber:
                    taken += 1
                    if taken == 10_000:
                        break
                other.cancel()
                return turns

        self.assertGreaterEqual(asyncio.run(main()), 10_000 // aio.TURN - 1)

    def test_a_publisher_that_must_wait_does_not_hold_the_loop_up(self):
        async def main():
            async with aio.Bus("asyncio") as bus:
                subscriber = await bus.subscriber("x", policy="block")
                publisher = await bus.publisher("x", slots_max=32, max_wait=PATIENCE)

                async def send():
                    for number in range(1000):
                        await publisher.send(number.to_bytes(4, "big"))

                sending = asyncio.create_task(send())
                received = [await asyncio.wait_for(subscriber.recv(), PATIENCE) for _ in range(1000)]
                await sending
                await publisher.flush(PATIENCE)
                self.assertEqual(await publisher.wait_for_subscribers(1, PATIENCE), 1)
                return [int.from_bytes(bytes(sample), "big") for sample in received]

        self.assertEqual(asyncio.run(main()), list(range(1000)))

    def test_a_task_that_is_quicker_does_not_take_the_wake_up_of_another(self):
        class Racing:
            """The subscriber, where something happens just after a task has found nothing."""

            def __init__(self, native, happens):
                self.native, self.happens = native, happens

            def __getattr__(self, name):
                return getattr(self.native, name)

            def try_recv(self):
                if self.happens is not None:
                    happens, self.happens = self.happens, None
                    happens()
                    if not select.select([self.native._fileno()], [], [], PATIENCE)[0]:
                        raise TimeoutError("nothing rang")
                    return None
                return self.native.try_recv()

        async def main(closes):
            async with aio.Bus("asyncio") as bus:
                subscriber, publisher = await bus.subscriber("x"), await bus.publisher("x")
                native = subscriber.subscriber

                def happens():
                    if closes:
                        native.close()
                    else:
                        publisher.publisher.send(b"one")
                        publisher.publisher.send(b"two")

                sleeper = asyncio.create_task(subscriber.recv())
                await asyncio.sleep(0)
                subscriber._port = Racing(native, happens)
                quick = (await asyncio.gather(subscriber.recv(), return_exceptions=True))[0]
                return [quick, *await asyncio.wait_for(asyncio.gather(sleeper, return_exceptions=True), PATIENCE)]

        self.assertEqual([bytes(sample) for sample in asyncio.run(main(False))], [b"one", b"two"])
        self.assertEqual([type(error) for error in asyncio.run(main(True))], [busway.Closed] * 2)

    def test_a_send_that_is_cancelled_is_not_sent(self):
        async def main(turns):
            async with aio.Bus("asyncio") as bus:
                subscriber = await bus.subscriber("x", policy="block")
                publisher = await bus.publisher("x", slots_max=32, max_wait=PATIENCE)
                sent = publisher.publisher.try_send_many([b"there"] * 100)
                sends = publisher.send(b"cancelled"), publisher.send_many([b"cancelled"] * 3), publisher.send_json("cancelled")
                sending = [asyncio.create_task(send) for send in sends]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in sending:
                    task.cancel()
                ended = await asyncio.gather(*sending, return_exceptions=True)
                self.assertEqual([type(error) for error in ended], [asyncio.CancelledError] * 3)
                for _ in range(sent):
                    self.assertEqual(bytes(await subscriber.recv()), b"there")
                # A thread that waits for room would have it now.
                async with asyncio.timeout(PATIENCE):
                    self.assertEqual((await publisher.send(b"last")).sequence, sent + 1)
                    self.assertEqual(bytes(await subscriber.recv()), b"last")
                return sent

        shown = [asyncio.run(main(turns)) for turns in (0, 1, 2, 3, 50)]
        self.evidence(cancelled=3 * len(shown), sent=0)

    def test_who_waits_for_room_leaves_the_threads_to_who_makes_it(self):
        async def main():
            async with aio.Bus("asyncio") as bus:
                pusher = await bus.pusher("x", slots_max=32, max_wait=PATIENCE)
                there = pusher.pusher.try_send_many([b"there"] * 100)
                # More than the loop has threads, of which some puller needs one to be opened.
                waiting = [asyncio.create_task(pusher.send(b"%d" % number)) for number in range(100)]
                for _ in range(10):
                    await asyncio.sleep(0)
                async with asyncio.timeout(PATIENCE / 2), bus.puller("x") as puller:
                    taken = [bytes(await puller.recv()) for _ in range(there + len(waiting))]
                await asyncio.gather(*waiting)
                self.assertEqual(sorted(taken), sorted([b"there"] * there + [b"%d" % number for number in range(100)]))
                return pusher.pusher.account()["dropped"]

        self.assertEqual(asyncio.run(main()), {})

    def test_a_send_that_waits_says_when_its_time_or_that_of_its_port_is_over(self):
        async def main():
            async with aio.Bus("asyncio") as bus:
                pusher = await bus.pusher("patient", slots_max=32, max_wait=PATIENCE)
                pusher.pusher.try_send_many([b"there"] * 100)
                for timeout, error in ((0.01, busway.TimedOut), (-1, busway.TimedOut), (float("nan"), busway.SettingError)):
                    with self.assertRaises(error):
                        await pusher.send(b"late", timeout)
                pusher = await bus.pusher("x", slots_max=32, max_wait=0.05)
                pusher.pusher.try_send_many([b"there"] * 100)
                with self.assertRaises(busway.Full) as raised:
                    async with asyncio.timeout(PATIENCE):
                        await pusher.send(b"late")
                self.assertEqual(raised.exception.code, "BUS-0401")
                publisher, lazy = await bus.publisher("y", slots_max=32, max_wait=0.05), await bus.subscriber("y", policy="block")
                publisher.publisher.try_send_many([b"there"] * 100)
                async with asyncio.timeout(PATIENCE):
                    self.assertEqual((await publisher.send(b"goes on")).stalled, 1)
                    self.assertEqual(await publisher.send_many([b"more"] * 50), 50)
                await lazy.close()

        asyncio.run(main())

    def test_a_publisher_s_wait_that_is_cancelled_ends(self):
        script = """
import asyncio
from busway import aio

async def main():
    bus = await aio.Bus("asyncio")
    lonely, publisher = await bus.publisher("lonely"), await bus.publisher("x", max_wait=1000)
    subscriber = await bus.subscriber("x", policy="block")
    await publisher.send(b"nobody reads it")
    # Also once its thread is at it, however late that begins.
    for turns in range(1, 50):
        for wait in lonely.wait_for_subscribers(), publisher.flush(None):
            waiting = asyncio.create_task(wait)
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
    assert await publisher.wait_for_subscribers(1, PATIENCE) == 1
    for wait in lonely.wait_for_subscribers(1, 0.15), publisher.flush(0.15):
        try:
            await wait
        except busway.TimedOut:
            print("timed out", end=" ")
    try:
        await lonely.wait_for_subscribers(1, float("nan"))
    except busway.SettingError:
        print("refused", end=" ")

# It returns only when no thread works for it.
asyncio.run(main())
print("returned")
"""
        with Child(script) as child:
            self.assertEqual(child.hear(), "timed out timed out refused returned")

    def test_each_loop_has_its_turn_and_two_at_a_time_are_refused(self):
        bus = busway.Bus("asyncio")
        self.addCleanup(bus.close)
        native, publisher = bus.subscriber("x"), bus.publisher("x")
        subscriber = aio.Subscriber(lambda: native)

        async def one():
            await subscriber
            waiting = asyncio.create_task(subscriber.recv())
            await asyncio.sleep(0)
            publisher.send(b"for this loop")
            return bytes(await asyncio.wait_for(waiting, PATIENCE))

        for _ in range(3):
            self.assertEqual(asyncio.run(one()), b"for this loop")

        async def both():
            waiting = asyncio.create_task(subscriber.recv())
            await asyncio.sleep(0)
            errors = []

            def elsewhere():
                try:
                    asyncio.run(subscriber.recv())
                except RuntimeError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join, PATIENCE)
            self.assertEqual(errors, ["the subscriber is used by another event loop"])
            waiting.cancel()

        asyncio.run(both())

    def test_closing_ends_the_tasks_that_wait(self):
        async def main(what):
            bus = await aio.Bus("asyncio")
            subscriber = await bus.subscriber("x")
            waiting = [asyncio.create_task(subscriber.recv()) for _ in range(3)]

            async def iterate():
                return [sample async for sample in subscriber]

            async def batch():
                return [sample async for sample in subscriber.batches()]

            ending = [asyncio.create_task(iterate()), asyncio.create_task(batch())]
            await asyncio.sleep(0)
            await (bus if what == "bus" else subscriber).close()
            ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE)
            self.assertEqual({type(error) for error in ended}, {busway.Closed})
            self.assertEqual(await asyncio.wait_for(asyncio.gather(*ending), PATIENCE), [[], []])
            await bus.close()

        for what in ("bus", "subscriber"):
            asyncio.run(main(what))

    def test_what_is_closed_leaves_nothing_in_the_loop(self):
        def descriptors():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        async def main():
            async with aio.Bus("asyncio") as bus, bus.publisher("x") as publisher:

                async def once():
                    async with bus.subscriber("x") as subscriber:
                        waiting = [asyncio.create_task(subscriber.recv()) for _ in range(2)]
                        await asyncio.sleep(0)
                        await publisher.send(b"for one of them")
                        done, others = await asyncio.wait(waiting, timeout=PATIENCE, return_when="FIRST_COMPLETED")
                        self.assertEqual((len(done), len(others)), (1, 1))
                    self.assertEqual(len((await asyncio.wait(others, timeout=PATIENCE))[1]), 0)
                    self.assertTrue(all(isinstance(task.exception(), busway.Closed) for task in others))

                await once()
                before = descriptors()
                for _ in range(50):
                    await once()
                self.assertLess(descriptors(), before + 25, "half of what fifty would leave")

        asyncio.run(main())
