"""Requests of `message_bus`: each has its own answer, in time or not at all, and none locks the next."""

import asyncio
import logging
import threading
from unittest import mock

import busway
from bus_stage import BusClaims
from message_bus import DEFAULT_CONFIG, Cooldown, MessageBus, Ports
from stage import PATIENCE, Child


class StateBus(MessageBus):
    """What a program does: it overrides how requests are answered."""

    async def _handle_request(self, request):
        data = request["data"]
        if data == "fails":
            raise ValueError("no such state")
        if data == "cancels":
            raise asyncio.CancelledError
        if data == "unserialisable":
            return object()
        return {"echo": data, "of": request["sender"]}


class Held(MessageBus):
    """Answers when it is let go."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.open, self.inside, self.most, self.had = None, 0, 0, []

    async def _handle_request(self, request):
        self.had.append(request["data"])
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        return request["data"]


class Requests(BusClaims):
    async def answers(self, bus, port=Ports.STATE_MANAGEMENT):
        """A response loop that others find."""
        if isinstance(bus, Held):
            bus.open = asyncio.Event()
        before = bus.get_metrics()["active_connections"]
        task = asyncio.create_task(bus.response_loop(port))
        await self.until(lambda: bus.get_metrics()["active_connections"] > before)
        return task

    def test_a_request_is_answered_whoever_came_first(self):
        async def main():
            async with self.bus(name="asker") as bus, self.bus(kind=StateBus) as state:
                asking = asyncio.create_task(bus.request({"op": "get_state"}))
                await asyncio.sleep(0)
                await self.answers(state)
                self.assertEqual(await asking, {"echo": {"op": "get_state"}, "of": "asker"})
                self.assertEqual((await bus.request(1, port=Ports.STATE_MANAGEMENT, timeout=0))["echo"], 1)
                asked, answered = bus.get_metrics(), state.get_metrics()
                self.assertEqual((asked["messages_sent"], asked["messages_received"], asked["errors"]), (2, 0, 0))
                self.assertEqual((answered["messages_sent"], answered["messages_received"]), (0, 2))
                self.assertEqual((asked["active_connections"], answered["active_connections"]), (1, 1))

        self.run_async(main())

    def test_what_nobody_overrides_says_so_and_a_plain_method_is_called_in_a_thread(self):
        class Plain(MessageBus):
            def _handle_request(self, request):
                return {"thread": threading.current_thread() is not threading.main_thread()}

        async def main():
            async with self.bus() as bus, self.bus(kind=Plain) as plain:
                asyncio.create_task(bus.response_loop())
                self.assertEqual(await bus.request({"op": "get_state"}), {"status": "not_implemented"})
                await self.answers(plain, 7001)
                self.assertEqual(await bus.request(None, 7001), {"thread": True})

        self.run_async(main())

    def test_a_hundred_requests_are_under_way_at_once_and_each_has_its_own_answer(self):
        async def main():
            async with self.bus() as bus, self.bus(kind=Held) as held:
                await self.answers(held)
                asking = [asyncio.create_task(bus.request({"number": number})) for number in range(100)]
                await self.until(lambda: held.inside == 100)
                held.open.set()
                self.assertEqual(await asyncio.gather(*asking), [{"number": number} for number in range(100)])
                self.evidence(requests=100, at_once=held.most)

        self.run_async(main())

    def test_a_request_that_is_late_returns_none_and_locks_nothing(self):
        async def main():
            config = {"req_total_timeout": 0.3, "failed_socket_cooldown": 0.0}
            async with self.bus(config) as bus, self.bus(kind=Held) as held:
                await self.answers(held)
                loop = asyncio.get_running_loop()
                for number in range(1, 5):
                    began = loop.time()
                    self.assertIsNone(await bus.request(number))
                    self.assertGreaterEqual(loop.time() - began, 0.25)
                    self.assertEqual(bus.get_metrics()["request_timeouts"], number)
                with self.assertRaises(busway.TimedOut):
                    await bus.request_ex(5)
                # A time of its own, shorter or longer.
                async with self.bus({"req_total_timeout": 1000 * PATIENCE}) as patient:
                    self.assertIsNone(await patient.request(0, timeout=0.2))
                asking = asyncio.create_task(bus.request(6, timeout=PATIENCE))
                # One that was late before its responder had the processor did not come there.
                await self.until(lambda: 6 in held.had)
                self.assertEqual(held.inside, len(held.had))
                held.open.set()
                self.assertEqual(await asking, 6)
                metrics = bus.get_metrics()
                self.assertEqual((metrics["request_timeouts"], metrics["errors"], metrics["messages_sent"]), (5, 5, 6))

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_the_time_of_a_request_is_shared_or_halved_as_was_said(self):
        #: Seconds, of which a request has five.
        half, end = 2.5, 5.0

        async def answered(after, config, port):
            async with self.bus(config) as bus, self.bus(kind=Held) as held:
                await self.answers(held, port)
                asking = asyncio.create_task(bus.request(port, port))
                await self.until(lambda: held.inside == 1)
                await asyncio.wait([asking], timeout=after)
                held.open.set()
                return await asking == port

        async def nobody_comes():
            async with self.bus({"late_join_ms": 1000 * PATIENCE}) as bus:
                asking = asyncio.create_task(bus.request_ex(0, 1))
                # Half of the time is for sending, and for who answers to come.
                await asyncio.wait([asking], timeout=(half + end) / 2)
                self.assertTrue(asking.done())
                # It was waited for: that nobody is there is known sooner where less was said.
                with self.assertRaises(busway.TimedOut):
                    await asking

        async def main():
            halved = {"req_timeout_split": "half"}
            cases = [(1.0, {}), (1.0, halved), (3.7, {}), (3.7, halved), (end + 0.5, {}), (end + 0.5, {"req_total_timeout": 2 * PATIENCE})]
            found = await asyncio.gather(nobody_comes(), *(answered(*case, 7001 + n) for n, case in enumerate(cases)))
            self.assertEqual(found, [None, True, True, True, False, False, True])

        self.assertEqual(DEFAULT_CONFIG["req_total_timeout"], end)
        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_that_nobody_answers_is_known_before_the_time_is_over(self):
        async def main():
            async with self.bus({"late_join_ms": 50, "req_total_timeout": 1000}) as bus:
                self.assertIsNone(await asyncio.wait_for(bus.request("anybody?"), PATIENCE))
                with self.assertRaisesRegex(busway.NoResponders, "5557"):
                    await asyncio.wait_for(bus.request_ex("anybody?"), PATIENCE)
                metrics = bus.get_metrics(extended=True)
                self.assertEqual(metrics["causes"]["outbound_dropped.no_responders"], 2)
                self.assertEqual((metrics["outbound_dropped"], metrics["request_timeouts"]), (2, 0))
                # It is no reason to leave the port alone: who comes is asked at once.
                async with self.bus(kind=StateBus) as state:
                    await self.answers(state)
                    await self.until_answered(bus)

        with self.assertLogs("message_bus", logging.WARNING) as logs:
            self.run_async(main())
        self.assertIn("5557", logs.records[0].getMessage())

    async def until_answered(self, bus):
        for _ in range(1000):
            if await bus.request("anybody?") is not None:
                return
            await asyncio.sleep(0.001)
        self.fail("nobody answers")

    def test_requests_of_a_port_that_failed_are_left_alone_and_counted_and_come_back(self):
        # Its pause is over when this clock says so, however long the steps take here.
        now = [100.0]

        async def main(config, failures):
            config = {"req_total_timeout": 0.2, "failed_socket_cooldown": 10, **config}
            async with self.bus(config) as bus, self.bus(kind=Held) as held:
                await self.answers(held)
                for _ in range(failures):
                    self.assertIsNone(await bus.request(1))
                before = bus.get_metrics()
                self.assertIsNone(await bus.request(2))
                after = bus.get_metrics()
                self.assertEqual(after["outbound_dropped"], before["outbound_dropped"] + 1)
                self.assertEqual(after["messages_sent"], before["messages_sent"])
                with self.assertRaises(Cooldown):
                    await bus.request_ex(3)
                held.open.set()
                now[0] += 10.1
                self.assertEqual(await bus.request(4, timeout=PATIENCE), 4)
                self.assertEqual(await bus.request(5, timeout=PATIENCE), 5)

        with mock.patch("message_bus._breaker.time", mock.Mock(monotonic=lambda: now[0])):
            with self.assertLogs("message_bus", logging.WARNING):
                self.run_async(main({}, 3))
                self.run_async(main({"breaker": "strict"}, 1))

    def test_whatever_an_answer_comes_to_the_loop_goes_on(self):
        async def main():
            async with self.bus() as bus, self.bus(kind=StateBus) as state:
                loop = await self.answers(state)
                for data, error in ("fails", "no such state"), ("cancels", ""), ("unserialisable", "not JSON serializable"):
                    answer = await bus.request(data)
                    self.assertEqual(set(answer), {"error", "ts"})
                    self.assertTrue(answer["error"].startswith("Handler error: "), answer)
                    self.assertIn(error, answer["error"])
                with busway.Bus("default") as plain, plain.requester("requests.5557") as requester:
                    for nonsense in (b"", b"{", b"\xff"):
                        reply = await asyncio.to_thread(requester.request, nonsense, PATIENCE)
                        self.assertTrue(reply.json()["error"].startswith("Invalid JSON: "), bytes(reply))
                    reply = await asyncio.to_thread(requester.request, b'{"sender":"by hand","data":1}', PATIENCE)
                    self.assertEqual(reply.json(), {"echo": 1, "of": "by hand"})
                self.assertEqual((await bus.request("last"))["echo"], "last")
                self.assertFalse(loop.done())
                metrics = state.get_metrics()
                counts = [metrics[name] for name in ("messages_received", "errors", "inbound_dropped")]
                self.assertEqual(counts, [8, 6, 3])

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_a_requester_that_gives_up_or_dies_does_not_end_the_loop(self):
        script = """
