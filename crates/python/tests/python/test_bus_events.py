"""What is published by `message_bus` reaches who asked for it, whoever came first."""

import asyncio
import enum
import random

import busway
from bus_stage import BusClaims, Gate
from message_bus import MessageBus, Ports
from message_bus._names import LENGTH, name
from stage import PATIENCE, Child

#: Whatever a program may have called its topics.
ODD = ["", ".", "..", "a..b", ".a", "a.", " a b ", "*", "a.*", ">", "$sys", "^a", "%", "a%2Eb", "价格.更新", "\t\n", "\x00", "a/b#+"]
ODD += ["long." * 60, "long." * 60 + "x", "é" * 200, "\ud800", "price.tick", "price.tick.eu", "pri", "a.%", "a%", "%.%"]


class Events(BusClaims):
    def test_what_is_published_before_its_subscriber_s_task_runs_arrives(self):
        async def main():
            starts, lost = 200, 0
            for _ in range(starts):
                async with self.bus() as bus:
                    seen = asyncio.Event()

                    async def handler(message):
                        seen.set()

                    bus.register_handler("price.tick", handler)
                    asyncio.create_task(bus.subscribe_loop(Ports.GLOBAL_EVENTS, topics=["price.tick"]))
                    await bus.publish("price.tick", {"symbol": "BTC"})
                    try:
                        await asyncio.wait_for(seen.wait(), PATIENCE)
                    except TimeoutError:
                        lost += 1
            self.assertEqual(lost, 0)
            self.evidence(cold_starts=starts, lost=lost)

        asyncio.run(asyncio.wait_for(main(), 4 * PATIENCE))

    def test_a_subscriber_of_another_process_that_comes_late_gets_what_was_kept_for_it(self):
        script = """
import asyncio
from message_bus import MessageBus

async def main():
    bus = MessageBus("late")
    seen = []
    bus.register_handler("x", lambda message: seen.append(message["data"]))
    loop = asyncio.create_task(bus.subscribe_loop(5555))
    while len(seen) < 3:
        await asyncio.sleep(0.001)
    print(seen, flush=True)
    await bus.cleanup()

sys.stdin.readline()
asyncio.run(main())
"""

        async def main():
            async with self.bus({"late_join_ms": PATIENCE * 1000}) as bus:
                with Child(script) as child:
                    for number in range(2):
                        await bus.publish("x", number)
                    self.assertFalse(await bus.ready("x", timeout=0), "nobody is there")
                    waiting = asyncio.create_task(bus.ready("x", timeout=PATIENCE))
                    child.say("go")
                    self.assertTrue(await waiting)
                    await bus.publish("x", 2)
                    self.assertEqual(await asyncio.to_thread(child.hear), "[0, 1, 2]")
                self.assertEqual(bus.get_metrics()["outbound_dropped"], 0)

        self.run_async(main())

    def test_messages_of_a_new_topic_are_kept_as_long_as_was_said(self):
        async def kept(config, lost):
            seen = []
            async with self.bus(config) as sender, self.bus() as bus:
                bus.register_handler("x", lambda message: seen.append(message["data"]))
                for number in range(3):
                    self.assertTrue((await sender.publish_ex("x", number)).accepted)
                await self.until(lambda: sender.get_metrics(extended=True)["no_subscriber"] >= lost, "their time is over")
                await sender.publish("x", 3)
                await self.listens(bus)
                await sender.ready("x")
                await sender.publish("x", "last")
                await self.until(lambda: "last" in seen)
                # That nobody came is no fault.
                metrics = sender.get_metrics()
                self.assertEqual([metrics[name] for name in ("messages_sent", "outbound_dropped", "errors")], [5, 0, 0])
            return seen

        self.assertEqual(self.run_async(kept({"late_join_ms": PATIENCE * 1000}, 0)), [0, 1, 2, 3, "last"])
        self.assertEqual(self.run_async(kept({"late_join_ms": 0}, 0)), ["last"])
        self.assertEqual(set(self.run_async(kept({"late_join_ms": 20}, 3))) - {3}, {"last"})

    def test_every_text_is_a_topic_and_every_beginning_of_one_a_subscription(self):
        names = [name(5555, topic) for topic in ODD]
        self.assertEqual(len(set(names)), len(ODD))
        self.assertLessEqual(max(len(one.encode()) for one in names), LENGTH)

        async def main():
            random.seed(20)
            prefixes = {"", "a", "a.", "a..", ".", "long." * 50, "long." * 60 + "x", "%", "a%", "é" * 199, "价格.", "price.ti", "*"}
            prefixes |= {topic[: random.randint(0, len(topic))] for topic in random.sample(ODD, 8)}
            async with self.bus({"serializer": "json", "late_join_ms": 0}) as sender:
                for prefix in sorted(prefixes):
                    async with self.bus() as bus:
                        seen = []

                        async def handler(message):
                            seen.append(message["topic"])

                        for topic in ODD:
                            bus.register_handler(topic, handler)
                        bus.register_handler("the last one", handler)
                        await self.listens(bus, [prefix])
                        await self.listens(bus, ["the last one"])
                        for topic in [*ODD, "the last one"]:
                            await sender.publish(topic, None)
                        wanted = [topic for topic in [*ODD, "the last one"] if topic.startswith(prefix)]
                        if prefix == "":
                            wanted.append("the last one")
                        else:
                            wanted = wanted + ["the last one"]
                        await self.until(lambda: len(seen) >= len(wanted), f"{prefix!r} brings {wanted}")
                        self.assertEqual(sorted(seen), sorted(wanted), repr(prefix))
                self.assertEqual(sender.get_metrics()["errors"], 0)
            self.evidence(topics=len(ODD), prefixes=len(prefixes))

        self.run_async(main())

    def test_a_name_stands_for_a_port_however_it_is_written(self):
        class Answers(MessageBus):
            def _handle_request(self, request):
                return {"asked": request["data"]}

            def _handle_pulled_message(self, message):
                self.pulled.append(message["data"])

        async def main():
            async with self.bus(kind=Answers, name="a") as one, self.bus({"strict": True}) as strict:
                seen, one.pulled = [], []
                one.register_handler("x", lambda message: seen.append(message["data"]))
                await self.listens(one, port="bus://events")
                await self.listens(one, port=7001)
                answering = [asyncio.create_task(one.response_loop("state")), asyncio.create_task(one.pull_results_loop("done"))]
                self.assertTrue(await one.ready("x", "events"))
                for number, port in enumerate(["events", "bus://events", "7001", 7001, "bus://7001", "others"]):
                    self.assertIs(await one.publish("x", number, port), None)
                await self.until(lambda: len(seen) == 5, "each came where it was published")
                self.assertEqual(sorted(seen), [0, 1, 2, 3, 4])
                self.assertEqual(await one.request(1, "bus://state"), {"asked": 1})
                await one.push_result(2, "bus://done")
                await self.until(lambda: one.pulled == [2])
                # What is no name is said to who wants to know, and counted for the others.
                before = one.get_metrics()
                odd = ["", "bus://", "a.b", "a b", "-1x.", "7up", "é", ">", None, 1.5, "x" * 65, "bus://bus://a"]
                for port in odd:
                    self.assertIs(await one.publish("x", 0, port), None)
                    with self.assertRaises(busway.SettingError, msg=repr(port)):
                        await strict.publish("x", 0, port)
                    for loop in (one.subscribe_loop, one.response_loop, one.pull_results_loop):
                        with self.assertRaises(busway.SettingError, msg=repr(port)):
                            await loop(port)
                after = one.get_metrics()
                self.assertEqual(after["outbound_dropped"] - before["outbound_dropped"], len(odd))
                self.assertEqual(after["messages_sent"], before["messages_sent"])
                del answering

        self.run_async(main())

    def test_each_loop_of_a_port_has_its_own_topics_and_a_message_comes_once(self):
        async def main():
            async with self.bus() as bus:
                seen = []

                async def handler(message):
                    seen.append(message["topic"])

                for topic in ("price.tick", "trade.done", "other"):
                    bus.register_handler(topic, handler)
                # The second is the beginning of the first: one subscription.
                await self.listens(bus, ["price.tick", "pri", "price.tick"])
                await self.listens(bus, ["trade"])
                await self.listens(bus, "other")
                for topic in ("price.tick", "trade.done", "other", "nobody's"):
                    await bus.publish(topic, None)
                await self.until(lambda: len(seen) >= 3)
                await bus.publish("other", None)
                await self.until(lambda: len(seen) >= 4)
                self.assertEqual(sorted(seen), ["other", "other", "price.tick", "trade.done"])
                self.assertEqual(bus.get_metrics()["messages_received"], 4)

        self.run_async(main())

    def test_ports_are_spaces_and_any_number_of_buses_publish_on_one(self):
        class Mine(Ports):
            OTHER = 7001

        class Numbers(enum.IntEnum):
            THIRD = 7002

        async def main():
            async with self.bus(name="a") as one, self.bus(name="b") as other:
                seen = []

                async def handler(message):
                    seen.append((message["sender"], message["data"]))

                one.register_handler("x", handler)
                await self.listens(one, port=Ports.GLOBAL_EVENTS)
                await self.listens(one, port=7001)
                await one.publish("x", 1)
                await other.publish("x", 2, Mine.GLOBAL_EVENTS)
                await other.publish("x", 3, port=Mine.OTHER)
                await other.publish("x", 4, Numbers.THIRD)
                self.assertEqual(list(other._publishing.routes)[-1][0], 7002)
                await self.until(lambda: len(seen) == 3)
                self.assertEqual(sorted(seen), [("a", 1), ("b", 2), ("b", 3)])
                self.assertEqual(one.get_metrics()["failed_bind_count"] + other.get_metrics()["failed_bind_count"], 0)

        self.run_async(main())

    def test_other_programs_of_the_bus_read_and_write_the_same_messages(self):
        async def main():
            async with self.bus() as bus:
                seen = []
                bus.register_handler("price.tick", seen.append)
                await self.listens(bus)
                with busway.Bus("default") as plain, plain.subscriber("port.5555.>") as subscriber:
                    await bus.publish("price.tick", {"price": 1})
                    sample = await asyncio.to_thread(subscriber.recv, PATIENCE)
                    self.assertEqual(sample.topic, "port.5555.price.tick")
                    message = sample.json()
                    self.assertEqual((message["topic"], message["data"]), ("price.tick", {"price": 1}))
                    with plain.publisher("port.5555.price.tick") as publisher:
                        publisher.send_json({**message, "data": "by hand"})
                        await self.until(lambda: len(seen) == 2)
                        for nonsense in (b"", b"{", b"[]", b'"x"', b"{}", b'{"topic":[]}', b'{"topic":1}', b"\xff\xfe", b"7"):
                            publisher.send(nonsense)
                        publisher.send_json({**message, "data": "after it"})
                        await self.until(lambda: len(seen) == 3)
                self.assertEqual([one["data"] for one in seen], [{"price": 1}, "by hand", "after it"])
                metrics = bus.get_metrics()
                self.assertEqual((metrics["messages_received"], metrics["inbound_dropped"], metrics["errors"]), (12, 9, 9))

        self.run_async(main())

    def test_a_message_of_any_size_comes_whole(self):
        async def main():
            async with self.bus() as bus:
                seen = []
                bus.register_handler("x", lambda message: seen.append(message["data"]))
                await self.listens(bus)
                # More large ones at once than a subscriber may hold.
                sizes = [0, 1, 10_000] + [200_000] * 150 + [5_000_000]
                for size in sizes:
                    await bus.publish("x", "d" * size)
                await self.until(lambda: len(seen) == len(sizes))
                self.assertEqual([len(data) for data in seen], sizes)

        self.run_async(main())

    def test_a_stalled_handler_has_its_queue_and_its_publisher_waits_no_longer_than_was_said(self):
        async def main():
            stuck, seen = Gate(), []
            config = {"hwm_inbound": 10, "hwm_outbound": 64, "pub_send_timeout": 0.2}
            async with self.bus(config) as sender, self.bus({"hwm_inbound": 10}) as slow, self.bus() as quick:
                slow.register_handler("x", stuck)

                async def handler(message):
                    seen.append(message["data"])

                quick.register_handler("x", handler)
                await self.listens(slow)
                await self.listens(quick)
                self.assertTrue(await sender.ready("x"))
                for number in range(10 + 64):
                    await sender.publish("x", number)
                    await self.until(lambda: len(seen) == number + 1)
                    await self.until(lambda: slow.get_metrics()["messages_received"] == min(number + 1, 10))
                metrics = slow.get_metrics(extended=True)
                self.assertEqual((metrics["inbound_waiting"], metrics["inbound_dropped"]), (10, 0))
                self.assertEqual(sender.get_metrics()["backpressure_events"], 0)
                loop = asyncio.get_running_loop()
                began = loop.time()
                await sender.publish("x", 74)
                self.assertGreaterEqual(loop.time() - began, 0.15)
                self.assertEqual(sender.get_metrics()["backpressure_events"], 1)
                self.assertEqual(sender.get_metrics()["outbound_dropped"], 1)
                # It is not waited for again, and who is quick has lost nothing.
                for number in range(75, 120):
                    await sender.publish("x", number)
                self.assertEqual(sender.get_metrics()["backpressure_events"], 1)
                await self.until(lambda: len(seen) == 120)
                self.assertEqual(seen, list(range(120)))
                self.assertEqual((sender.get_metrics()["messages_sent"], sender.get_metrics()["errors"]), (120, 0))
                stuck.open.set()
                await self.until(lambda: slow.get_metrics()["inbound_dropped"] > 0)
                await self.until(lambda: stuck.handled and stuck.handled[-1] == 119)
                lost = slow.get_metrics()["inbound_dropped"]
                self.assertEqual(len(stuck.handled) + lost, 120)
                self.assertEqual(sender.get_metrics()["outbound_dropped"], lost)
                self.evidence(sent=120, handled=len(stuck.handled), dropped=lost)

        with self.assertLogs("message_bus", "WARNING"):
            self.run_async(main())

    def test_counts_do_not_fall_when_a_slow_subscriber_leaves(self):
        async def main():
            stuck = Gate()
            async with self.bus({"hwm_outbound": 32, "pub_send_timeout": 0.05}) as sender:
                async with self.bus({"hwm_inbound": 1}) as slow:
                    slow.register_handler("x", stuck)
                    await self.listens(slow)
                    await sender.ready("x")
                    for number in range(200):
                        await sender.publish("x", number)
                    before = sender.get_metrics()["outbound_dropped"]
                    self.assertGreaterEqual(before, 200 - 1 - 1 - 32)
                await sender.publish("x", 200)
                self.assertGreaterEqual(sender.get_metrics()["outbound_dropped"], before)

        with self.assertLogs("message_bus", "WARNING"):
            self.run_async(main())

    def test_a_policy_that_drops_makes_nobody_wait(self):
        async def main():
            stuck = Gate()
            async with self.bus({"hwm_outbound": 32}) as sender:
                async with self.bus({"policy": "drop-oldest", "hwm_inbound": 1}) as slow:
                    slow.register_handler("x", stuck)
                    await self.listens(slow)
                    await sender.ready("x")
                    for number in range(500):
                        await sender.publish("x", number)
                    metrics = sender.get_metrics()
                    self.assertEqual((metrics["messages_sent"], metrics["backpressure_events"]), (500, 0))
                    stuck.open.set()
                    await self.until(lambda: stuck.handled and stuck.handled[-1] == 499)
                    self.assertEqual(len(stuck.handled) + slow.get_metrics()["inbound_dropped"], 500)

        self.run_async(main())

    def test_an_odd_bus_name_is_a_name(self):
        async def main():
            for odd in ("", "-x", "é" * 100, "a\nb", "分析"):
                async with self.bus(name=odd) as bus:
                    self.assertTrue((await bus.publish_ex("x", 1)).accepted)
            self.assertIsInstance(MessageBus(service_name="keyword", config=None), MessageBus)

        self.run_async(main())
