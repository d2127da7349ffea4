"""Data of `message_bus` that is no JSON, and the counts as others read them."""

import asyncio
import contextlib
import importlib.util
import logging
import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from unittest import mock

import busway
from bus_stage import BusClaims, Gate, threads
from message_bus import MessageBus, _exporter, build_serializer
from message_bus._payloads import RawSerializer
from stage import PATIENCE, resident


class Echo(MessageBus):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.results = []

    async def _handle_pulled_message(self, message):
        self.results.append(message["data"])

    async def _handle_request(self, request):
        return request["data"]


def there(name):
    return importlib.util.find_spec(name) is not None


def free_port():
    """One that nobody is given who asks for any: so that it is free still when it is used, and again afterwards."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as given:
        first = int(given.read().split()[0])
    while True:
        port = random.SystemRandom().randrange(min(first, 1 << 15) // 2, max(first, 1 << 14))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Payloads(BusClaims):
    async def round(self, serializer, data):
        """What becomes of data that is published, pushed and asked with."""
        async with self.bus({"serializer": serializer, "late_join_ms": 1000 * PATIENCE}) as sender, self.bus({"serializer": serializer}, kind=Echo) as bus:
            seen = []
            bus.register_handler("x", seen.append)
            await self.listens(bus)
            asyncio.create_task(bus.pull_results_loop())
            asyncio.create_task(bus.response_loop())
            await sender.publish("x", data)
            await sender.push_result(data)
            answer = await sender.request(data, timeout=PATIENCE)
            await self.until(lambda: seen and bus.results)
            self.assertEqual((seen[0]["topic"], seen[0]["sender"]), ("x", "test"))
            self.assertEqual(sender.get_metrics()["errors"] + bus.get_metrics()["errors"], 0)
            return seen[0]["data"], bus.results[0], answer

    def test_bytes_go_as_they_are_and_what_is_none_is_refused(self):
        data = bytes(range(256)) * 300
        for one in (data, bytearray(data), memoryview(data)):
            self.assertEqual(self.run_async(self.round("raw", one)), (data, data, data))

        async def main():
            async with self.bus({"serializer": "raw"}) as bus:
                for wrong in ({"a": 1}, "text", 5, None):
                    self.assertEqual((await bus.publish_ex("x", wrong)).cause, "unserialisable")

        self.run_async(main())

    def test_bytes_that_are_no_message_are_refused_whatever_they_are(self):
        raw, seed = RawSerializer(), 47
        random.seed(seed)
        good = raw.dumps({"topic": "x", "sender": "y", "ts": 1.0, "data": b"data"})
        self.assertEqual(raw.loads(good)["data"], b"data")
        # Its head says that it is longer than the message.
        empty = bytearray(raw.dumps({"sender": "y", "data": b""}))
        self.assertEqual(raw.loads(empty), {"sender": "y", "data": b""})
        empty[1] += 1
        with self.assertRaises(ValueError):
            raw.loads(empty)
        refused = 0
        for _ in range(20_000):
            bad = bytearray(good)
            for _ in range(random.randint(1, 4)):
                bad[random.randrange(min(len(bad), 12))] = random.randrange(256)
            del bad[random.randint(0, len(bad)) :]
            try:
                raw.loads(bytes(bad))
            except ValueError:
                refused += 1
        self.assertGreater(refused, 10_000)
        self.evidence(seed=seed, messages=20_000, refused=refused)

    def test_messagepack_and_tables_go_where_their_packages_are(self):
        lacking = []
        if there("msgpack"):
            data = {"a": [1, 2.5, b"bytes", None], 7: "é"}
            self.assertEqual(self.run_async(self.round("msgpack", data)), (data, data, data))
        else:
            lacking.append("msgpack")
        if there("pyarrow"):
            import pyarrow

            table = pyarrow.table({"symbol": ["BTC", "ETH"], "price": [1.5, 2.5]})
            for data in (table, table.to_batches()[0]):
                for came in self.run_async(self.round("arrow", data)):
                    self.assertTrue(came.equals(table))
        else:
            lacking.append("pyarrow")
        self.evidence(lacking=",".join(lacking) or "none")

    def test_what_nests_claims_or_has_no_bound_is_refused_and_the_next_is_handled(self):
        head = b'{"topic":"x","sender":"y","ts":1,"data":'
        packed = b"\x84\xa5topic\xa1x\xa6sender\xa1y\xa2ts\x01\xa4data"
        texts = [head + b"[" * 100_000, head + b'{"a":' * 100_000, head + b"1e400}", head + b"NaN}", b"[" * 100_000, b"1e400"]
        # Of 2^32 elements, and of as many bytes, there are none.
        claims = [packed + claim + b"\xff" * 4 for claim in (b"\xdd", b"\xdf", b"\xc6", b"\xdb")]
        claims += [packed + b"\x91" * 100_000, b"\xdd" + b"\xff" * 4]
        hostile = {"json": texts}
        hostile |= {name: of for name, of in (("orjson", texts), ("msgpack", claims)) if there(name)}

        async def main(serializer, payloads):
            config = {"serializer": serializer, "late_join_ms": 1000 * PATIENCE}
            async with self.bus(config) as sender, self.bus(config, kind=Echo) as bus:
                seen, count = [], len(payloads)
                bus.register_handler("x", seen.append)
                await self.listens(bus, ["x"])
                asyncio.create_task(bus.pull_results_loop())
                asyncio.create_task(bus.response_loop())
                self.assertEqual(await sender.request("first", timeout=PATIENCE), "first")
                with busway.Bus("default") as plain, plain.requester("requests.5557") as requester:
                    with plain.publisher("port.5555.x") as publisher, plain.pusher("results.5556") as pusher:
                        before = resident()
                        for payload in payloads:
                            publisher.send(payload)
                            pusher.send(payload)
                            answer = await asyncio.to_thread(requester.request, payload, PATIENCE)
                            self.assertIn(b"Invalid JSON", bytes(answer))
                        await self.until(lambda: bus.get_metrics()["inbound_dropped"] == 3 * count)
                        self.assertLess(resident() - before, 64 << 20, "no memory for what is only claimed")
                await sender.publish("x", "last")
                await sender.push_result("last")
                self.assertEqual(await sender.request("last", timeout=PATIENCE), "last")
                await self.until(lambda: seen and bus.results)
                self.assertEqual((seen[0]["data"], bus.results, len(seen)), ("last", ["last"], 1))
                causes = bus.get_metrics(extended=True)["causes"]
                self.assertEqual(causes["errors.undecodable"], 3 * count)

        with self.assertLogs("message_bus", logging.WARNING):
            for serializer, payloads in hostile.items():
                self.run_async(main(serializer, payloads))
        self.evidence(serializers=",".join(hostile), payloads=sum(map(len, hostile.values())))

    def test_a_package_that_is_not_installed_is_named_with_how_to_get_it(self):
        for name, package in (("msgpack", "msgpack"), ("arrow", "pyarrow")):
            with mock.patch.dict(sys.modules, {package: None}):
                with self.assertRaisesRegex(ImportError, f"pip install {package}"):
                    build_serializer(name)
                with self.assertRaisesRegex(ImportError, f"pip install {package}"):
                    MessageBus("x", {"serializer": name})
        script = "import message_bus, sys\nassert not {'msgpack', 'pyarrow', 'http.server'} & set(sys.modules), 'imported'\n"
        self.assertEqual(subprocess.run([sys.executable, "-c", script], timeout=PATIENCE).returncode, 0)


class Counts(BusClaims):
    def test_what_became_of_what_was_sent_is_told_and_adds_up(self):
        async def main():
            async with self.bus() as bus, self.bus(kind=Echo) as other:
                seen = []
                other.register_handler("x", seen.append)
                await self.listens(other, ["x"])
                asyncio.create_task(other.pull_results_loop())
                for number in range(50):
                    await bus.publish("x", number)
                    await bus.push_result(number)
                await bus.publish("nobody's", 0)
                await self.until(lambda: len(seen) == len(other.results) == 50)
                await self.until(lambda: bus.get_metrics(extended=True)["delivered"] == 100)
                counts = bus.get_metrics(extended=True)
                self.assertEqual(counts["expected"], counts["delivered"] + counts["in_flight"] + sum(counts["lost"].values()))
                self.assertEqual((counts["in_flight"], counts["lost"]), (1, {}))
                # What a route has counted stays when it is closed.
                await bus.cleanup()
                self.assertEqual(bus.get_metrics(extended=True)["delivered"], 100)

        async def loses():
            async with self.bus({"hwm_outbound": 32}) as bus, self.bus({"hwm_inbound": 1, "policy": "drop-oldest"}) as slow:
                stuck = Gate()
                slow.register_handler("x", stuck)
                await self.listens(slow)
                await bus.ready("x")
                for number in range(200):
                    await bus.publish("x", number)
                stuck.open.set()
                await self.until(lambda: stuck.handled and stuck.handled[-1] == 199)
                await self.until(lambda: bus.get_metrics(extended=True)["in_flight"] == 0)
                for counts in (bus.get_metrics(extended=True), (await bus.cleanup(), bus.get_metrics(extended=True))[1]):
                    self.assertEqual((counts["expected"], counts["delivered"]), (200, len(stuck.handled)))
                    self.assertEqual(counts["lost"], {"lapped": 200 - len(stuck.handled)})
                    self.assertEqual(counts["outbound_dropped"], 200 - len(stuck.handled))
                return len(stuck.handled)

        self.run_async(main())
        handled = self.run_async(loses())
        self.evidence(expected=200, delivered=handled, lost=200 - handled)

    def test_the_counts_are_text_and_found_at_an_address_with_no_code(self):
        port = free_port()

        def get(path="/metrics"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
                return answer.read().decode()

        async def main():
            config = {"metrics_port": port}
            odd = 'a"b\\c\n'
            async with self.bus(config, name="first") as bus:
                self.assertIn('bus_messages_sent_total{service="first"} 0', bus.metrics_text())
                async with self.bus(config, name=odd) as other:
                    for number in range(3):
                        await bus.publish("x", number)
                    await other.publish("x", 3)
                    await other.publish("x", object())
                    text = await asyncio.to_thread(get)
                    self.assertIn('bus_messages_sent_total{service="first"} 3', text)
                    self.assertIn('bus_errors_total{service="a\\"b\\\\c\\n"} 1', text)
                    self.assertIn('bus_causes_total{service="a\\"b\\\\c\\n",cause="outbound_dropped.unserialisable"} 1', text)
                    self.assertIn("# TYPE bus_active_connections gauge", text)
                    names = {line.split("{")[0] for line in text.splitlines() if not line.startswith("#")}
                    for name in list(bus.get_metrics()):
                        self.assertTrue({f"bus_{name}_total", f"bus_{name}"} & names, name)
                    for line in text.splitlines():
                        self.assertRegex(line, r'^(# (HELP|TYPE) bus_\w+ .+|bus_\w+\{service="([^"\\]|\\.)*"(,cause="[^"]*")?\} \d+)$')
                    with self.assertRaises(urllib.error.HTTPError):
                        await asyncio.to_thread(get, "/secret")
                # Who is cleaned up is not shown.
                text = await asyncio.to_thread(get)
                self.assertEqual((text.count("first") > 0, 'a\\"b' in text), (True, False))
            with self.assertRaises(OSError):
                await asyncio.to_thread(get)
            # Who is started again has its address at once.
            async with self.bus(config, name="again") as bus:
                await bus.publish("x", 1)
                self.assertIn('bus_messages_sent_total{service="again"} 1', await asyncio.to_thread(get))
                self.assertEqual(bus.get_metrics()["failed_bind_count"], 0)

        with self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    def test_clients_of_the_address_cost_one_thread_and_keep_nobody_from_it(self):
        port, clients = free_port(), 150

        def get():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
                return answer.read().decode()

        async def main():
            async with self.bus({"metrics_port": port}) as bus:
                await bus.publish("x", 1)
                before = threads()
                with contextlib.ExitStack() as open:
                    for number in range(clients):
                        client = open.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
                        # Some say nothing, some half of it, and some what nobody asked for.
                        client.sendall((b"", b"GET /metr", b"\0" * 100)[number % 3])
                    self.assertIn("bus_messages_sent_total", await asyncio.to_thread(get))
                    self.assertLessEqual(len(threads()), len(before) + 1, "one of ours, which asked")
                    self.assertLessEqual(len(_exporter._servers[port]._clients), _exporter.CLIENTS_MAX, "the oldest made room")
            with self.assertRaises(OSError):
                await asyncio.to_thread(get)
            self.evidence(clients=clients, threads=1)

        self.run_async(main())

    def test_an_address_that_another_program_has_does_not_end_the_bus(self):
        async def main(port):
            async with self.bus({"metrics_port": port}) as bus:
                self.assertTrue((await bus.publish_ex("x", 1)).accepted)
                self.assertEqual(bus.get_metrics()["failed_bind_count"], 1)

        with socket.socket() as taken, self.assertLogs("message_bus", logging.ERROR) as logs:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.run_async(main(taken.getsockname()[1]))
        self.assertIn("cannot be opened", logs.records[0].getMessage())
