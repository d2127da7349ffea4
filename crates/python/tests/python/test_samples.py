"""A sample shows memory that is not its own, and lets it go."""

import gc

import busway
from stage import PATIENCE, Child, Claims, mapping_of, mappings

SIZE = 1 << 20


class Samples(Claims):
    def setUp(self):
        self.bus = busway.Bus("samples")
        self.addCleanup(self.bus.close)

    def test_a_message_of_more_than_96_bytes_is_shown_where_its_publisher_wrote_it(self):
        script = """
with busway.Bus("samples") as bus, bus.publisher("large") as publisher:
    publisher.wait_for_subscribers(1, PATIENCE)
    publisher.send(bytes(range(256)) * 4096)
    print("sent", flush=True)
    sys.stdin.readline()
"""
        subscriber = self.bus.subscriber("large")
        with Child(script) as child:
            sample = subscriber.recv(PATIENCE)
            self.assertEqual(child.hear(), "sent")
            self.assertTrue(sample.held)
            view = memoryview(sample)
            self.assertEqual(view, bytes(range(256)) * 4096)
            here = mapping_of(view)
            self.assertIn("memfd:busway", here.name)
            self.assertEqual(here.mode, "r--s", "we cannot write there")
            theirs = [m for m in mappings(child.process.pid) if m.inode == here.inode]
            self.assertIn("rw-s", [m.mode for m in theirs], "it is the memory of its publisher")
            self.assertEqual(mapping_of(memoryview(view)[500:]).inode, here.inode, "a part of it as well")
            self.evidence(bytes=len(view), mapping=here.name, copies=0)

    def test_nobody_can_write_into_a_sample(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        for message in (b"small", b"l" * 1000):
            publisher.send(message)
            sample = subscriber.recv(PATIENCE)
            view = sample.data
            self.assertTrue(view.readonly)
            with self.assertRaises(TypeError):
                view[0] = 0
            with self.assertRaises((BufferError, TypeError)):
                import ctypes

                (ctypes.c_char * len(message)).from_buffer(sample)
            self.assertEqual(bytes(sample), message)

    def test_a_sample_keeps_its_bytes_while_it_is_shown_and_others_come_and_go(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x", slots_max=64)
        publisher.send(b"first" * 100)
        view = memoryview(subscriber.recv(PATIENCE))
        # Nothing but the view has a reference to the sample now.
        gc.collect()
        for number in range(2000):
            publisher.send(number.to_bytes(4, "big") * 125)
            sample = subscriber.recv(PATIENCE)
            self.assertEqual(sample.data[:4], number.to_bytes(4, "big"))
        self.assertEqual(view, b"first" * 100)
        self.assertEqual(self.bus.held, 2)
        del view, sample
        gc.collect()
        self.assertEqual(self.bus.held, 0)

    def test_a_sample_that_is_shown_is_not_released_and_one_that_is_released_is_not_shown(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        for message in (b"small", b"l" * 1000):
            publisher.send(message)
            with subscriber.recv(PATIENCE) as sample:
                with memoryview(sample) as view:
                    with self.assertRaises(BufferError):
                        sample.release()
                    self.assertEqual(view, message)
            self.assertEqual(self.bus.held, 0)
            with self.assertRaises(ValueError):
                memoryview(sample)
            with self.assertRaises(ValueError):
                sample.topic
            sample.release()

    def test_no_more_memory_is_held_than_was_allowed(self):
        subscriber = self.bus.subscriber("x", holds=4, policy="drop-newest:64")
        subscriber = self.bus.subscriber("y", holds=4)
        publisher = self.bus.publisher("y", bytes_max=64 * SIZE)
        for _ in range(8):
            publisher.send(bytes(SIZE))
        batch = subscriber.recv_many(8, PATIENCE)
        self.assertEqual(len(batch), 4, "what is there beyond cannot be held")
        with self.assertRaises(busway.ResourceError) as told:
            subscriber.recv(PATIENCE)
        self.assertEqual(told.exception.code, "BUS-0306")
        batch.pop(0).release()
        self.assertEqual(subscriber.recv(PATIENCE).sequence, 5, "nothing was lost meanwhile")
        batch.clear()
        gc.collect()
        for number in range(200):
            publisher.send(bytes(SIZE))
            subscriber.try_recv_many()
        gc.collect()
        self.assertEqual(self.bus.held, 0)
        taken = self.bus.inspect()["budget"]["reserved_bytes"]
        self.assertLess(taken, 100 * SIZE)
        self.evidence(sent_bytes=208 * SIZE, memory=taken)

    def test_a_sample_is_compared_measured_and_decoded_like_bytes(self):
        subscriber, publisher = self.bus.subscriber("x.*"), self.bus.publisher("x.y")
        publisher.send(b"")
        empty = subscriber.recv(PATIENCE)
        self.assertTrue(empty, "an empty message is a message")
        self.assertEqual((len(empty), bytes(empty)), (0, b""))
        publisher.send_json({"symbol": "BTC", "price": 43210.5})
        sample = subscriber.recv(PATIENCE)
        self.assertEqual(sample.json(), {"symbol": "BTC", "price": 43210.5})
        self.assertEqual(sample, bytes(sample))
        self.assertEqual(sample, bytearray(bytes(sample)))
        self.assertNotEqual(sample, b"else")
        self.assertNotEqual(sample, "text")
        self.assertEqual((sample.topic, sample.sequence), ("x.y", 2))
        self.assertEqual(sample.publisher.name, self.bus.name)
        self.assertEqual(b"".join([empty, sample]), bytes(sample))
        self.assertGreater(sample.time_ns, 1_600_000_000_000_000_000)

    def test_bytes_that_hold_no_json_and_values_that_are_none_are_errors_of_the_bus(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        hostile = [b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b'{"a":' * 50_000, b"\x80abc", b"1 2", b'"\\ud800', b"\x00" * 7, b"9" * 5000]
        hostile += [b"NaN", b"[1, -Infinity]", b'{"price":Infinity}', b"1e400", b'{"price":-1e999}', b"9" * 400 + b".5"]
        for payload in hostile:
            publisher.send(payload)
            with subscriber.recv(PATIENCE) as sample, self.assertRaises(busway.CodecError) as raised:
                sample.json()
            error = raised.exception
            self.assertEqual((error.code, isinstance(error, ValueError)), ("BUS-0702", True), payload[:9])
            self.assertLess(len(error.cause), 300)
            self.assertIsNotNone(error.__cause__)
        for payload, value in ((b'{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}), ('\ufeff["\u00e4"]'.encode(), ["\u00e4"]), ("[1]".encode("utf-16"), [1])):
            publisher.send(payload)
            with subscriber.recv(PATIENCE) as sample:
                self.assertEqual(sample.json(), value, "the last of a field that comes twice, in any encoding of Unicode")
        cycle = []
        cycle.append(cycle)
        deep = []
        for _ in range(100_000):
            deep = [deep]
        no_numbers = (float("nan"), [float("inf")], {"price": float("-inf")})
        for value in ({1, 2}, object(), cycle, deep, {(1, 2): 3}, *no_numbers):
            with self.assertRaises(busway.CodecError) as raised:
                publisher.send_json(value)
            self.assertEqual(raised.exception.code, "BUS-0701")
        while deep:
            deep = deep.pop()
        self.assertIsNone(subscriber.try_recv())
        self.evidence(hostile=len(hostile))
