"""The limits of `message_bus` that its configuration sets: each with values on both sides of its default, and with 0."""

import asyncio
import logging
import time
from unittest import mock

import busway
from bus_stage import BusClaims, Gate
from message_bus import DEFAULT_CONFIG, MessageBus
from message_bus._route import PATIENT
from stage import PATIENCE

#: Longer than the default times of sending, which are a second.
LONGER = 1.5
#: Who answers is waited for until it is there, however slow this machine is.
COMES = {"late_join_ms": 1000 * PATIENCE}


class ResultBus(MessageBus):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.results = []

    async def _handle_pulled_message(self, message):
        self.results.append(message["data"])


class Limits(BusClaims):
    async def passes(self, seconds, *tasks):
        """Lets a time pass that is longer than a default, while tasks must still wait."""
        done, _ = await asyncio.wait(tasks, timeout=seconds)
        self.assertEqual(done, set())

    def test_the_eleventh_result_meets_a_limit_of_ten(self):
        async def main(hwm):
            async with self.bus({"hwm_outbound": hwm, "push_send_timeout": 0}) as bus, self.bus(kind=ResultBus) as collector:
                for number in range(hwm):
                    await bus.push_result(number)
                metrics = bus.get_metrics()
                self.assertEqual((metrics["messages_sent"], metrics["backpressure_events"]), (hwm, 0))
                for _ in range(3):
                    await bus.push_result("too many")
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["messages_sent"], metrics["backpressure_events"]), (hwm, 3))
                self.assertEqual(metrics["causes"]["outbound_dropped.timeout"], 3)
                asyncio.create_task(collector.pull_results_loop())
                await self.until(lambda: len(collector.results) == hwm)
                # As many again, whether they go one by one or many in a turn of the loop.
                for number in range(hwm, 2 * hwm):
                    self.assertIsNone(await bus.push_result(number))
                    await self.until(lambda: len(collector.results) > number)
                self.assertEqual(collector.results, list(range(2 * hwm)))

        with self.assertLogs("message_bus", logging.WARNING):
            for hwm in (1, 10, 33, 100):
                self.run_async(main(hwm))

    def test_the_eleventh_event_meets_a_limit_of_ten(self):
        async def main(hwm):
            async with self.bus({"hwm_outbound": hwm, "pub_send_timeout": PATIENCE}) as bus:
                await bus.ready("x", timeout=0)
                slow = bus._core.bus().subscriber("port.5555.x", policy="block")
                self.assertTrue(await bus.ready("x", timeout=PATIENCE))
                for number in range(hwm):
                    await bus.publish("x", number)
                metrics = bus.get_metrics()
                self.assertEqual((metrics["messages_sent"], metrics["backpressure_events"]), (hwm, 0))
                for read in (1, hwm):
                    waits = [asyncio.create_task(bus.publish("x", "waits")) for _ in range(read)]
                    await self.until(lambda: bus.get_metrics()["backpressure_events"] > 0, "it meets the limit")
                    self.assertFalse(any(task.done() for task in waits), "and not one of them has room")
                    for _ in range(read):
                        slow.recv(PATIENCE).release()
                    await asyncio.wait_for(asyncio.gather(*waits), PATIENCE)
                    bus.metrics.backpressure_events = 0
                self.assertEqual(bus.get_metrics()["outbound_dropped"], 0)
                self.assertEqual(bus.get_metrics(extended=True)["in_flight"], hwm)
                slow.close()

        for hwm in (1, 10, 33, 100):
            self.run_async(main(hwm))
        self.evidence(limits=4)

    def test_a_limit_of_0_is_the_most_that_a_queue_may_have(self):
        more = DEFAULT_CONFIG["hwm_outbound"] + 100

        async def main():
            config = {"hwm_outbound": 0, "push_send_timeout": 0, "pub_send_timeout": PATIENCE}
            async with self.bus(config) as bus, self.bus({"hwm_inbound": 0}) as slow:
                stuck = Gate()
                slow.register_handler("x", stuck)
                await self.listens(slow)
                await bus.ready("x")
                for number in range(more):
                    await bus.push_result(number)
                    await bus.publish("x", number)
                await self.until(lambda: slow.get_metrics()["messages_received"] == more)
                self.assertEqual(slow.get_metrics(extended=True)["inbound_waiting"], more)
                metrics = bus.get_metrics()
                self.assertEqual([metrics[name] for name in ("messages_sent", "backpressure_events", "outbound_dropped")], [2 * more, 0, 0])
                stuck.open.set()

        self.run_async(main())

    def test_what_is_too_large_is_dropped_by_that_name(self):
        async def main():
            async with self.bus({"breaker": "strict"}) as bus:
                await bus.publish("x", 0)
                route = bus._publishing.routes[5555, "x"]
                native = route.native

                class Small:
                    """As a port whose memory is shorter than a message is."""

                    def __getattr__(self, name):
                        return getattr(native, name)

                    def try_send(self, payload, **beside):
                        raise busway.TooLarge(107, "the message is too large", "x")

                route.native = Small()
                self.assertIsNone(await bus.publish("x", "large"))
                self.assertEqual((await bus.publish_ex("x", "large")).cause, "too_large")
                route.native = native
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["causes"]["outbound_dropped.too_large"], metrics["outbound_dropped"]), (2, 2))
                # The endpoint is well all the same.
                self.assertTrue((await bus.publish_ex("x", "small")).accepted)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_who_pulls_and_who_answers_has_as_much_in_hand_as_was_said(self):
        class Slow(ResultBus):
            async def _handle_pulled_message(self, message):
                if message["data"] == 100:
                    await self.stuck.wait()
                await super()._handle_pulled_message(message)

            async def _handle_request(self, request):
                self.inside += 1
                await self.stuck.wait()
                return request["data"]

        async def main(hwm):
            async with self.bus(COMES) as bus, self.bus({"hwm_inbound": hwm}, kind=Slow) as slow:
                slow.stuck, slow.inside = asyncio.Event(), 0
                for number in range(400):
                    await bus.push_result(number)
                loops = [asyncio.create_task(slow.pull_results_loop()), asyncio.create_task(slow.response_loop())]
                await self.until(lambda: len(slow.results) == 100, "the results before the one that takes long")
                asking = [asyncio.create_task(bus.request(number, timeout=PATIENCE)) for number in range(2 * hwm)]
                await self.until(lambda: slow.inside >= hwm)
                for _ in range(300):
                    await asyncio.sleep(0)
                inside, waiting = slow.inside, slow.get_metrics(extended=True)["inbound_waiting"]
                slow.stuck.set()
                self.assertEqual(await asyncio.gather(*asking), list(range(2 * hwm)))
                await self.until(lambda: len(slow.results) == 400)
                del loops
                return inside, waiting - inside

        # However slow this machine is, results count as quick.
        with mock.patch("message_bus._pull.SLOW", 1000 * PATIENCE):
            inside, pulled = self.run_async(main(3))
            self.assertEqual((inside, pulled in (1, 2, 3)), (3, True), pulled)
            inside, more = self.run_async(main(50))
            self.assertEqual((inside, 3 < more <= 50), (50, True), more)
        self.evidence(limits="3,50", results=f"{pulled},{more}")

    def test_who_pushes_waits_as_long_as_was_said_and_not_at_all_where_that_is_0(self):
        async def main():
            config = {"hwm_outbound": 10, "push_send_timeout": PATIENCE}
            async with self.bus(config) as bus, self.bus(kind=ResultBus) as collector:
                for number in range(10):
                    await bus.push_result(number)
                waits = asyncio.create_task(bus.push_result(10))
                await self.passes(LONGER, waits)
                asyncio.create_task(collector.pull_results_loop())
                await waits
                await self.until(lambda: len(collector.results) == 11)
                self.assertEqual(bus.get_metrics()["outbound_dropped"], 0)
            async with self.bus({"hwm_outbound": 10, "push_send_timeout": 0}) as bus:
                # So many would take a minute.
                for number in range(70):
                    await bus.push_result(number)
                self.assertEqual(bus.get_metrics()["outbound_dropped"], 60)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_who_publishes_waits_as_long_as_was_said_and_not_at_all_where_that_is_0(self):
        async def main(timeout):
            stuck = Gate()
            async with self.bus({"hwm_outbound": 32, "pub_send_timeout": timeout}) as bus, self.bus({"hwm_inbound": 1}) as slow:
                slow.register_handler("x", stuck)
                await self.listens(slow)
                await bus.ready("x")

                async def publishes():
                    for number in range(100):
                        await bus.publish("x", number)

                publishing = asyncio.create_task(publishes())
                if timeout:
                    await self.until(lambda: bus.get_metrics()["backpressure_events"] >= 1)
                    await self.passes(LONGER, publishing)
                    stuck.open.set()
                await publishing
                await self.until(lambda: bus.get_metrics()["messages_sent"] == 100)
                stuck.open.set()
                await self.until(lambda: stuck.handled and stuck.handled[-1] == 99)
                metrics = bus.get_metrics()
                return metrics["backpressure_events"] > 0, metrics["outbound_dropped"], len(stuck.handled)

        self.assertEqual(self.run_async(main(PATIENCE)), (True, 0, 100))
        waited, lost, handled = self.run_async(main(0))
        self.assertFalse(waited)
        self.assertEqual(lost + handled, 100)
        self.assertGreater(lost, 0)

    def test_an_answer_has_the_time_that_was_said_and_hardly_any_where_that_is_0(self):
        takes = {}

        async def slowly(responder, request, data):
            await asyncio.sleep(takes[data])
            request.reply(data)

        class Echo(MessageBus):
            async def _handle_request(self, request):
                return request["data"]

        async def main(timeout, seconds, port):
            async with self.bus({"rep_send_timeout": timeout}, kind=Echo) as echo, self.bus(COMES) as bus:
                takes[str(port).encode()] = seconds
                asyncio.create_task(echo.response_loop(port))
                answer = await bus.request(port, port, timeout=PATIENCE)
                return answer == port, echo.get_metrics()["outbound_dropped"]

        async def all_of_them():
            default = DEFAULT_CONFIG["rep_send_timeout"]
            return await asyncio.gather(main(PATIENCE, default + 0.5, 1), main(0.1, default - 0.5, 2), main(0, 1.0, 3))

        with mock.patch("busway.aio.Responder.reply", slowly), self.assertLogs("message_bus", logging.WARNING):
            self.assertEqual(self.run_async(all_of_them()), [(True, 0), (False, 1), (False, 1)])

    def test_what_is_published_in_one_turn_goes_as_one_batch_and_the_first_at_once(self):
        calls = []

        async def main():
            async with self.bus() as bus, self.bus() as other:
                seen = []

                async def handler(message):
                    seen.append(message["data"])

                other.register_handler("x", handler)
                await self.listens(other)
                await bus.ready("x")
                await bus.publish("x", 0)
                await self.until(lambda: seen == [0])
                route = bus._publishing.routes[5555, "x"]
                native = route.native

                class Counts:
                    def __getattr__(self, name):
                        calls.append(name)
                        return getattr(native, name)

                route.native = Counts()
                for number in range(1, 41):
                    await bus.publish("x", number)
                # Nothing had its turn yet, and the first is on its way.
                self.assertEqual([name for name in calls if name.startswith("try")], ["try_send"])
                await asyncio.sleep(0)
                self.assertEqual([name for name in calls if name.startswith("try")], ["try_send", "try_send_many"])
                await bus.publish("x", 41)
                await bus.publish("x", 42)
                # What is counted is what was sent.
                self.assertEqual(bus.get_metrics()["messages_sent"], 43)
                self.assertTrue((await bus.publish_ex("x", 43)).accepted)
                await self.until(lambda: len(seen) == 44)
                self.assertEqual(seen, list(range(44)))
                # What is left for the end of a turn is sent by cleanup.
                for number in range(44, 50):
                    await bus.publish("x", number)
                await bus.cleanup()
                await self.until(lambda: len(seen) == 50)
                self.assertEqual((seen[-1], bus.get_metrics()["messages_sent"]), (49, 50))

        self.run_async(main())

    def test_a_batch_for_which_there_is_no_room_after_all_waits_for_it_in_its_order(self):
        async def main():
            stuck = Gate()
            async with self.bus({"hwm_outbound": 32, "pub_send_timeout": PATIENCE}) as bus, self.bus({"hwm_inbound": 1}) as slow:
                slow.register_handler("x", stuck)
                await self.listens(slow)
                await bus.ready("x")
                await bus.publish("x", 0)
                await self.until(lambda: stuck.inside)
                await bus.publish("x", 1)
                await asyncio.sleep(0)
                # It believes that there is more room than there is, as where another thread has used it.
                bus._publishing.routes[5555, "x"]._credit = 1000
                for number in range(2, 60):
                    await bus.publish("x", number)
                stuck.open.set()
                for number in range(60, 90):
                    await bus.publish("x", number)
                await self.until(lambda: len(stuck.handled) == 90)
                self.assertEqual(stuck.handled, list(range(90)))
                metrics = bus.get_metrics()
                self.assertEqual((metrics["messages_sent"], metrics["outbound_dropped"], metrics["errors"]), (90, 0, 0))

        self.run_async(main())

    async def fills(self, bus, count):
        """Hands in so many results, of which 32 have room, in the belief that all have: as where another thread had the room."""
        await bus.push_result(0)
        await asyncio.sleep(0)
        await bus.push_result(1)
        bus._pushing.routes[5556, ""]._credit = 1000
        for number in range(2, count):
            await bus.push_result(number)
        await asyncio.sleep(0)

    def test_what_a_loop_leaves_unsent_is_sent_by_the_next_or_counted(self):
        config = {"hwm_outbound": 32, "push_send_timeout": PATIENCE, "close_linger_ms": 0, "late_join_ms": 0}

        def first(bus, cancels):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(self.fills(bus, 60))
            if cancels:
                tasks = asyncio.all_tasks(loop)
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(tasks))
            loop.close()

        async def second(bus):
            async with self.bus(kind=ResultBus) as collector:
                asyncio.create_task(collector.pull_results_loop())
                for number in range(60, 70):
                    await bus.push_result(number)
                await self.until(lambda: len(collector.results) == 70)
                await bus.cleanup()
                return collector.results

        for cancels in (True, False):
            bus = MessageBus("x", config)
            first(bus, cancels)
            self.assertEqual(self.run_async(second(bus)), list(range(70)))
            metrics = bus.get_metrics()
            self.assertEqual((metrics["messages_sent"], metrics["outbound_dropped"]), (70, 0))
            bus = MessageBus("x", config)
            first(bus, cancels)
            self.run_async(bus.cleanup())
            metrics = bus.get_metrics(extended=True)
            # 32 were sent, to nobody.
            self.assertEqual((metrics["messages_sent"], metrics["causes"]["outbound_dropped.closed"]), (32, 60))

    def test_what_another_loop_sends_is_not_put_into_the_batch_of_one_that_stands_still(self):
        first, bus, seen = asyncio.new_event_loop(), MessageBus("x"), []

        async def stops():
            for number in range(5):
                await bus.publish("x", number)
                if number < 3:
                    await asyncio.sleep(0)
            # It ends before the end of its turn, with the last in the batch.
            first.stop()

        async def second():
            async with self.bus() as other:
                other.register_handler("x", lambda message: seen.append(message["data"]))
                await self.listens(other)
                await bus.publish("x", 5)
                await self.until(lambda: sorted(seen) == [0, 1, 2, 3, 5])
                await asyncio.to_thread(first.run_until_complete, asyncio.sleep(0))
                await self.until(lambda: sorted(seen) == list(range(6)))
                self.assertEqual(bus.get_metrics()["messages_sent"], 6)
                await bus.cleanup()

        task = first.create_task(stops())
        first.run_forever()
        self.assertTrue(task.done())
        self.run_async(second())
        first.close()

    def test_what_waits_for_room_at_the_end_has_the_linger_and_one_time_for_all(self):
        async def cleaned():
            async with self.bus(kind=ResultBus) as collector:
                bus = MessageBus("x", {"hwm_outbound": 32, "push_send_timeout": PATIENCE, "close_linger_ms": 1000 * PATIENCE})
                await self.fills(bus, 60)
                self.assertEqual(bus.get_metrics()["backpressure_events"], 1)
                cleaning = asyncio.create_task(bus.cleanup())
                for _ in range(10):
                    await asyncio.sleep(0)
                self.assertEqual((bus._core.ending, bus._core.closed), (True, False))
                asyncio.create_task(collector.pull_results_loop())
                await cleaning
                await self.until(lambda: len(collector.results) == 60)
                metrics = bus.get_metrics()
                self.assertEqual((metrics["messages_sent"], metrics["outbound_dropped"]), (60, 0))

        async def late():
            async with self.bus({"hwm_outbound": 32, "push_send_timeout": 1}) as bus:
                loop = asyncio.get_running_loop()
                began = loop.time()
                await self.fills(bus, 60)
                await self.until(lambda: bus.get_metrics()["outbound_dropped"] == 28)
                # Each by itself would take 28 s.
                self.assertLess(loop.time() - began, PATIENCE / 2)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(cleaned())
            self.run_async(late())

    def test_what_comes_after_a_batch_without_room_waits_behind_it(self):
        class Refuses:
            """A port that has no room for batches, so many times."""

            def __init__(self, native, times):
                self._native, self.times = native, times

            def __getattr__(self, name):
                return getattr(self._native, name)

            def try_send_many(self, messages):
                if self.times:
                    self.times -= 1
                    return 0
                return self._native.try_send_many(messages)

        async def main():
            async with self.bus() as bus, self.bus(kind=ResultBus) as collector:
                asyncio.create_task(collector.pull_results_loop())
                for number in range(2):
                    await bus.push_result(number)
                    await asyncio.sleep(0)
                route = bus._pushing.routes[5556, ""]
                route.native = Refuses(route.native, 1)
                for number in range(2, 10):
                    await bus.push_result(number)
                # It is too large to be in a batch, and goes by itself.
                await bus.push_result("x" * (1 << 17))
                for number in range(11, 20):
                    await bus.push_result(number)
                await self.until(lambda: len(collector.results) == 20)
                self.assertEqual(collector.results, [*range(10), "x" * (1 << 17), *range(11, 20)])

        self.run_async(main())

    def test_nothing_overtakes_a_batch_while_another_thread_waits_for_room(self):
        async def others(bus):
            for number in range(100, 140):
                await bus.push_result(number)

        async def main():
            config = {"hwm_outbound": 32, "push_send_timeout": PATIENCE}
            async with self.bus(config) as bus, self.bus(kind=ResultBus) as collector:
                for number in range(2):
                    await bus.push_result(number)
                    await asyncio.sleep(0)
                route = bus._pushing.routes[5556, ""]
                for number in range(2, 10):
                    await bus.push_result(number)
                self.assertEqual(len(route._batch), 7, "in the batch of a turn that has not ended")
                work, until = asyncio.get_running_loop().run_in_executor(None, asyncio.run, others(bus)), time.monotonic() + PATIENCE
                # This turn does not end before the other thread has filled the queue and waits.
                while not route.waiting:
                    self.assertLess(time.monotonic(), until, "the other thread waits")
                last = asyncio.create_task(bus.push_result(10))
                await asyncio.sleep(0)
                asyncio.create_task(collector.pull_results_loop())
                await asyncio.gather(last, work)
                await self.until(lambda: len(collector.results) == 51)
                mine = [number for number in collector.results if number < 100]
                self.assertEqual(mine, list(range(11)), "in the order in which they were handed in")
                self.assertEqual(sorted(collector.results), [*range(11), *range(100, 140)])

        self.run_async(main())

    def test_who_waits_for_room_looks_at_once_for_a_moment_but_not_behind_a_reader_that_was_slow(self):
        async def main():
            async with self.bus({"late_join_ms": 0}) as bus:
                await bus.publish("x", 0)
                route, pauses, slept = bus._publishing.routes[5555, "x"], [], asyncio.sleep

                async def sleep(pause):
                    pauses.append(pause)
                    await slept(0)

                async def waits(failures, brisk):
                    """The pauses of who finds no room so many times."""
                    left = iter(range(failures))

                    def send():
                        if next(left, None) is not None:
                            raise busway.Full(401, "full", "here", "wait")

                    pauses.clear()
                    with mock.patch("asyncio.sleep", sleep), mock.patch("message_bus._route.BRISK", brisk):
                        await route.when_there_is_room(send, PATIENCE)
                    return list(pauses)

                self.assertEqual(await waits(20, PATIENCE), [0.0] * 21)
                for patience in (1, 2, 4, 8, PATIENT, PATIENT):
                    self.assertEqual(await waits(4, 1e-9), [0.0, 0.001, 0.002, 0.004, 0.005])
                    for _ in range(patience):
                        self.assertEqual(await waits(1, PATIENCE), [0.0, 0.001])
                self.assertEqual(await waits(20, PATIENCE), [0.0] * 21)
                self.assertEqual(await waits(1, 1e-9), [0.0, 0.001])
                self.assertEqual([await waits(1, PATIENCE), await waits(1, PATIENCE)], [[0.0, 0.001], [0.0, 0.0]])

        self.run_async(main())
