"""Messages of `message_bus` and the handlers that they come to."""

import asyncio
import functools
import gc
import logging
import os
import threading
import weakref

from bus_stage import BusClaims, Gate, Held, threads
from message_bus import MessageBus, Ports, Topics
from stage import PATIENCE, resident


class Handlers(BusClaims):
    def test_a_handler_is_given_the_whole_message(self):
        async def main():
            async with self.bus(name="sender") as bus:
                seen = []
                bus.register_handler(Topics.PRICE_TICK, seen.append)
                await self.listens(bus, ["price.tick"])
                self.assertIsNone(await bus.publish("price.tick", {"symbol": "BTC", "price": 43210.5}))
                await self.until(lambda: seen)
                message = seen[0]
                self.assertEqual(set(message), {"topic", "sender", "ts", "data"})
                self.assertEqual((message["topic"], message["sender"]), ("price.tick", "sender"))
                self.assertEqual(message["data"], {"symbol": "BTC", "price": 43210.5})
                self.assertIsInstance(message["ts"], float)

        self.run_async(main())

    def test_what_can_be_awaited_is_awaited_and_the_rest_is_called_in_a_thread(self):
        async def main():
            home, seen = threading.get_ident(), {}

            class Calls:
                async def bound(self, message):
                    await asyncio.sleep(0)
                    seen["bound"] = threading.get_ident()

                async def __call__(self, message, key="callable"):
                    await asyncio.sleep(0)
                    seen[key] = threading.get_ident()

            async def partial(name, message):
                await asyncio.sleep(0)
                seen[name] = threading.get_ident()

            async def later(message):
                seen["returned"] = threading.get_ident()

            def sync(name, message):
                seen[name] = threading.get_ident()

            calls = Calls()
            async with self.bus() as bus:
                bus.register_handler("bound", calls.bound)
                bus.register_handler("callable", calls)
                bus.register_handler("partial", functools.partial(partial, "partial"))
                bus.register_handler("partial callable", functools.partial(calls, key="partial callable"))
                bus.register_handler("returned", lambda message: later(message))
                bus.register_handler("sync", lambda message: sync("sync", message))
                bus.register_handler("sync partial", functools.partial(sync, "sync partial"))
                await self.listens(bus)
                topics = ["bound", "callable", "partial", "partial callable", "returned", "sync", "sync partial"]
                for topic in topics:
                    await bus.publish(topic, None)
                await self.until(lambda: len(seen) == len(topics))
                threads = {topic for topic in topics if seen[topic] != home}
                self.assertEqual(threads, {"sync", "sync partial"})

        self.run_async(main())

    def test_a_handler_that_does_not_return_stops_neither_the_loop_nor_other_topics(self):
        async def main():
            held, stuck, seen = Held(), Gate(), []
            async with self.bus() as bus:
                bus.register_handler("sync", held)
                bus.register_handler("async", stuck)

                async def quick(message):
                    seen.append(message["data"])

                bus.register_handler("quick", quick)
                await self.listens(bus)
                await bus.publish("sync", 0)
                await bus.publish("async", 0)
                await self.until(lambda: held.threads and stuck.inside)
                for number in range(100):
                    await bus.publish("quick", number)
                await self.until(lambda: len(seen) == 100)
                self.assertEqual(seen, list(range(100)))
                self.assertIsNot(held.threads[0], threading.main_thread())
                held.open.set()
                stuck.open.set()

        self.run_async(main())

    def test_as_many_handlers_run_at_once_as_were_allowed(self):
        async def most(config, topics, messages, ports=(5555,)):
            gate = Gate()
            async with self.bus(config) as bus:
                for topic in range(topics):
                    bus.register_handler(f"t{topic}", gate)
                for port in ports:
                    await self.listens(bus, port=port)
                for number in range(messages):
                    await bus.publish(f"t{number % topics}", number, ports[number % len(ports)])
                await self.until(lambda: bus.get_metrics()["messages_received"] == messages)
                for _ in range(300):
                    await asyncio.sleep(0)
                inside = gate.inside
                gate.open.set()
                await self.until(lambda: len(gate.handled) == messages)
                self.assertEqual(gate.most, inside)
                for topic in range(topics):
                    of = [number for number in gate.handled if number % topics == topic]
                    self.assertTrue(config.get("ordering") == "none" or of == sorted(of), "in order by topic")
                return inside

        self.assertEqual(self.run_async(most({"handler_max_concurrency": 20}, 100, 100)), 20)
        # What a bus has allowed is shared by its loops.
        self.assertEqual(self.run_async(most({"handler_max_concurrency": 20}, 100, 100, (5555, 7001))), 20)
        self.assertEqual(self.run_async(most({}, 100, 200)), 100)
        self.assertEqual(self.run_async(most({"handler_max_concurrency": 20}, 1, 100)), 1)
        self.assertEqual(self.run_async(most({"handler_max_concurrency": 20, "ordering": "none"}, 1, 100)), 20)
        self.assertEqual(self.run_async(most({"ordering": "none"}, 1, 100)), 100)
        self.evidence(topics=100, at_once=20)

    def test_what_waits_for_a_thread_at_the_end_is_counted_as_dropped(self):
        topics, begun, gate = 60, [], threading.Event()

        def handler(message):
            begun.append(message["topic"])
            gate.wait(PATIENCE)

        async def main(care):
            begun.clear()
            gate.clear()
            async with self.bus() as sender:
                bus = MessageBus("x", {"close_linger_ms": 0})
                for number in range(topics):
                    bus.register_handler(f"x.{number}", handler, retry=care)
                await self.listens(bus)
                for _ in range(3):
                    for number in range(topics):
                        await sender.publish(f"x.{number}", number)
                # As many are in a handler as there are threads; all others wait.
                await self.until(lambda: bus.get_metrics()["messages_received"] == 3 * topics and len(begun) == 32)
                await bus.cleanup()
                gate.set()
                # Who is in a thread has its turn to say what it leaves.
                await self.until(lambda: len(begun) + bus.get_metrics()["inbound_dropped"] == 3 * topics)
                self.assertEqual(len(begun), 32)

        self.run_async(main(None))
        self.run_async(main({"max": 1, "base_ms": 1}))

    def test_as_many_threads_are_at_it_as_handlers_were_allowed(self):
        async def main(at_once):
            held, topics = Held(), at_once + 13
            async with self.bus({"handler_max_concurrency": at_once}) as bus:
                for topic in range(topics):
                    bus.register_handler(f"t{topic}", held)
                await self.listens(bus)
                for topic in range(topics):
                    await bus.publish(f"t{topic}", None)
                await self.until(lambda: len(held.threads) == at_once)
                self.assertFalse(await asyncio.to_thread(self.entered_again, held, at_once))
                held.open.set()
                await self.until(lambda: len(held.threads) == topics)

        self.run_async(main(7))
        # As the document has it: more than there are threads where nothing is said.
        self.run_async(main(50))

    def entered_again(self, held, at_once):
        for _ in range(at_once):
            held.entered.acquire(timeout=PATIENCE)
        return held.entered.acquire(timeout=0.1)

    def test_its_own_handler_comes_before_patterns_and_the_last_one_wins(self):
        async def main():
            seen = []
            async with self.bus() as bus:

                def told(name):
                    async def handler(message):
                        seen.append((name, message["topic"]))

                    return handler

                bus.register_handler("price.tick", told("first"))
                bus.register_handler("price.tick", told("last"))
                bus.register_handler("price.*", told("one"))
                bus.register_handler("trade.>", told("rest"))
                bus.add_handler("trade.>", told("rest again"))
                await self.listens(bus)
                for topic in ("price.tick", "price.bid", "price.bid.eu", "trade", "trade.a.b"):
                    await bus.publish(topic, None)
                await self.until(lambda: len(seen) == 4)
                # Registered while the loop runs.
                bus.register_handler("trade", told("late"))
                await bus.publish("trade", None)
                await self.until(lambda: len(seen) == 5)
            self.assertEqual(
                sorted(seen),
                [
                    ("last", "price.tick"),
                    ("late", "trade"),
                    ("one", "price.bid"),
                    ("rest", "trade.a.b"),
                    ("rest again", "trade.a.b"),
                ],
            )

        self.run_async(main())

    def test_a_handler_that_is_removed_is_called_no_more(self):
        async def main():
            seen = []

            def told(name):
                async def handler(message):
                    seen.append(name)

                return handler

            async with self.bus() as bus:
                own, one, other = told("own"), told("one"), told("other")
                bus.register_handler("price.tick", own)
                bus.register_handler("price.*", one)
                bus.add_handler("price.*", other)
                await self.listens(bus)

                async def called():
                    seen.clear()
                    await bus.publish("price.tick", None)
                    await bus.publish("last", None)
                    await self.until(lambda: "last" in seen)
                    return seen[:-1]

                bus.register_handler("last", told("last"))
                self.assertEqual(await called(), ["own"])
                self.assertFalse(bus.remove_handler("price.tick", one), "it is another's")
                self.assertEqual(await called(), ["own"])
                self.assertTrue(bus.remove_handler("price.tick"))
                self.assertEqual(await called(), ["one", "other"])
                self.assertTrue(bus.remove_handler("price.*", one))
                self.assertEqual(await called(), ["other"])
                self.assertTrue(bus.remove_handler("price.*", other))
                self.assertEqual(await called(), [])
                self.assertEqual([bus.remove_handler("price.*"), bus.remove_handler("never"), bus.remove_handler("a.>.b")], [False] * 3)
                self.assertEqual(list(bus.get_metrics(extended=True)["handlers"]), ["last"])

        self.run_async(main())

    def test_ten_thousand_handlers_that_come_and_go_leave_the_process_as_it_was(self):
        there, handled, at_once = weakref.WeakSet(), 0, 4

        def handlers(number):
            async def here(message):
                nonlocal handled
                handled += 1

            def in_a_thread(message):
                return here(message)

            found = [here, in_a_thread][number % 2]
            there.add(found)
            return found

        def left():
            gc.collect()
            return len(there), len(threads()), len(os.listdir("/proc/self/fd"))

        async def rounds(bus, count):
            nonlocal handled
            for number in range(count):
                handled = 0
                # Names that stay and names that never were, of topics and of patterns; one in four is one more of its name.
                topics = [(f"t{n}", f"r{number}.{n}", "t.*", f"r{number}.{n}.>")[n % 4] for n in range(100)]
                for n, topic in enumerate(topics):
                    (bus.add_handler if n % 4 == 2 else bus.register_handler)(topic, handlers(n // 4))
                for topic in (*topics[::4], "t.x"):
                    await bus.publish(topic, None)
                await self.until(lambda: handled == 50)
                self.assertTrue(all([bus.remove_handler(topic) for topic in dict.fromkeys(topics)]))

        async def main():
            async with self.bus({"handler_max_concurrency": at_once}) as bus:
                await self.listens(bus)
                # What is made once is made now.
                await rounds(bus, 20)
                await self.until(lambda: left()[0] == 0)
                before, bytes_before = left(), resident()
                await rounds(bus, 100)
                # Of descriptors and threads one may have been about to go.
                await self.until(lambda: left()[0] == 0 and left()[2] <= before[2], "neither a handler nor a descriptor is left")
                await self.until(lambda: left()[1] <= before[1] + 2 * at_once, "no thread is left but those that all share")
                grown = resident() - bytes_before
                self.assertLess(grown, 4 << 20, "400 bytes a handler")
                self.assertEqual(bus.get_metrics(extended=True)["handlers"], {})
                self.assertEqual(bus.get_metrics()["errors"], 0)
                self.evidence(handlers=10_000, handled=5000, left=before[0], kib=max(grown, 0) >> 10)

        self.run_async(main())

    def test_a_handler_that_fails_is_counted_and_told_and_the_next_message_handled(self):
        async def main():
            seen = []

            async def fails(message):
                seen.append(message["data"])
                if message["data"] == 1:
                    raise asyncio.CancelledError
                raise ValueError("no such price")

            def fails_in_a_thread(message):
                seen.append(message["data"])
                raise KeyError("price")

            async with self.bus() as bus:
                bus.register_handler("async", fails)
                bus.register_handler("sync", fails_in_a_thread)
                await self.listens(bus)
                for number in range(3):
                    await bus.publish("async", number)
                    await bus.publish("sync", number)
                await self.until(lambda: bus.get_metrics()["errors"] == 6)
                self.assertEqual(sorted(seen), [0, 0, 1, 1, 2, 2])
                metrics = bus.get_metrics(extended=True)
                self.assertEqual(metrics["causes"], {"errors.handler": 6})
                self.assertEqual((metrics["messages_received"], metrics["inbound_dropped"]), (6, 0))

        with self.assertLogs("message_bus", logging.ERROR) as logs:
            self.run_async(main())
        # One line for each topic, not for each message.
        self.assertEqual(len(logs.records), 2)

    def test_a_topic_without_a_handler_is_told_at_the_level_that_was_set(self):
        async def main(config):
            async with self.bus(config) as bus:
                await self.listens(bus)
                for _ in range(5):
                    await bus.publish("nobody's", None)
                await self.until(lambda: bus.get_metrics()["messages_received"] == 5)

        with self.assertLogs("message_bus", logging.DEBUG) as logs:
            self.run_async(main({}))
        self.assertEqual([(record.levelname, "nobody's" in record.getMessage()) for record in logs.records], [("DEBUG", True)])
        with self.assertLogs("message_bus", logging.INFO) as logs:
            self.run_async(main({"log_level_no_handler": "info"}))
        self.assertEqual([record.levelname for record in logs.records], ["INFO"])
        self.assertEqual(logging.getLogger("message_bus").level, logging.NOTSET)

    def test_a_flood_makes_no_task_and_no_future_for_each_message(self):
        made = 0

        class Loop(asyncio.SelectorEventLoop):
            def create_future(self):
                nonlocal made
                made += 1
                return super().create_future()

            def create_task(self, *arguments, **named):
                nonlocal made
                made += 1
                return super().create_task(*arguments, **named)

        async def main():
            nonlocal made
            count, seen = 10_000, 0

            async def handler(message):
                nonlocal seen
                seen += 1

            async with self.bus() as bus:
                bus.register_handler("flood", handler)
                await self.listens(bus)
                await bus.publish("flood", 0)
                await self.until(lambda: seen == 1)
                made = 0
                for number in range(1, count):
                    await bus.publish("flood", number)
                await self.until(lambda: seen == count)
                of_the_flood = made
                self.assertLess(of_the_flood, count // 10)
                self.evidence(messages=count, tasks_and_futures=of_the_flood)

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(asyncio.wait_for(main(), 2 * PATIENCE))

    def test_messages_of_one_publisher_and_topic_come_in_order_and_once(self):
        async def main():
            seen = {"a": [], "b": []}
            async with self.bus() as one, self.bus() as other:
                for topic in seen:
                    other.register_handler(topic, lambda message: seen[message["topic"]].append(message["data"]))
                await self.listens(other)
                for number in range(3000):
                    await one.publish("ab"[number % 2], number)
                await self.until(lambda: sum(map(len, seen.values())) == 3000)
            self.assertEqual(seen, {"a": list(range(0, 3000, 2)), "b": list(range(1, 3000, 2))})

        self.run_async(main())

    def test_a_bus_is_built_anywhere_and_used_in_one_loop_after_the_other(self):
        bus = MessageBus("api")
        seen = []
        bus.register_handler("x", seen.append)

        async def once(number):
            task = await self.listens(bus)
            await bus.publish("x", number)
            await self.until(lambda: len(seen) == number)
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

        for number in (1, 2, 3):
            self.assertTrue(self.run_async(once(number)))
        thread = threading.Thread(target=lambda: self.run_async(once(4)))
        thread.start()
        thread.join(PATIENCE)
        self.assertEqual([message["data"] for message in seen], [1, 2, 3, 4])
        self.run_async(bus.cleanup())
        self.assertEqual(bus.get_metrics()["active_connections"], 0)
        self.assertEqual(Ports.GLOBAL_EVENTS, 5555)
