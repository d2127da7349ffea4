"""What `message_bus` does around a handler: hooks, retries, a breaker, dead letters, and a word about one that is slow."""

import asyncio
import logging
import os
import tempfile
import threading
from collections import Counter
from unittest import mock

import busway
from bus_stage import BusClaims, Gate
from message_bus import MessageBus, Rejected
from message_bus._care import Times
from message_bus._retry import retry_of
from message_bus._route import Route
from stage import PATIENCE


class Both(MessageBus):
    """A bus that answers and pulls, and keeps what it is given."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.results, self.requests = [], []

    async def _handle_pulled_message(self, message):
        self.results.append(message)

    async def _handle_request(self, request):
        self.requests.append(request)
        return "answered"


class Care(BusClaims):
    def test_hooks_see_each_message_in_their_order_and_may_change_or_refuse_it(self):
        async def main():
            order, seen = [], []
            async with self.bus(name="sender") as sender, self.bus(kind=Both) as bus:

                def first(message):
                    order.append("first")
                    message["trace"] = ["first"]

                async def second(message):
                    await asyncio.sleep(0)
                    order.append("second")
                    return {**message, "trace": [*message["trace"], "second"]}

                def refuses(message):
                    if message["data"] == "raised":
                        raise Rejected("not this one")
                    if message["data"] == "broken":
                        raise KeyError("hook")
                    return False if message["data"] == "no" else None

                sender.use(before_send=first)
                sender.use(before_send=second)
                sender.use(before_send=refuses)
                bus.use(after_receive=lambda message: message["trace"].append("third"))

                async def last(message):
                    if message["data"] == "not there":
                        return False
                    message["trace"].append("last")

                bus.use(after_receive=last)
                bus.register_handler("x", seen.append)
                await self.listens(bus)
                asyncio.create_task(bus.pull_results_loop())
                asyncio.create_task(bus.response_loop())
                for data in ("no", "raised", "broken", "not there", "yes"):
                    await sender.publish("x", data)
                    await sender.push_result(data)
                answers = [await sender.request(data) for data in ("no", "raised", "broken", "not there", "yes")]
                await self.until(lambda: seen and bus.results)
                self.assertEqual(order, ["first", "second"] * 15)
                self.assertEqual(answers[:3] + answers[4:], [None, None, None, "answered"])
                self.assertEqual(answers[3]["error"], "Rejected")
                for message in (*seen, *bus.results, *bus.requests):
                    self.assertEqual((message["data"], message["trace"]), ("yes", ["first", "second", "third", "last"]))
                self.assertEqual([len(seen), len(bus.results), len(bus.requests)], [1, 1, 1])
                metrics = sender.get_metrics(extended=True)
                causes = metrics["causes"]
                self.assertEqual((metrics["messages_sent"], metrics["errors"]), (6, 3))
                self.assertEqual((causes["outbound_dropped.rejected"], metrics["outbound_dropped"]), (6, 9))
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["inbound_dropped"], metrics["errors"]), (3, 0))
                self.assertEqual(metrics["causes"]["inbound_dropped.rejected"], 3)
                self.assertEqual((await sender.publish_ex("x", "no")).cause, "rejected")
            async with self.bus({"strict": True}) as strict:
                strict.use(before_send=refuses)
                with self.assertRaises(Rejected):
                    await strict.publish("x", "no")
                with self.assertRaises(TypeError):
                    strict.use(before_send=5)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_a_hook_whose_work_is_cancelled_refuses_that_message_and_stops_nothing(self):
        async def main():
            async with self.bus() as sender, self.bus({"handler_max_concurrency": 2}, kind=Both) as bus:

                async def hook(message):
                    if message["data"] == "cancelled":
                        shared = asyncio.get_running_loop().create_future()
                        shared.cancel()
                        await shared

                seen = []

                async def handler(message):
                    seen.append((message["topic"], message["data"]))

                bus.use(after_receive=hook)
                for topic in ("x", "y", "z"):
                    bus.register_handler(topic, handler)
                await self.listens(bus)
                for topic in ("x", "y"):
                    await sender.publish(topic, "cancelled")
                for number in range(3):
                    for topic in ("x", "y", "z"):
                        await sender.publish(topic, number)
                await self.until(lambda: len(seen) == 9, "what follows is handled")
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["causes"]["errors.hook"], metrics["inbound_dropped"]), (2, 2))
                active = bus._subscribing._dispatcher
                await self.until(lambda: bus._subscribing.waiting == active()._active == 0, "nothing is left in hand")
                asyncio.create_task(bus.pull_results_loop())
                asyncio.create_task(bus.response_loop())
                for data in ("cancelled", "well"):
                    await sender.push_result(data)
                self.assertEqual((await sender.request("cancelled"))["error"], "Rejected")
                self.assertEqual(await sender.request("well"), "answered")
                await self.until(lambda: bus.results)
                self.assertEqual([message["data"] for message in bus.results], ["well"])
                self.assertEqual(bus.get_metrics(extended=True)["causes"]["errors.hook"], 4)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_a_handler_that_fails_is_tried_again_as_often_as_was_said_and_then_its_message_is_a_dead_letter(self):
        async def main():
            tries, in_threads, dead, other = [], [], [], []
            async with self.bus() as bus:

                async def fails(message):
                    tries.append(message["data"])
                    if message["data"] == "bad" or len(tries) < 3:
                        raise ValueError("no such price")

                def in_a_thread(message):
                    in_threads.append(threading.current_thread() is threading.main_thread())
                    raise KeyError(message["data"])

                retry = {"max": 3, "base_ms": 1, "cap_ms": 2}
                bus.register_handler("x", fails, retry=retry, dead_letter="dead")
                bus.add_handler("x", lambda message: other.append(message["data"]))
                bus.register_handler("y", in_a_thread, retry={**retry, "max": 1}, dead_letter="dead")
                bus.register_handler("dead", dead.append)
                await self.listens(bus)
                await bus.publish("x", "good")
                await self.until(lambda: other == ["good"])
                self.assertEqual(tries, ["good"] * 3)
                await bus.publish("x", "bad")
                await bus.publish("y", "bad too")
                await self.until(lambda: len(dead) == 2 and len(other) == 2)
                self.assertEqual((tries.count("bad"), in_threads), (4, [False, False]))
                letters = sorted((message["data"] for message in dead), key=lambda data: data["topic"])
                self.assertEqual([letter["attempts"] for letter in letters], [4, 2])
                self.assertEqual(letters[0]["message"]["data"], "bad")
                self.assertEqual((letters[0]["handler"], letters[0]["topic"]), ("x", "x"))
                self.assertIn("no such price", letters[0]["error"])
                causes = bus.get_metrics(extended=True)["causes"]
                self.assertEqual((causes["inbound_dropped.given_up"], causes["handler_retried"], causes["errors.handler"]), (2, 6, 8))
                # Each has its own care: the other handler of the topic has had every message once.
                self.assertEqual(other, ["good", "bad"])

        with self.assertLogs("message_bus", logging.ERROR):
            self.run_async(main())

    def test_a_handler_of_dead_letters_that_fails_buries_nothing_again(self):
        async def main():
            calls = []
            async with self.bus() as bus:

                async def fails(message):
                    calls.append(message["topic"])
                    raise ValueError

                for topic in ("x", "dead"):
                    bus.register_handler(topic, fails, dead_letter="dead")
                await self.listens(bus)
                await bus.publish("x", 1)
                await self.until(lambda: len(calls) == 2)
                await bus.publish("x", 2)
                await self.until(lambda: len(calls) == 4)
                self.assertEqual(calls, ["x", "dead"] * 2)

        with self.assertLogs("message_bus", logging.ERROR):
            self.run_async(main())

    def test_dead_letters_of_handlers_that_bury_in_each_other_go_no_further_than_once(self):
        async def main():
            calls = []
            async with self.bus() as bus:

                async def fails(message):
                    calls.append(message["topic"])
                    raise ValueError

                bus.register_handler("x", fails, dead_letter="y")
                bus.register_handler("y", fails, dead_letter="x")
                await self.listens(bus)
                for round in range(1, 4):
                    await bus.publish("x", round)
                    await self.until(lambda count=2 * round: len(calls) == count)
                self.assertEqual(calls, ["x", "y"] * 3)
                self.assertEqual(bus.get_metrics(extended=True)["causes"]["inbound_dropped.given_up"], 6)

        with self.assertLogs("message_bus", logging.ERROR):
            self.run_async(main())

    def test_no_hook_makes_a_dead_letter_another_message(self):
        def adds(message):
            if isinstance(message["data"], dict):
                message["data"]["host"] = "here"

        def replaces(message):
            return {"topic": message["topic"], "data": message["data"]}

        async def main(**hook):
            calls, ended = [], []
            async with self.bus() as bus:

                async def fails(message):
                    calls.append(message["topic"])
                    raise ValueError

                bus.use(**hook)
                bus.register_handler("x", fails, dead_letter="y")
                bus.register_handler("y", fails, dead_letter="x")
                bus.register_handler("end", ended.append)
                await self.listens(bus)
                await bus.publish("x", 1)
                await self.until(lambda: len(calls) >= 2)
                # What goes round would be ahead of these.
                for round in range(1, 6):
                    await bus.publish("end", round)
                    await self.until(lambda count=round: len(ended) == count)
                self.assertEqual(calls, ["x", "y"])

        with self.assertLogs("message_bus", logging.ERROR):
            for hook in (adds, replaces):
                self.run_async(main(before_send=hook))
                self.run_async(main(after_receive=hook))

    def test_a_message_of_the_program_that_looks_like_a_dead_letter_is_none(self):
        async def main():
            dead, looks = [], {"topic": "a", "handler": "a", "error": "e", "attempts": 1, "message": {}}
            async with self.bus() as bus:

                async def fails(message):
                    raise ValueError

                bus.register_handler("x", fails, dead_letter="dead")
                bus.register_handler("dead", dead.append)
                await self.listens(bus)
                await bus.publish("x", looks)
                await self.until(lambda: dead)
                self.assertEqual((dead[0]["data"]["message"]["data"], dead[0]["dead_letter"]), (looks, True))

        with self.assertLogs("message_bus", logging.ERROR):
            self.run_async(main())

    def test_a_handler_that_fails_again_and_again_is_left_alone_and_others_are_not(self):
        # Its pause is over when this clock says so, however long the steps take here.
        now = [100.0]

        async def main():
            calls, well, dead = [], [], []
            works = False
            async with self.bus() as bus:

                async def fails(message):
                    calls.append(message["data"])
                    if not works:
                        raise ValueError

                bus.register_handler("x", fails, breaker={"failures": 2, "cooldown": 10}, dead_letter="dead")
                bus.register_handler("y", well.append, breaker={"failures": 2, "cooldown": 10})
                bus.register_handler("dead", lambda message: dead.append(message["data"]))
                await self.listens(bus)
                # One that is left alone for longer.
                longer = []

                async def never(message):
                    longer.append(message["data"])
                    raise ValueError

                bus.register_handler("z", never, breaker={"failures": 1, "cooldown": 1000})
                await bus.publish("z", 0)
                await self.until(lambda: longer == [0])
                for number in range(10):
                    await bus.publish("x", number)
                    await bus.publish("y", number)
                await self.until(lambda: len(well) == 10 and len(dead) == 10)
                self.assertEqual(calls, [0, 1])
                self.assertEqual([letter["error"] for letter in dead[2:]], ["breaker"] * 8)
                metrics = bus.get_metrics(extended=True)
                self.assertEqual(metrics["causes"]["inbound_dropped.breaker"], 8)
                self.assertEqual(metrics["inbound_dropped"], 11)
                works = True
                now[0] += 9.9
                await bus.publish("x", "too soon")
                await self.until(lambda: len(dead) == 11)
                # The first that is let through is the probe, and all that follow come.
                now[0] += 0.2
                for data in ("probe", "last"):
                    await bus.publish("x", data)
                    await bus.publish("z", data)
                await self.until(lambda: calls[-1] == "last")
                await self.until(lambda: bus.get_metrics(extended=True)["inbound_waiting"] == 0)
                self.assertEqual((calls, longer), ([0, 1, "probe", "last"], [0]))

        with mock.patch("message_bus._breaker.time", mock.Mock(monotonic=lambda: now[0])):
            with self.assertLogs("message_bus", logging.ERROR):
                self.run_async(main())
        for wrong in (5, {"failures": 0}, {"cooldown": 0}, {"cooldown": True}, {"times": 1}):
            with self.assertRaises(ValueError):
                MessageBus("x").register_handler("x", print, breaker=wrong)

    def test_a_slow_handler_is_told_with_the_time_of_99_of_100_calls(self):
        async def main(limit):
            async with self.bus({"slow_handler_ms": limit}) as bus:
                slow = Gate()

                async def handler(message):
                    if message["data"] == "slow":
                        await slow(message)

                def in_a_thread(message):
                    if message["data"] == "slow":
                        threading.Event().wait(0.05)

                bus.register_handler("x", handler)
                bus.register_handler("y", in_a_thread)
                await self.listens(bus)
                for data in [*range(200), "slow"]:
                    await bus.publish("x", data)
                    await bus.publish("y", data)
                await self.until(lambda: slow.inside)
                asyncio.get_running_loop().call_later(0.05, slow.open.set)
                await self.until(lambda: slow.handled and bus.get_metrics(extended=True)["inbound_waiting"] == 0)
                metrics = bus.get_metrics(extended=True)
                calls = {topic: times["calls"] for topic, times in metrics["handlers"].items()}
                self.assertEqual(calls, {"x": 201, "y": 201})
                return metrics["causes"].get("slow_handler", 0)

        with self.assertLogs("message_bus", logging.WARNING) as logs:
            self.assertGreaterEqual(self.run_async(main(20)), 2)
        self.assertRegex(logs.records[0].getMessage(), r"a handler of . took \d+\.\d+ s; 99 of 100 of its \d+ calls take at most")
        with self.assertNoLogs("message_bus", logging.WARNING):
            self.assertEqual(self.run_async(main(0)), 0)
            self.assertEqual(self.run_async(main(100_000)), 0)
        times = Times()
        times.calls = 1000
        for _ in range(5):
            times.took(3.0)
        for _ in range(10):
            times.took(0.05)
        self.assertEqual(times.p99(), 0.064)
        for _ in range(10):
            times.took(3.0)
        self.assertEqual(times.p99(), 3.0)
        self.assertEqual(Times().p99(), 0.001)

    def test_a_pattern_that_can_match_nothing_is_refused(self):
        bus = MessageBus("x")
        for wrong in ("a.>.b", ">.>", ">.a"):
            for register in (bus.register_handler, bus.add_handler):
                with self.assertRaisesRegex(ValueError, "at the end"):
                    register(wrong, print)
        for right in ("a.>", ">", "a.*.b", "*.>", "a>.b", "a*"):
            bus.register_handler(right, print)

    def test_what_fails_is_sent_again_as_often_as_was_said_with_the_same_id(self):
        async def main(path, retry, opens_after):
            pauses, sleep = [], asyncio.sleep

            async def slept(seconds):
                if seconds > 1:
                    pauses.append(seconds)
                    if len(pauses) == opens_after:
                        os.remove(path)
                    return
                await sleep(seconds)

            with mock.patch.dict(os.environ, {"BUSWAY_DIR": path}), mock.patch("message_bus._outbound.asyncio.sleep", slept):
                async with self.bus({"retry": retry}) as bus:
                    result = await bus.publish_ex("x", 1)
                    metrics = bus.get_metrics(extended=True)
                    self.assertEqual(metrics["causes"].get("retried", 0), len(pauses))
                    self.assertEqual(metrics["messages_sent"] + metrics["outbound_dropped"], 1)
                    if result.accepted:
                        seen = []
                        bus.register_handler("x", seen.append)
                        asyncio.create_task(bus.subscribe_loop(5555))
                        await bus.publish("x", 2)
                        await bus.publish("x", 3)
                        await self.until(lambda: len(seen) == 3)
                        ids = {message["id"] for message in seen}
                        self.assertEqual([len(one) for one in ids], [26, 26, 26])
                    return result.accepted, pauses

        def once(retry, opens_after):
            with tempfile.TemporaryDirectory() as parent:
                path = os.path.join(parent, "run")
                with open(path, "w") as blocked:
                    blocked.write("no directory")
                return self.run_async(main(path, retry, opens_after))

        retry = {"max": 5, "base_ms": 2000, "cap_ms": 10_000}
        with self.assertLogs("message_bus", logging.WARNING):
            accepted, pauses = once(retry, 3)
            self.assertEqual((accepted, len(pauses)), (True, 3))
            accepted, pauses = once({**retry, "jitter": False}, 100)
            self.assertEqual((accepted, pauses), (False, [2.0, 4.0, 8.0, 10.0, 10.0]))
            self.assertEqual(once(None, 100), (False, []))
        drawn = [retry_of(retry, "retry").pause(2) for _ in range(100)]
        self.assertTrue(all(2.0 <= pause <= 4.0 for pause in drawn))
        self.assertGreater(len(set(drawn)), 50)

    def test_a_retry_whose_first_attempt_arrived_is_handled_once(self):
        events, results, attempts = [], [], Counter()
        send_now = Route.send_now

        class Pulls(MessageBus):
            async def _handle_pulled_message(self, message):
                results.append(message["data"])

        async def on_event(message):
            events.append(message["data"])

        def told_wrongly(route, payload, id=None, trace=None):
            """Sends, and says twice of each message that it did not."""
            sent = send_now(route, payload, id, trace)
            attempts[id] += 1
            if id is not None and attempts[id] <= 2:
                raise busway.Error(302, "nobody knows whether it went")
            return sent

        async def main():
            async with self.bus({"retry": {"max": 5, "base_ms": 0}, "breaker": "repeated"}, Pulls) as bus:
                bus.register_handler("x", on_event)
                await self.listens(bus)
                asyncio.create_task(bus.pull_results_loop())
                beside = bus._core.bus().subscriber("port.5555.x")
                with mock.patch.object(Route, "send_now", told_wrongly):
                    for number in range(20):
                        await bus.publish("x", number)
                        await bus.push_result(number)
                await bus.publish("x", "last")
                await bus.push_result("last")
                await self.until(lambda: events[-1:] == results[-1:] == ["last"], "all were handled")
                self.assertEqual(events, [*range(20), "last"])
                self.assertEqual(results, [*range(20), "last"])
                with beside.recv(PATIENCE) as first:
                    self.assertEqual(first.id, first.json()["id"])
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["outbound_dropped"], metrics["inbound_dropped"]), (0, 0))
                self.assertGreaterEqual(metrics["causes"]["retried"], 40)
                self.evidence(messages=40, attempts=sum(attempts.values()), handled=len(events) + len(results) - 2)

        self.run_async(main())
