"""How a `message_bus` ends, what it leaves, and what it does with what fails."""

import asyncio
import gc
import logging
import os
import tempfile
import threading
from unittest import mock

import busway
from bus_stage import BusClaims, Gate, Held, threads
from message_bus import DEFAULT_CONFIG, BusMetrics, MessageBus, Ports, _farewell
from message_bus._breaker import Breaker
from message_bus._log import Limited
from stage import PATIENCE, Child

NINE = [
    "messages_sent",
    "messages_received",
    "errors",
    "outbound_dropped",
    "inbound_dropped",
    "backpressure_events",
    "request_timeouts",
    "failed_bind_count",
    "active_connections",
]


class Pulls(MessageBus):
    """A bus that keeps what events and results brought."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.taken = []

    def take(self, message):
        self.taken.append(message["data"])

    async def _handle_pulled_message(self, message):
        self.take(message)


class Lives(BusClaims):
    def test_there_are_nine_counts_and_more_for_who_asks(self):
        bus = MessageBus("x")
        self.assertEqual(list(bus.get_metrics()), NINE)
        self.assertEqual(list(BusMetrics().as_dict()), NINE)
        self.assertEqual(list(bus.get_metrics(extended=True))[:9], NINE)
        self.assertIn("causes", bus.get_metrics(extended=True))

    def test_what_is_cleaned_up_leaves_nothing_and_may_be_cleaned_up_again(self):
        def descriptors():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        async def once():
            async with self.bus() as bus:
                seen = []
                bus.register_handler("x", seen.append)
                loops = [asyncio.create_task(bus.subscribe_loop(port)) for port in (5555, 5556)]
                for port in (5555, 5556):
                    await bus.publish("x", port, port)
                await self.until(lambda: len(seen) == 2)
                self.assertEqual(bus.get_metrics()["active_connections"], 4)
                loops[1].cancel()
                await asyncio.wait([loops[1]])
                self.assertEqual(bus.get_metrics()["active_connections"], 3)
                self.assertIsNone(await bus.cleanup())
                self.assertEqual(bus.get_metrics()["active_connections"], 0)
                await asyncio.wait_for(loops[0], PATIENCE)
                self.assertIsNone(await bus.cleanup())
                # Afterwards nothing is opened again, and nothing raised.
                self.assertIsNone(await bus.publish("x", 3))
                self.assertIsNone(await asyncio.wait_for(bus.subscribe_loop(5555), PATIENCE))
                metrics = bus.get_metrics(extended=True)
                self.assertEqual(metrics["causes"]["outbound_dropped.closed"], 1)
                self.assertEqual(metrics["active_connections"], 0)

        self.run_async(once())
        before = descriptors()
        for _ in range(20):
            self.run_async(once())
        self.assertLess(descriptors(), before + 10, "half of what twenty would leave")
        self.until_gone("", but=1)

    def test_two_buses_share_what_a_process_has_and_the_last_one_leaves(self):
        async def main():
            # What they send waits for nobody, who would keep the membership.
            async with self.bus({"late_join_ms": 0}) as one:
                async with self.bus({"late_join_ms": 0}) as other:
                    await one.publish("x", 1)
                    await other.publish("x", 1)
                    self.assertEqual(threads().count("bw-control"), 1)
                await one.publish("x", 2)
                self.assertEqual(one.get_metrics()["messages_sent"], 2)
                self.assertEqual(threads().count("bw-control"), 1)
            await self.until(lambda: "bw-control" not in threads(), "the last one leaves")

        self.run_async(main())

    def test_cleanup_has_an_end_whatever_is_under_way(self):
        async def main():
            stuck, held = Gate(), Held()
            bus = MessageBus("x", {"close_linger_ms": 50, "hwm_inbound": 5, "late_join_ms": 300})
            loop = asyncio.get_running_loop()

            async def stubborn(message):
                while not held.open.is_set():
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        stuck.handled.append("cancelled")
                raise asyncio.CancelledError

            bus.register_handler("async", stuck)
            bus.register_handler("sync", held)
            bus.register_handler("stubborn", stubborn)
            running = await self.listens(bus)
            for number in range(50):
                await bus.publish(("async", "sync", "stubborn")[number % 3], number)
            await bus.publish("nobody's", 0, 7000)
            await self.until(lambda: stuck.inside and held.threads)
            try:
                began = loop.time()
                await bus.cleanup()
                took = loop.time() - began
                self.assertLess(took, PATIENCE)
                self.assertTrue(running.done())
                metrics = bus.get_metrics(extended=True)
                # What was taken and not handled, what was not taken, and what was kept for nobody.
                self.assertGreater(metrics["inbound_dropped"], 0)
                self.assertIn("undelivered", metrics["causes"])
                await self.until(lambda: bus.get_metrics(extended=True)["no_subscriber"] == 1)
            finally:
                held.open.set()
            self.evidence(seconds=round(took, 2))

        self.run_async(main())

    def test_what_is_sent_just_before_a_cleanup_waits_for_the_first_who_comes(self):
        async def main(late):
            sender = MessageBus("sender", {"close_linger_ms": 0, "late_join_ms": late})
            # It is there, and reads nothing yet.
            async with self.bus(kind=Pulls) as reader:
                reader.register_handler("x", reader.take)
                await sender.publish("x", 1)
                await sender.push_result(2)
                await sender.cleanup()
                counts = sender.get_metrics(extended=True)
                if late == 0:
                    # Nobody is waited for: what was published is for nobody, and the result is lost, which is told.
                    return counts["no_subscriber"], counts["outbound_dropped"], counts["causes"]["outbound_dropped.closed"]
                self.assertEqual((counts["in_flight"], counts["no_subscriber"], counts["outbound_dropped"]), (2, 0, 0))
                for loop in (reader.subscribe_loop(5555), reader.pull_results_loop()):
                    asyncio.create_task(loop)
                await self.until(lambda: sorted(reader.taken) == [1, 2])
                await self.until(lambda: sender.get_metrics(extended=True)["delivered"] == 2)
            counts = sender.get_metrics(extended=True)
            return counts["in_flight"], counts["no_subscriber"], counts["outbound_dropped"]

        self.assertEqual(self.run_async(main(1000 * PATIENCE)), (0, 0, 0))
        with self.assertLogs("message_bus", logging.WARNING) as logs:
            logging.getLogger("message_bus").warning("there is one")
            self.assertEqual(self.run_async(main(0)), (0, 1, 1))

    def test_a_cleanup_waits_for_nobody_and_a_bus_that_is_made_later_begins_with_nothing_of_it(self):
        async def main():
            loop, sender = asyncio.get_running_loop(), MessageBus("sender", {"late_join_ms": 1000 * PATIENCE})
            told = ("in_flight", "delivered", "no_subscriber", "outbound_dropped")
            await sender.publish("x", "left")
            await sender.publish("y", "left")
            await sender.publish("other", "left", 7000)
            await sender.push_result("left")
            began = loop.time()
            await sender.cleanup()
            took = loop.time() - began
            self.assertLess(took, PATIENCE / 2)
            async with self.bus(kind=Pulls) as later:
                later.register_handler("x", later.take)
                await self.listens(later, topics="x")
                asyncio.create_task(later.pull_results_loop())
                await later.publish("x", 1)
                await later.push_result(2)
                await self.until(lambda: sorted(map(str, later.taken)) == ["1", "2"])
                counts = sender.get_metrics(extended=True)
                # What was for other readers than those goes on waiting.
                self.assertEqual([counts[name] for name in told], [2, 0, 1, 1])
            async with self.bus() as last:
                await self.listens(last, port=7000)
                self.assertEqual([sender.get_metrics(extended=True)[name] for name in told], [1, 0, 2, 1])
                await self.listens(last)
                self.assertEqual([sender.get_metrics(extended=True)[name] for name in told], [0, 0, 3, 1])
            await self.until(lambda: _farewell._thread is None and "bw-control" not in threads(), "nothing of it is left")
            return took

        self.evidence(seconds=round(self.run_async(main()), 3))

    def test_so_many_ports_wait_beyond_a_cleanup_and_none_where_there_can_be_no_thread(self):
        def waiting():
            return sum(len(partings) for _, partings in _farewell._waiting)

        async def left(buses):
            for bus in buses:
                await bus.publish("x", 1)
                await bus.cleanup()
            return sum(bus.get_metrics(extended=True)["no_subscriber"] for bus in buses)

        def buses(count):
            return [MessageBus("x", {"late_join_ms": 1000 * PATIENCE}) for _ in range(count)]

        async def main():
            with mock.patch.object(threading.Thread, "start", refuses):
                self.assertEqual((await left(buses(2)), waiting()), (2, 0))
            with mock.patch("message_bus._farewell.PORTS_MAX", 5):
                self.assertEqual((await left(buses(9)), waiting()), (4, 5))
            async with self.bus() as later:
                await self.listens(later)
            await self.until(lambda: _farewell._thread is None and "bw-control" not in threads(), "nothing of it is left")

        def refuses(thread):
            if thread.name == "message_bus farewell":
                raise RuntimeError("can't start new thread")
            start(thread)

        start = threading.Thread.start
        self.run_async(main())

    def test_a_program_that_ends_stays_until_somebody_has_come_for_what_it_sent_or_the_time_for_it_is_over(self):
        script = """
