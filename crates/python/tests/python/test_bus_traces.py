"""Traces of `message_bus`: what came of one message is known by its trace, through handlers, results and requests."""

import asyncio
import threading

import busway
from bus_stage import BusClaims
from message_bus import MessageBus, current_trace, tracing
from stage import PATIENCE

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#: Others are handled meanwhile, and who answers is waited for until it is there.
CONFIG = {"ordering": "none", "late_join_ms": 1000 * PATIENCE}
#: What looks like one and is none.
NONE = [None, 5, "", "x", PARENT[:-1], PARENT + "0", PARENT.upper(), "ff" + PARENT[2:], PARENT + "\n", [PARENT]]
NONE += [f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", PARENT.replace("-", "_")]


class Tells(MessageBus):
    """A bus that keeps of what it is given the data and the trace."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.told = {}

    def tell(self, pattern, message):
        trace = current_trace()
        assert (trace.traceparent, trace.trace_id) == (message["traceparent"], message["trace_id"]), (trace, message)
        assert trace.correlation_id == message["correlation_id"], (trace, message)
        self.told[pattern, message["data"]] = trace

    async def _handle_pulled_message(self, message):
        self.tell("result", message)

    def _handle_request(self, request):
        self.tell("request", request)
        return {"thread": threading.current_thread() is not threading.main_thread()}


class Traces(BusClaims):
    def test_what_a_handler_sends_belongs_to_the_trace_of_its_message(self):
        roots = 40

        async def main():
            async with self.bus(kind=Tells) as sender, self.bus(CONFIG, kind=Tells) as worker, self.bus(kind=Tells) as last:
                for bus in (sender, worker, last):
                    bus.use(**tracing())

                async def works(message):
                    worker.tell("event", message)
                    # Others are handled meanwhile.
                    await asyncio.sleep(0)
                    await worker.publish("then", message["data"])
                    await asyncio.sleep(0)
                    await asyncio.create_task(worker.push_result(message["data"]))
                    self.assertEqual(await worker.request(message["data"], timeout=PATIENCE), {"thread": True})

                def sync(message):
                    last.tell("then", message)

                worker.register_handler("first", works)
                last.register_handler("then", sync)
                await self.listens(worker, ["first"])
                await self.listens(last, ["then"])
                asyncio.create_task(last.pull_results_loop())
                asyncio.create_task(last.response_loop())
                with busway.Bus("default") as plain, plain.subscriber("port.5555.>") as subscriber:
                    for number in range(roots):
                        await sender.publish("first", number)
                    await self.until(lambda: len(worker.told) == roots and len(last.told) == 3 * roots)
                    for number in range(roots):
                        trace = worker.told["event", number]
                        of = [last.told[pattern, number] for pattern in ("then", "result", "request")]
                        self.assertEqual(of, [trace] * 3, number)
                    self.assertEqual(len({trace.trace_id for trace in worker.told.values()}), roots, "each begins a trace")
                    self.assertEqual(len({trace.correlation_id for trace in worker.told.values()}), roots)
                    # It stands in the header of the bus as well, for who knows nothing of these dicts.
                    for _ in range(2 * roots):
                        with subscriber.recv(PATIENCE) as sample:
                            self.assertEqual(sample.traceparent, sample.json()["traceparent"])
                self.assertIsNone(current_trace(), "here nothing is handled")
                self.assertEqual([bus.get_metrics()["errors"] for bus in (sender, worker, last)], [0, 0, 0])

        self.run_async(main())
        self.evidence(traces=roots, messages=4 * roots)

    def test_what_is_no_trace_is_none_and_one_of_the_program_is_carried_as_it_is(self):
        async def main():
            async with self.bus() as silent, self.bus() as bus:
                seen, current, others = [], [], asyncio.Event()

                async def handler(message):
                    seen.append((message, current_trace()))
                    if message["data"] == "waits":
                        await others.wait()

                bus.use(**tracing(lambda: current[-1] if current else None))
                bus.register_handler("x", handler)
                await self.listens(bus, ["x"])

                async def came(sends):
                    seen.clear()
                    await sends
                    await self.until(lambda: seen)
                    return seen[0]

                # Who does not ask for it has nothing of it.
                message, trace = await came(silent.publish("x", 0))
                self.assertEqual((set(message), trace), ({"topic", "sender", "ts", "data"}, None))
                with busway.Bus("default") as plain, plain.publisher("port.5555.x") as publisher:
                    for wrong in NONE:
                        envelope = {"topic": "x", "sender": "y", "ts": 1, "data": 0, "traceparent": wrong, "correlation_id": 5}
                        _, trace = await came(asyncio.to_thread(publisher.send_json, envelope))
                        self.assertIsNone(trace, wrong)
                    long = {**envelope, "traceparent": PARENT, "correlation_id": "x" * 129}
                    _, trace = await came(asyncio.to_thread(publisher.send_json, long))
                    self.assertEqual((trace.traceparent, trace.correlation_id), (PARENT, trace.trace_id))
                    # One that has none is not of the trace before it, also where they are handled one right after the other.
                    seen.clear()
                    for message in ({**long, "data": "waits"}, envelope, long, envelope):
                        publisher.send_json(message)
                    await self.until(lambda: bus.get_metrics(extended=True)["inbound_waiting"] == 4)
                    others.set()
                    await self.until(lambda: len(seen) == 4)
                    self.assertEqual([trace is not None for _, trace in seen], [True, False, True, False])
                for wrong in NONE:
                    current.append(wrong)
                    message, trace = await came(bus.publish("x", 0))
                    self.assertNotEqual(message["traceparent"], wrong)
                    self.assertEqual(trace.traceparent, message["traceparent"])
                current.append(PARENT)
                message, trace = await came(bus.publish("x", 0))
                self.assertEqual((message["traceparent"], message["trace_id"]), (PARENT, PARENT[3:35]))
                # What an earlier hook says of a message holds.
                bus.use(before_send=lambda message: message.update(traceparent="no trace"))
                message, trace = await came(bus.publish("x", 0))
                self.assertEqual((message["traceparent"], trace), ("no trace", None))
                self.assertEqual(bus.get_metrics()["errors"], 0)
                with self.assertRaises(TypeError):
                    tracing(5)

        self.run_async(main())
        self.evidence(none=len(NONE))