import asyncio
from message_bus import MessageBus

async def main():
    bus = MessageBus("dies")
    asyncio.create_task(bus.request("never"))
    await asyncio.sleep(1000)

asyncio.run(main())
"""

        async def main():
            async with self.bus() as bus, self.bus({"rep_send_timeout": 1.0}, kind=Held) as held:
                loop = await self.answers(held)
                with Child(script) as child:
                    await self.until(lambda: held.inside == 1)
                    child.process.kill()
                    child.process.wait(PATIENCE)
                given_up = asyncio.create_task(bus.request("given up"))
                await self.until(lambda: held.inside == 2)
                given_up.cancel()
                await asyncio.wait([given_up])
                held.open.set()
                self.assertEqual(await bus.request("last", timeout=PATIENCE), "last")
                await self.until(lambda: held.inside == 0)
                self.assertFalse(loop.done())

        self.run_async(main())

    def test_a_loop_to_which_no_request_comes_ticks_and_goes_on(self):
        async def main():
            async with self.bus() as bus, self.bus({"rep_recv_timeout": 0.05}, kind=StateBus) as state:
                await self.answers(state)
                await self.until(lambda: state.get_metrics(extended=True)["causes"].get("idle", 0) >= 2)
                self.assertEqual((await bus.request("after it"))["echo"], "after it")
                self.assertEqual(state.get_metrics()["errors"], 0)
            async with self.bus() as bus, self.bus({"rep_recv_timeout": 0}, kind=StateBus) as state:
                await self.answers(state)
                self.assertEqual((await bus.request("never idle"))["echo"], "never idle")
                self.assertNotIn("idle", state.get_metrics(extended=True)["causes"])

        self.run_async(main())

    def test_an_answer_that_cannot_be_sent_in_time_is_dropped_and_the_loop_goes_on(self):
        async def hangs(responder, request, data):
            if data == b"1":
                await asyncio.sleep(1000)
            request.reply(data)

        async def main():
            async with self.bus() as bus, self.bus({"rep_send_timeout": 0.05}, kind=Held) as held:
                loop = await self.answers(held)
                held.open.set()
                asking = asyncio.create_task(bus.request(1))
                await self.until(lambda: held.get_metrics()["outbound_dropped"] == 1)
                self.assertIsNone(await asking)
                self.assertEqual(await bus.request(2), 2)
                self.assertFalse(loop.done())
                self.assertEqual(held.get_metrics()["errors"], 1)

        with mock.patch("busway.aio.Responder.reply", hangs), self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_a_bus_that_is_cleaned_up_answers_and_asks_no_more(self):
        async def main():
            bus, held = MessageBus("asks"), Held("answers")
            loop = await self.answers(held)
            asking = [asyncio.create_task(bus.request(number)) for number in range(3)]
            await self.until(lambda: held.inside == 3)
            await held.cleanup()
            # Whoever waited for an answer is told that there is none.
            self.assertEqual(await asyncio.wait_for(asyncio.gather(*asking), PATIENCE), [None] * 3)
            await asyncio.wait_for(loop, PATIENCE)
            await bus.cleanup()
            self.assertIsNone(await bus.request(1))
            with self.assertRaises(busway.Closed):
                await bus.request_ex(1)
            self.assertEqual(bus.get_metrics()["active_connections"], 0)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_one_bus_asks_from_one_loop_after_the_other(self):
        state, bus = StateBus("state"), MessageBus("asks")
        ready, done = threading.Event(), threading.Event()

        async def serve():
            await self.answers(state)
            ready.set()
            await asyncio.to_thread(done.wait, 3 * PATIENCE)
            await state.cleanup()

        thread = threading.Thread(target=lambda: self.run_async(serve()))
        thread.start()
        ready.wait(PATIENCE)
        try:
            for number in range(3):
                self.assertEqual(asyncio.run(bus.request(number))["echo"], number)
            asyncio.run(bus.cleanup())
        finally:
            done.set()
            thread.join(PATIENCE)
