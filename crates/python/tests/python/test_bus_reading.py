"""Messages of `message_bus` that are decoded while they are taken: what is read is what `json` and `orjson` read."""

import gc
import json
import logging
import random
from unittest import mock

import busway
from busway import aio
from bus_stage import BusClaims
from busway._busway import _parsed
from message_bus import MessageBus
from message_bus._names import name
from message_bus._serializers import JsonSerializer, orjson
from stage import PATIENCE, Child

TEXTS = ["", "a", "topic", "价格", "é", "\U0001f600", "\n\t\x00\x1f\x7f", '"\\/', "x" * 23, "x" * 24, "x" * 25, "y" * 300, "\\u0041"]
#: What readers of JSON do not all read alike, or not at all.
DOUBTS = [
    *["-0", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "--1", "0x10", "1_0", "١", "1e999", "-1e999", "18446744073709551616", "9" * 400],
    *["NaN", "Infinity", "-Infinity", "nul", "truee", "null null", "", " ", "[", "]", "[1,]", "[1 2]", "{,}", '{"a"}', '{"a":1,}', "{1:2}"],
    *['"', '"\\', '"\\x"', '"\\u12"', '"\\u12g4"', '"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"\\ud800x"', '"a\nb"', '"a\x00b"', "'a'"],
    *["[" * 65 + "]" * 65, "[" * 5000, '{"a":' * 65 + "1" + "}" * 65, "\ufeff1", "1\x00", "//1", "[1]x"],
]


def value(depth):
    """Whatever JSON can say."""
    kind = random.randrange(12 if depth < 4 else 9)
    if kind < 3:
        return random.choice(TEXTS) + random.choice(TEXTS)
    if kind < 5:
        return random.choice([random.randint(-9, 9), random.randint(-(2**63), 2**63), 10**18 - 1, -(10**18), 2**64 - 1, -(2**63)])
    if kind < 7:
        return random.choice([random.random(), random.uniform(-1e9, 1e9), random.uniform(1, 9) * 10.0 ** random.randint(-320, 300), -0.0, 5e-324])
    if kind < 9:
        return random.choice([True, False, None])
    if kind == 9:
        return [value(depth + 1) for _ in range(random.randrange(5))]
    return {random.choice(TEXTS) + str(random.randrange(3)): value(depth + 1) for _ in range(random.randrange(5))}


def written(of):
    """A document, in one of the ways in which it may stand there."""
    style = random.choice([{"separators": (",", ":")}, {}, {"indent": "\t "}, {"indent": 0}])
    text = json.dumps(of, ensure_ascii=random.random() < 0.5, **style)
    return text.replace("/", "\\/") if random.random() < 0.1 else text


def by(loads, document):
    """What a reader makes of a document: each value with its type; or that it refuses it."""
    try:
        return repr(loads(document))
    except (ValueError, RecursionError):
        return "refused"