import asyncio, atexit
from message_bus import MessageBus

atexit.register(print, "over", flush=True)

async def main(late):
    bus = MessageBus("sender", {"late_join_ms": late})
    await bus.publish("x", 1)
    await bus.push_result(2)
    await bus.cleanup()

asyncio.run(main(float(sys.stdin.readline())))
print("ends", flush=True)
"""

        async def main():
            with Child(script) as child:
                child.say(str(1000 * PATIENCE))
                self.assertEqual(await asyncio.to_thread(child.hear), "ends")
                async with self.bus(kind=Pulls) as reader:
                    reader.register_handler("x", reader.take)
                    await self.listens(reader)
                    asyncio.create_task(reader.pull_results_loop())
                    self.assertEqual(await asyncio.to_thread(child.hear), "over")
                    await self.until(lambda: sorted(reader.taken) == [1, 2])
            with Child(script) as child:
                child.say("50")
                self.assertEqual([child.hear(), child.hear(), child.process.wait(PATIENCE)], ["ends", "over", 0])

        self.run_async(main())

    def test_what_outlives_a_cleanup_brings_no_thread_back(self):
        async def main():
            async with self.bus() as bus:
                bus.register_handler("x", lambda message: None)
                await self.listens(bus)
                await bus.publish("x", 1)
            # Threads of the library under it have no name yet while they begin, so they are not looked at.
            before = set(threading.enumerate())
            for again in (bus._core.in_thread(lambda: None), bus._core.in_handler_thread(lambda: None)):
                with self.assertRaises(busway.Closed):
                    await again
            self.assertLessEqual(set(threading.enumerate()), before)

        self.run_async(main())

    def test_what_is_refused_does_not_hold_the_loop_up(self):
        async def main():
            bus, turns = MessageBus("x"), 0
            await bus.cleanup()

            async def flood():
                for number in range(1000):
                    await bus.publish("x", number)

            flooding = asyncio.create_task(flood())
            while not flooding.done():
                await asyncio.sleep(0)
                turns += 1
            self.assertGreater(turns, 100)
            self.assertEqual(bus.get_metrics()["outbound_dropped"], 1000)

        self.run_async(main())

    def test_what_was_sent_has_the_linger_to_be_read(self):
        async def main(linger):
            held = Held()
            async with self.bus({"hwm_inbound": 1, "handler_max_concurrency": 1}) as reader:
                reader.register_handler("x", held)
                await self.listens(reader)
                sender = MessageBus("sender", {"close_linger_ms": linger})
                await sender.ready("x")
                for number in range(5):
                    await sender.publish("x", number)
                await self.until(lambda: held.threads)
                closing = asyncio.create_task(sender.cleanup())
                await self.until(lambda: sender._core.closed)
                if linger:
                    # Longer than it would have where nothing is said.
                    await asyncio.wait([closing], timeout=5 * DEFAULT_CONFIG["close_linger_ms"] / 1000)
                    self.assertFalse(closing.done())
                    held.open.set()
                await asyncio.wait_for(closing, PATIENCE)
                undelivered = sender.get_metrics(extended=True)["causes"].get("undelivered", 0)
                held.open.set()
                await self.until(lambda: len(held.threads) == 5)
                return undelivered

        async def pushes(linger):
            class Stays(Pulls):
                async def _handle_pulled_message(self, message):
                    await stuck.wait()
                    await super()._handle_pulled_message(message)

            async with self.bus({"hwm_inbound": 1}, kind=Stays) as reader:
                stuck, sender = asyncio.Event(), MessageBus("sender", {"close_linger_ms": linger})
                pulling = asyncio.create_task(reader.pull_results_loop())
                for number in range(5):
                    await sender.push_result(number)
                await self.until(lambda: reader.get_metrics()["messages_received"] == 1)
                closing = asyncio.create_task(sender.cleanup())
                if linger:
                    await asyncio.wait([closing], timeout=5 * DEFAULT_CONFIG["close_linger_ms"] / 1000)
                    self.assertFalse(closing.done())
                    stuck.set()
                await asyncio.wait_for(closing, PATIENCE)
                stuck.set()
                await self.until(lambda: len(reader.taken) == 5)
                pulling.cancel()
                return sender.get_metrics(extended=True)["causes"].get("undelivered", 0)

        self.assertEqual(self.run_async(main(1000 * PATIENCE)), 0)
        self.assertEqual(self.run_async(main(0)), 4)
        self.assertEqual(self.run_async(pushes(1000 * PATIENCE)), 0)
        self.assertEqual(self.run_async(pushes(0)), 4)

    def test_handlers_that_are_not_to_be_cancelled_come_to_their_end(self):
        async def main(cancel):
            bus, stuck = MessageBus("x", {"close_linger_ms": 1000 * PATIENCE}), Gate()
            bus.register_handler("x", stuck)
            await self.listens(bus)
            await bus.publish("x", 1)
            await self.until(lambda: stuck.inside)
            closing = asyncio.create_task(bus.cleanup(cancel_running=cancel))
            await self.until(lambda: bus._core.ending)
            if not cancel:
                asyncio.get_running_loop().call_later(0.1, stuck.open.set)
            await asyncio.wait_for(closing, PATIENCE)
            return stuck.handled

        self.assertEqual(self.run_async(main(False)), [1])
        self.assertEqual(self.run_async(main(True)), [])

    def test_requests_and_results_that_are_not_to_be_cancelled_come_to_their_end(self):
        class Both(MessageBus):
            async def _handle_request(self, request):
                await self.answering({"data": "request"})
                return "answered"

            async def _handle_pulled_message(self, message):
                await self.pulling(message)
                await self.publish("found", message["data"])

        async def main(cancel):
            bus = Both("x", {"close_linger_ms": 1000 * PATIENCE})
            bus.answering, bus.pulling, heard = Gate(), Gate(), []
            async with self.bus() as other:
                other.register_handler("found", lambda message: heard.append(message["data"]))
                await self.listens(other)
                asyncio.create_task(bus.response_loop())
                asyncio.create_task(bus.pull_results_loop())
                for number in range(3):
                    await other.push_result(number)
                asking = asyncio.create_task(other.request(1))
                await self.until(lambda: bus.answering.inside and bus.pulling.inside)
                closing = asyncio.create_task(bus.cleanup(cancel_running=cancel))
                await self.until(lambda: bus._core.ending)
                if not cancel:
                    asyncio.get_running_loop().call_later(0.1, bus.answering.open.set)
                    asyncio.get_running_loop().call_later(0.1, bus.pulling.open.set)
                await asyncio.wait_for(closing, PATIENCE)
                taken = bus.get_metrics()["messages_received"] - 1
                if not cancel:
                    await self.until(lambda: len(heard) == taken)
                self.assertEqual(bus.get_metrics()["inbound_dropped"], 0 if not cancel else taken - 1)
                return await asking, bus.pulling.handled

        answer, handled = self.run_async(main(False))
        self.assertEqual((answer, handled[0]), ("answered", 0))
        with self.assertLogs("message_bus", logging.WARNING):
            self.assertEqual(self.run_async(main(True)), (None, []))

    def test_a_handler_may_clean_up_its_own_bus(self):
        class Ends(MessageBus):
            async def ends(self, message):
                if self.bounded:
                    # Before Python 3.12 that is a task of its own.
                    await asyncio.wait_for(self.cleanup(cancel_running=self.cancel), PATIENCE)
                else:
                    await self.cleanup(cancel_running=self.cancel)
                self.done.set()

            async def _handle_pulled_message(self, message):
                await self.ends(message)

            async def _handle_request(self, request):
                await self.ends(request)

        async def main(cancel, of, bounded):
            bus = Ends("x")
            bus.done, bus.cancel, bus.bounded = asyncio.Event(), cancel, bounded
            bus.register_handler("x", bus.ends)
            async with self.bus() as other:
                asking = None
                if of == "event":
                    running = await self.listens(bus)
                    await other.publish("x", 1)
                elif of == "result":
                    running = asyncio.create_task(bus.pull_results_loop())
                    await other.push_result(1)
                else:
                    running = asyncio.create_task(bus.response_loop())
                    asking = asyncio.create_task(other.request(1, timeout=2 * PATIENCE))
                await asyncio.wait_for(bus.done.wait(), PATIENCE)
                await asyncio.wait_for(running, PATIENCE)
                if asking is not None:
                    asking.cancel()

        for cancel in (True, False):
            for of in ("event", "result", "request"):
                for bounded in (False, True):
                    with self.subTest(cancel=cancel, of=of, bounded=bounded):
                        self.run_async(main(cancel, of, bounded))

    def test_a_cleanup_that_is_cancelled_goes_on_and_the_next_call_waits_for_its_end(self):
        async def main():
            bus, stuck = MessageBus("x", {"close_linger_ms": 1000 * PATIENCE}), Gate()
            bus.register_handler("x", stuck)
            await self.listens(bus)
            await bus.publish("x", 1)
            await self.until(lambda: stuck.inside)
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(bus.cleanup(cancel_running=False), 0.05)
            again = [asyncio.create_task(bus.cleanup()) for _ in range(2)]
            done, _ = await asyncio.wait(again, timeout=0.05)
            self.assertEqual((done, bus._core.closed), (set(), False))
            stuck.open.set()
            await asyncio.gather(*again)
            self.assertEqual((stuck.handled, bus._core.closed, bus.get_metrics()["active_connections"]), ([1], True, 0))
            self.assertFalse((await bus.publish_ex("x", 2)).accepted)

        self.run_async(main())
        self.until_gone("bw-")

    def test_a_cleanup_whose_loop_has_ended_is_finished_by_the_next(self):
        bus = MessageBus("x", {"close_linger_ms": 1000 * PATIENCE})

        async def begins():
            stuck = Gate()
            bus.register_handler("x", stuck)
            await self.listens(bus)
            await bus.publish("x", 1)
            await self.until(lambda: stuck.inside)
            cleaning = asyncio.create_task(bus.cleanup(cancel_running=False))
            await self.until(lambda: bus._core.ending)
            return cleaning

        self.assertTrue(self.run_async(begins()).cancelled())
        self.assertFalse(bus._core.closed)
        self.run_async(bus.cleanup())
        self.assertTrue(bus._core.closed)
        self.until_gone("bw-")

    def test_a_forked_child_has_a_bus_that_has_done_nothing(self):
        bus = MessageBus("x")
        seen = []
        bus.register_handler("x", seen.append)

        async def use(number):
            await self.listens(bus)
            await bus.publish("x", number)
            await self.until(lambda: seen and seen[-1]["data"] == number)

        self.run_async(use(1))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                fresh = set(bus.get_metrics().values()) == {0}
                self.run_async(use(2))
                self.run_async(bus.cleanup())
                os.write(writing, b"good" if fresh and len(seen) == 2 else b"bad")
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as heard:
            self.assertEqual(heard.read(), b"good")
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.run_async(use(3))
        self.assertEqual([message["data"] for message in seen], [1, 3])
        self.run_async(bus.cleanup())

    def test_an_endpoint_that_fails_is_left_alone_and_comes_back_by_itself(self):
        # Its pause is over when this clock says so, however long the steps take here.
        now = [100.0]

        async def main(config, opens_after):
            with tempfile.TemporaryDirectory() as parent:
                directory = os.path.join(parent, "run")
                with open(directory, "w") as blocked:
                    blocked.write("no directory")
                with mock.patch.dict(os.environ, {"BUSWAY_DIR": directory}):
                    async with self.bus(config) as bus:
                        causes = []
                        for _ in range(opens_after + 2):
                            causes.append((await bus.publish_ex("x", 1)).cause)
                        self.assertTrue(all(cause.startswith("BUS-02") for cause in causes[:opens_after]), causes)
                        self.assertEqual(causes[opens_after:], ["cooldown"] * 2)
                        metrics = bus.get_metrics()
                        self.assertEqual(metrics["outbound_dropped"], opens_after + 2)
                        self.assertEqual((metrics["errors"], metrics["active_connections"]), (opens_after, 0))
                        self.assertEqual((metrics["failed_bind_count"], metrics["messages_sent"]), (opens_after, 0))
                        # Another port is another endpoint.
                        self.assertNotEqual((await bus.publish_ex("x", 1, 7000)).cause, "cooldown")
                        os.remove(directory)
                        self.assertEqual((await bus.publish_ex("x", 1)).cause, "cooldown")
                        now[0] += 10.1
                        self.assertTrue((await bus.publish_ex("x", 1)).accepted)
                        self.assertTrue((await bus.publish_ex("x", 1)).accepted)

        async def pushes():
            with tempfile.TemporaryDirectory() as parent:
                directory = os.path.join(parent, "run")
                with open(directory, "w") as blocked:
                    blocked.write("no directory")
                with mock.patch.dict(os.environ, {"BUSWAY_DIR": directory}):
                    async with self.bus({"failed_socket_cooldown": 10, "breaker": "strict"}) as bus:
                        for _ in range(3):
                            await bus.push_result(1)
                        metrics = bus.get_metrics(extended=True)
                        self.assertEqual(metrics["causes"]["outbound_dropped.cooldown"], 2)
                        self.assertEqual((metrics["outbound_dropped"], metrics["errors"], metrics["failed_bind_count"]), (3, 1, 1))
                        os.remove(directory)
                        now[0] += 10.1
                        await bus.push_result(1)
                        self.assertEqual(bus.get_metrics()["messages_sent"], 1)

        with mock.patch("message_bus._breaker.time", mock.Mock(monotonic=lambda: now[0])):
            self.run_async(main({"failed_socket_cooldown": 10}, 3))
            self.run_async(main({"failed_socket_cooldown": 10, "breaker": "strict"}, 1))
            self.run_async(pushes())

    def test_a_subscription_that_cannot_be_opened_is_tried_again(self):
        async def main():
            with tempfile.TemporaryDirectory() as parent:
                directory = os.path.join(parent, "run")
                with open(directory, "w") as blocked:
                    blocked.write("no directory")
                with mock.patch.dict(os.environ, {"BUSWAY_DIR": directory}):
                    async with self.bus({"late_join_ms": 1000 * PATIENCE}) as bus:
                        seen = []
                        bus.register_handler("x", seen.append)
                        asyncio.create_task(bus.subscribe_loop(5555))
                        await self.until(lambda: bus.get_metrics()["failed_bind_count"] >= 2)
                        os.remove(directory)
                        await bus.publish("x", 1)
                        await self.until(lambda: seen)

        self.run_async(main())

    def test_a_breaker_knows_no_wall_clock_and_lets_one_probe_through(self):
        now = [100.0]
        with mock.patch("time.monotonic", lambda: now[0]), mock.patch("time.time", lambda: 0.0):
            breaker = Breaker(10.0, 2)
            for _ in range(2):
                breaker.failed(breaker.admit())
            self.assertIsNone(breaker.admit())
            now[0] += 9.9
            self.assertIsNone(breaker.admit())
            now[0] += 0.2
            probe, other = breaker.admit(), breaker.admit()
            self.assertIsNotNone(probe)
            self.assertIsNone(other)
            breaker.failed(probe)
            self.assertIsNone(breaker.admit())
            now[0] += 10.1
            probe, other = breaker.admit(), breaker.admit()
            self.assertIsNone(other)
            # A probe that ends without an outcome is no reason to wait for ever.
            breaker.gave_up(probe)
            probe, other = breaker.admit(), breaker.admit()
            self.assertIsNone(other)
            breaker.succeeded(probe)
            self.assertIsNotNone(breaker.admit())
            self.assertIsNotNone(breaker.admit())
            never = Breaker(0.0, 1)
            for _ in range(5):
                never.failed(never.admit())
                self.assertIsNotNone(never.admit())

    def test_what_takes_longer_than_the_pause_and_ends_well_closes_a_breaker(self):
        now = [100.0]
        with mock.patch("time.monotonic", lambda: now[0]):
            breaker = Breaker(1.0, 2)
            for _ in range(2):
                breaker.failed(breaker.admit())
            under_way, refused = [], 0
            # Calls each 10 ms that all take 1.5 s and succeed.
            for _ in range(1000):
                now[0] += 0.01
                for since, leave in [call for call in under_way if now[0] - call[0] >= 1.5]:
                    under_way.remove((since, leave))
                    breaker.succeeded(leave)
                leave = breaker.admit()
                if leave is None:
                    refused += 1
                else:
                    under_way.append((now[0], leave))
            self.assertLessEqual(refused, 250)
            self.assertFalse(breaker.opened)

    def test_who_was_let_through_before_a_breaker_opened_decides_nothing_any_more(self):
        now = [100.0]
        with mock.patch("time.monotonic", lambda: now[0]):
            breaker = Breaker(10.0, 2)
            stragglers = [breaker.admit() for _ in range(6)]
            for leave in stragglers[:2]:
                breaker.failed(leave)
            now[0] += 9.0
            # It failed long after the others: the pause is no longer for it.
            breaker.failed(stragglers[2])
            now[0] += 1.1
            probe = breaker.admit()
            self.assertIsNotNone(probe)
            # Neither is the probe over for who comes late, nor the breaker closed.
            breaker.gave_up(stragglers[3])
            breaker.succeeded(stragglers[4])
            self.assertIsNone(breaker.admit())
            self.assertTrue(breaker.opened)
            breaker.succeeded(probe)
            breaker.failed(stragglers[5])
            breaker.failed(breaker.admit())
            self.assertIsNotNone(breaker.admit())
            # A probe that never ends stands in the way for one pause.
            breaker.failed(breaker.admit())
            now[0] += 10.1
            lost = breaker.admit()
            self.assertIsNone(breaker.admit())
            now[0] += 10.1
            self.assertIsNotNone(breaker.admit())
            breaker.failed(lost)
            self.assertIsNone(breaker.admit())

    def test_a_cause_is_told_now_and_then_with_how_often_it_was_not(self):
        now = [0.0]
        with mock.patch("time.monotonic", lambda: now[0]), self.assertLogs("message_bus", logging.INFO) as logs:
            log = Limited()
            for _ in range(1000):
                log(logging.INFO, "a", "a %s", "cause")
                log(logging.INFO, "b", "another")
                log(logging.DEBUG, "c", "not to be seen")
            now[0] += 10
            log(logging.INFO, "a", "a %s", "cause")
            for number in range(5000):
                log(logging.INFO, f"many {number}", "many")
        told = [record.getMessage() for record in logs.records]
        self.assertEqual(told[:3], ["a cause", "another", "a cause (and 999 more like it)"])
        self.assertLessEqual(len(log._told), 1024)

    def test_threads_publish_through_one_bus(self):
        bus, seen = MessageBus("x"), []
        bus.register_handler("x", lambda message: seen.append(message["data"]))

        async def main():
            await self.listens(bus, port=Ports.GLOBAL_EVENTS)

            def publish(start):
                async def publish_all():
                    for number in range(start, start + 100):
                        await bus.publish("x", number)

                asyncio.run(publish_all())

            at_work = [threading.Thread(target=publish, args=[1000 * number]) for number in range(4)]
            for thread in at_work:
                thread.start()
            await self.until(lambda: len(seen) == 400)
            for thread in at_work:
                await asyncio.to_thread(thread.join, PATIENCE)
            await bus.cleanup()

        self.run_async(main())
        self.assertEqual(sorted(seen), [1000 * one + number for one in range(4) for number in range(100)])
        self.assertEqual([bus.get_metrics()[name] for name in NINE[:5]], [400, 400, 0, 0, 0])
