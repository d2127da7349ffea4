"""One `message_bus` that several threads use, each with an event loop of its own."""

import asyncio
import os
import threading

import busway
from bus_stage import BusClaims
from message_bus import MessageBus
from stage import PATIENCE


class Away:
    """A port that another thread has: each of its calls that send is told so, so many times."""

    def __init__(self, native, times):
        self._native = native
        self.left = times

    def __getattr__(self, name):
        return getattr(self._native, name)

    def try_send(self, data):
        if self.left:
            self.left -= 1
            raise busway.TimedOut(402, "another thread uses the publisher", "here", "wait longer")
        return self._native.try_send(data)


class Threads(BusClaims):
    def test_a_port_that_another_thread_has_for_a_moment_is_no_fault(self):
        async def main():
            async with self.bus() as bus, self.bus() as other:
                seen = []

                async def handler(message):
                    seen.append(message["data"])

                other.register_handler("x", handler)
                await self.listens(other)
                await bus.ready("x")
                await bus.publish("x", 0)
                await asyncio.sleep(0)
                route = bus._publishing.routes[5555, "x"]
                route.native = Away(route.native, 40)
                for number in range(1, 20):
                    self.assertTrue((await bus.publish_ex("x", number)).accepted)
                for number in range(20, 40):
                    await bus.publish("x", number)
                await self.until(lambda: len(seen) == 40)
                self.assertEqual((seen, route.native.left), (list(range(40)), 0))
                metrics = bus.get_metrics()
                self.assertEqual([metrics[name] for name in ("messages_sent", "outbound_dropped", "errors")], [40, 0, 0])

        self.run_async(main())

    def test_handlers_in_another_thread_s_loop_come_to_their_end_or_are_cancelled_with_the_bus(self):
        class Ends(MessageBus):
            async def _handle_request(self, request):
                await self.works("request")
                return "answered"

            async def _handle_pulled_message(self, message):
                await self.works("result")

            async def works(self, message):
                self.inside += 1
                await self.opened[asyncio.get_running_loop()].wait()
                # What is sent at the end is still sent.
                await self.publish("done", message if isinstance(message, str) else "event")

        def runs(bus, runs_loop):
            async def opens():
                opened = asyncio.Event()
                bus.opened[asyncio.get_running_loop()] = opened
                await runs_loop()

            # Each loop is all that its thread does, and ends with it.
            asyncio.run(opens())

        async def main(cancel):
            bus, heard = Ends("x", {"close_linger_ms": 1000 * PATIENCE}), []
            bus.inside, bus.opened = 0, {}
            bus.register_handler("x", bus.works)
            async with self.bus({"req_total_timeout": PATIENCE}) as other:
                other.register_handler("done", lambda message: heard.append(message["data"]))
                await self.listens(other)
                loops = [lambda: bus.subscribe_loop(5555, "x"), bus.response_loop, bus.pull_results_loop]
                work = [asyncio.create_task(asyncio.to_thread(runs, bus, loop)) for loop in loops]
                await self.until(lambda: bus.get_metrics()["active_connections"] == 3, "all of them listen")
                await other.publish("x", 1)
                await other.push_result(1)
                asking = asyncio.create_task(other.request(1))
                await self.until(lambda: bus.inside == 3)
                cleaning = asyncio.create_task(bus.cleanup(cancel_running=cancel))
                if not cancel:
                    done, _ = await asyncio.wait([cleaning], timeout=0.05)
                    self.assertEqual(done, set(), "it waits for them")
                    for loop, opened in bus.opened.items():
                        loop.call_soon_threadsafe(opened.set)
                await asyncio.wait_for(cleaning, PATIENCE)
                await asyncio.wait_for(asyncio.gather(*work), PATIENCE)
                if cancel:
                    asking.cancel()
                    return heard
                await self.until(lambda: len(heard) == 3)
                return [await asking, *sorted(heard)]

        self.assertEqual(self.run_async(main(False)), ["answered", "event", "request", "result"])
        self.assertEqual(self.run_async(main(True)), [])

    def test_results_that_loops_of_several_threads_take_are_handled_once_and_no_loop_ends(self):
        class Counts(MessageBus):
            async def _handle_pulled_message(self, message):
                handled.append(message["data"])

        class Slow(dict):
            """Another thread has its turn just before the oldest is known."""

            def __iter__(self):
                found = super().__iter__()
                os.sched_yield()
                return found

        handled, count, loops = [], 4000, 4

        async def main():
            bus, work = Counts("x"), []
            bus._pulling._seen = Slow()
            with busway.Bus() as other, other.pusher("results.5556", slots_max=1 << 15, late_join=PATIENCE) as pusher:
                for number in range(count):
                    pusher.send(b'{"data":%d}' % number, id=f"{number + 1:026}")
                for _ in range(loops):
                    work.append(asyncio.create_task(asyncio.to_thread(asyncio.run, bus.pull_results_loop())))
                await self.until(lambda: len(handled) >= count or any(task.done() for task in work))
            ended = [task for task in work if task.done()]
            await bus.cleanup()
            await asyncio.wait_for(asyncio.gather(*work), PATIENCE)
            self.assertEqual(ended, [])
            self.assertEqual(bus.get_metrics()["inbound_dropped"], 0)

        self.run_async(main())
        self.assertEqual(sorted(handled), list(range(count)))
        self.evidence(results=count, loops=loops)

    def test_threads_that_publish_and_one_that_looks_at_the_counts_cost_each_other_nothing(self):
        each, senders = 3000, 2
        bus, seen, over = MessageBus("x", {"hwm_outbound": 32, "pub_send_timeout": PATIENCE}), [], threading.Event()

        async def publishes(start):
            for number in range(start, start + each):
                await bus.publish("x", number)

        def looks():
            while not over.is_set():
                bus.get_metrics(extended=True)

        async def main():
            async def handler(message):
                seen.append(message["data"])

            async with self.bus() as other:
                other.register_handler("x", handler)
                await self.listens(other)
                await bus.ready("x")
                work = [asyncio.to_thread(asyncio.run, publishes(each * number)) for number in range(senders)]
                looking = asyncio.create_task(asyncio.to_thread(looks))
                await asyncio.gather(*work)
                over.set()
                await looking
                metrics = bus.get_metrics(extended=True)
                told = {name: metrics[name] for name in ("messages_sent", "outbound_dropped", "errors", "causes")}
                self.assertEqual([*told.values()][:3], [senders * each, 0, 0], told)
                await self.until(lambda: len(seen) == senders * each)
                await bus.cleanup()

        self.run_async(main())
        self.assertEqual(sorted(seen), list(range(senders * each)))
        for start in range(0, senders * each, each):
            part = [number for number in seen if start <= number < start + each]
            self.assertEqual(part, sorted(part), "in order for each thread")