class Reading(BusClaims):
    def alike(self, document):
        """Whether a document was read; where it was, as all read it."""
        read = _parsed(document)
        if read is NotImplemented:
            return False
        self.assertEqual(repr(read), by(json.loads, document), document)
        if orjson is not None:
            self.assertEqual(repr(read), by(orjson.loads, document), document)
        return True

    def test_what_is_decoded_while_it_is_taken_is_what_others_read(self):
        seed, documents, read = 53, 50_000, 0
        random.seed(seed)
        for _ in range(documents):
            document = written(value(0)).encode()
            self.assertTrue(self.alike(document), document)
            # And with something wrong, which need not show.
            broken = bytearray(document)
            for _ in range(random.randint(1, 3)):
                at = random.randrange(len(broken) + 1)
                broken[at : at + random.randrange(3)] = random.choice([b"", b'"', b"\\", b"0", b",", b"]", b"\xff", b"\xc3", b"e", b"-", b"{"])
            read += self.alike(bytes(broken))
        for document in DOUBTS:
            self.assertFalse(self.alike(document.encode()), document)
        for document in (b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b"1\x00", b'\xff\xfe1\x00'):
            self.assertFalse(self.alike(document), document)
        # What is written twice counts once.
        self.assertTrue(self.alike(b' {"a":1,"b":2,"a":{"a":3}} '))
        self.assertTrue(self.alike(b"[" * 64 + b"]" * 64))
        self.evidence(seed=seed, documents=documents, broken=documents, broken_and_read=read)

    def test_a_reader_is_called_while_another_reads(self):
        class Node:
            def __init__(self):
                self.me = self

            def __del__(self):
                read.append(_parsed(b'{"a":["b"]}'))

        read, before = [], gc.get_threshold()
        self.addCleanup(gc.set_threshold, *before)
        gc.set_threshold(1)
        for number in range(200):
            Node()
            self.assertEqual(_parsed(b'{"a":[{"b":%d},[],{}]}' % number), {"a": [{"b": number}, [], {}]})
        gc.set_threshold(*before)
        gc.collect()
        self.assertEqual(read, [{"a": ["b"]}] * 200)

    def test_a_serializer_reads_whatever_comes_after_it_was_set(self):
        class Own:
            dumps, loads = staticmethod(json.dumps), staticmethod(lambda text: {**json.loads(text), "by": type(text).__name__})

        patched = JsonSerializer()
        patched.loads = Own.loads

        async def main(serializer):
            async with self.bus() as bus, self.bus() as sender:
                seen = []
                bus.register_handler("x", seen.append)
                await self.listens(bus)
                await self.until(lambda: all(one._waiting for one in bus._subscribing._subscribers), "the loop sleeps")
                bus.serializer = serializer
                await sender.publish("x", 1)
                await self.until(lambda: seen)
                return seen[0]["data"], seen[0].get("by")

        for serializer in (Own(), patched):
            self.assertEqual(self.run_async(main(serializer)), (1, "str"))

    def test_what_there_is_no_memory_for_costs_one_message_and_no_other(self):
        # In a program of its own, where nothing is left of before that would be room.
        script = """
import ctypes, resource
size, count, memory = 8 << 20, 6, resource.RLIMIT_AS
if hasattr(c := ctypes.CDLL(None), "mallopt"):
    # What is large is mapped each time.
    c.mallopt(-3, 1 << 20)
before = resource.getrlimit(memory)
with busway.Bus() as bus, bus.subscriber("large", holds=2 * count) as subscriber, bus.publisher("large") as publisher:
    def send():
        for number in range(count):
            publisher.send(bytes([number]) * size)
    send()
    samples = [subscriber.recv(PATIENCE) for _ in range(count)]
    del samples
    # All is mapped now that a message lies in.
    send()
    held, lost, calls = [], 0, 0
    for room in (2.5, 2.5, 0.5, 100):
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(memory, (used + int(room * size), before[1]))
        try:
            runs = subscriber._try_recv_runs(64, True)
            calls += 1
        except MemoryError:
            runs, lost = [], lost + 1
        finally:
            resource.setrlimit(memory, before)
        held += [message for _, messages in runs for message in messages]
    print([message[0] for message in held], lost, calls)
"""
        with Child(script) as child:
            self.assertEqual(child.hear(), "[0, 1, 2, 3, 5] 1 3")
        self.evidence(taken=5, lost=1)

    def test_a_message_without_memory_is_counted_and_the_loop_goes_on(self):
        recv, failures = aio.Subscriber._recv_runs, 3

        async def fails(*arguments):
            nonlocal failures
            if failures:
                failures -= 1
                # That as many samples are held as may be costs none.
                raise MemoryError if failures else busway.ResourceError(306, "held")
            return await recv(*arguments)

        async def main():
            async with self.bus() as bus:
                seen = []
                bus.register_handler("x", seen.append)
                await self.listens(bus)
                await bus.publish("x", 1)
                await self.until(lambda: seen)
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["messages_received"], metrics["inbound_dropped"]), (3, 2))
                self.assertEqual(metrics["causes"]["inbound_dropped.undecodable"], 2)

        with mock.patch.object(aio.Subscriber, "_recv_runs", fails), self.assertLogs("message_bus", logging.WARNING):
            self.run_async(main())

    async def takes(self, config, documents):
        """What a bus makes of documents on the topic `x`, and what it counts."""
        async with self.bus(config) as bus:
            seen = []

            async def handler(message):
                seen.append(message)

            bus.add_handler(">", handler)
            await self.listens(bus)
            with busway.Bus() as other, other.publisher(name(5555, "x"), slots_max=4096) as publisher:
                publisher.wait_for_subscribers(timeout=PATIENCE)
                for start in range(0, len(documents), 16):
                    # Some of a batch are larger than what is copied while it is taken.
                    publisher.send_many(documents[start : start + 16])
                    await self.until(lambda: bus.metrics.messages_received >= min(start + 16, len(documents)))
            await self.until(lambda: bus.get_metrics(extended=True)["inbound_waiting"] == 0)
            metrics = bus.get_metrics(extended=True)
            return seen, [metrics[one] for one in ("messages_received", "inbound_dropped", "errors")], metrics["causes"]

    def test_a_message_comes_alike_whether_it_was_decoded_while_it_was_taken_or_not(self):
        class Slowly:
            """The same reader as one of the program's own."""

            dumps, loads = staticmethod(json.dumps), staticmethod(MessageBus("x").serializer.loads)

        seed = 54
        random.seed(seed)
        plain = [written({"topic": random.choice(["x", "y.z", "价格"]), "data": value(0), "n": number}) for number in range(400)]
        odd = ['{"topic":"x","data":%s}' % doubt for doubt in DOUBTS]
        odd += ['{"topic":5}', '{"topic":null}', "{}", "[]", "5", '"topic"', '{"\\u0074opic":"x"}', '{"data":1}', '{"topic":["x"]}']
        odd += ['{"topic":"x","\\u0074opic":"y"}', '{"topic":"x","topic":"y"}', '{"topic":"x","topic":5}', '{"data":{"topic":"y"},"topic":"x"}']
        odd += [json.dumps({"topic": "x", "data": "é" * size}) for size in (700, 2000, 200_000, 400_000)]
        documents = plain + odd * 2
        random.shuffle(documents)
        documents = [document.encode("utf-8", "surrogatepass") for document in documents]
        for ordering in ("topic", "none"):
            slowly = self.run_async(self.takes({"serializer": Slowly(), "ordering": ordering}, documents))
            quickly = self.run_async(self.takes({"serializer": "json", "ordering": ordering}, documents))
            self.assertEqual(repr(quickly), repr(slowly))
            self.assertGreater(quickly[1][1], 50)
        self.evidence(seed=seed, messages=len(documents), undecodable=quickly[1][1])
