"""What a `message_bus` is configured with, and what it says of a wrong word."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from bus_stage import BusClaims
from message_bus import (
    DEFAULT_CONFIG,
    JsonSerializer,
    MessageBus,
    OrjsonSerializer,
    Ports,
    Serializer,
    Topics,
    _serializers,
    build_serializer,
)
from stage import PATIENCE

#: The keys of the ZeroMQ message bus with their defaults.
ITS_KEYS = {
    "hwm_outbound": 1000,
    "hwm_inbound": 1000,
    "pub_send_timeout": 1.0,
    "push_send_timeout": 1.0,
    "req_total_timeout": 5.0,
    "rep_recv_timeout": 30.0,
    "rep_send_timeout": 5.0,
    "failed_socket_cooldown": 10.0,
    "handler_max_concurrency": None,
    "log_level_no_handler": "DEBUG",
    "serializer": "json",
    "close_linger_ms": 100,
}


class Settings(BusClaims):
    def test_the_twelve_keys_have_the_defaults_that_programs_know(self):
        self.assertEqual({key: DEFAULT_CONFIG[key] for key in ITS_KEYS}, ITS_KEYS)
        self.assertEqual(list(DEFAULT_CONFIG)[:12], list(ITS_KEYS))
        self.assertEqual((Ports.GLOBAL_EVENTS, Ports.TASK_RESULTS, Ports.STATE_MANAGEMENT), (5555, 5556, 5557))
        self.assertEqual(Topics.PRICE_TICK, "price.tick")

    def test_an_unknown_key_is_told_once_with_what_was_meant(self):
        with self.assertLogs("message_bus", logging.WARNING) as logs:
            MessageBus("x", {"hwm_outbund": 5, "colour": "red"})
        told = [record.getMessage() for record in logs.records]
        self.assertEqual(len(told), 2)
        self.assertIn("did you mean 'hwm_outbound'?", told[0])
        self.assertNotIn("did you mean", told[1])
        with self.assertRaisesRegex(ValueError, "'hwm_outbound'"):
            MessageBus("x", {"hwm_outbund": 5, "strict": True})

    def test_a_value_that_cannot_be_meant_is_refused_where_it_is_given(self):
        wrong = {
            "hwm_outbound": [-1, 1.5, True, "10", None, 1 << 21],
            "hwm_inbound": [-1, None, []],
            "pub_send_timeout": [-1, "1", None, float("nan"), float("inf"), True],
            "push_send_timeout": [-0.1],
            "req_total_timeout": ["five"],
            "rep_recv_timeout": [None],
            "rep_send_timeout": [float("-inf")],
            "failed_socket_cooldown": [-1],
            "handler_max_concurrency": [0, -1, 1.5, "20", True],
            "log_level_no_handler": ["LOUD", 10, None],
            "serializer": ["jsonn", None, 5],
            "close_linger_ms": [-1, None],
            "breaker": ["never", True],
            "domain": [5],
            "late_join_ms": [-1],
            "metrics_port": [0, -1, 65536, "9100", True],
            "node": ["host", 5],
            "ordering": ["some", None, []],
            "policy": ["sometimes", "fail"],
            "req_timeout_split": ["third"],
            "retry": [3, {"times": 3}, {"max": -1}, {"max": 101}, {"max": True}, {"base_ms": -1}, {"cap_ms": float("nan")}, {"jitter": 0.5}],
            "slow_handler_ms": [-1, None],
            "strict": ["yes", 1],
            "sync_executor": ["processes", None],
            "tls": [True, {"ca": "ca.pem"}],
            "token": [5, "whose"],
        }
        self.assertEqual(set(wrong), set(DEFAULT_CONFIG))
        for key, values in wrong.items():
            for value in values:
                with self.subTest(key=key, value=value), self.assertRaises(ValueError) as raised:
                    MessageBus("x", {key: value})
                if key != "serializer" or value != "jsonn":
                    self.assertIn(key, str(raised.exception))
        for config in (None, {}, DEFAULT_CONFIG, {"hwm_outbound": 0, "hwm_inbound": 0, "failed_socket_cooldown": 0}):
            self.assertIsInstance(MessageBus("x", config), MessageBus)

    def test_serializers_read_what_the_others_wrote_and_a_missing_one_is_told(self):
        with self.assertRaisesRegex(ValueError, "json, orjson, msgpack, raw, arrow"):
            build_serializer("yaml")
        self.assertEqual(JsonSerializer().dumps({"a": [1, "é"]}), '{"a":[1,"\\u00e9"]}')
        there = _serializers.orjson
        if there is not None:
            self.assertEqual(OrjsonSerializer().loads(OrjsonSerializer().dumps({"a": 1})), {"a": 1})
            self.assertIs(type(MessageBus("x", {"serializer": "orjson"}).serializer), OrjsonSerializer)
        self.addCleanup(setattr, _serializers, "orjson", there)
        _serializers.orjson = None
        with self.assertLogs("message_bus", logging.INFO) as logs:
            fallen_back = build_serializer("orjson")
        self.assertIsInstance(fallen_back, JsonSerializer)
        self.assertIn("orjson is not installed", logs.records[0].getMessage())
        with self.assertRaises(ImportError):
            OrjsonSerializer()

        async def main(config, kind):
            async with self.bus(config) as sender, self.bus() as bus:
                if kind is not None:
                    sender.serializer = bus.serializer = kind()
                seen = []
                bus.register_handler("x", lambda message: seen.append(message["data"]))
                await self.listens(bus)
                await sender.publish("x", {"a": [1, "é", None]})
                await sender.publish("x", object())
                await self.until(lambda: seen)
                self.assertEqual(seen, [{"a": [1, "é", None]}])
                metrics = sender.get_metrics(extended=True)
                self.assertEqual((metrics["outbound_dropped"], metrics["errors"]), (1, 1))
                self.assertEqual(metrics["causes"]["outbound_dropped.unserialisable"], 1)

        class Text(Serializer):
            def dumps(self, obj):
                return "text:" + JsonSerializer().dumps(obj)

            def loads(self, data):
                if not isinstance(data, str):
                    raise TypeError("text is expected")
                return JsonSerializer().loads(data.removeprefix("text:"))

        class Bytes(Text):
            def dumps(self, obj):
                return super().dumps(obj).encode()

        _serializers.orjson = there
        for config in {}, {"serializer": "orjson"}, {"serializer": Text()}:
            self.run_async(main({k: v for k, v in config.items() if not isinstance(v, Text)}, None))
        for kind in Text, Bytes:
            self.run_async(main({}, kind))
        self.assertIsInstance(MessageBus("x", {"serializer": Text()}).serializer, Text)

    def test_what_json_has_no_words_for_is_neither_written_nor_read(self):
        for value in (float("nan"), float("inf"), [float("-inf")]):
            with self.assertRaises(ValueError):
                JsonSerializer().dumps(value)
        for text in ("NaN", "[Infinity]", b'{"a":-Infinity}', "1e400", b"[-1e999]", b"9" * 400 + b".5"):
            with self.assertRaises(ValueError):
                JsonSerializer().loads(text)
            if _serializers.orjson is not None:
                with self.assertRaises(ValueError):
                    OrjsonSerializer().loads(text)
        self.assertEqual(JsonSerializer().loads(b'{"a":"\xc3\xa9"}'), {"a": "é"})
        self.assertEqual(JsonSerializer().loads("[1e308, -0.0, 1e-400, 0.1]"), [1e308, -0.0, 0.0, 0.1])

        async def main():
            async with self.bus() as bus:
                self.assertEqual((await bus.publish_ex("x", float("nan"))).cause, "unserialisable")

        self.run_async(main())

    def test_domains_are_apart_and_sync_handlers_run_where_was_said(self):
        class Counts(ThreadPoolExecutor):
            submitted = 0

            def submit(self, *arguments):
                self.submitted += 1
                return super().submit(*arguments)

        async def main():
            with Counts(1) as executor:
                async with self.bus({"domain": "one", "sync_executor": executor}) as one, self.bus({"domain": "two"}) as two:
                    seen = []
                    for bus in (one, two):
                        bus.register_handler("x", lambda message: seen.append(message["data"]))
                        await self.listens(bus)
                    await two.publish("x", "two")
                    await one.publish("x", "one")
                    await self.until(lambda: len(seen) == 2)
                    self.assertEqual([bus.get_metrics()["messages_received"] for bus in (one, two)], [1, 1])
                self.assertEqual(executor.submitted, 1)
                # It is the program's: it works on.
                self.assertEqual(executor.submit(len, "abc").result(), 3)

        self.run_async(main())

    def test_a_strict_bus_raises_what_others_count(self):
        async def main():
            async with self.bus({"strict": True}) as bus:
                with self.assertRaises(TypeError):
                    await bus.publish("x", object())
                self.assertEqual(bus.get_metrics()["outbound_dropped"], 1)
            async with self.bus() as bus:
                for wrong in (5, None, b"x", ["a"], {}):
                    self.assertIsNone(await bus.publish(wrong, {}))
                # What cannot be looked up is no reason to raise either.
                self.assertIsNone(await bus.publish("x", {}, port=[5555]))
                self.assertIsNone(await bus.push_result({}, port={}))
                metrics = bus.get_metrics(extended=True)
                self.assertEqual((metrics["errors"], metrics["outbound_dropped"], metrics["messages_sent"]), (7, 7, 0))
                self.assertEqual(metrics["causes"]["outbound_dropped.unserialisable"], 7)
            async with self.bus({"strict": True}) as bus:
                with self.assertRaises(TypeError):
                    await bus.publish(["a"], {})

        self.run_async(main())

    def test_a_context_is_taken_and_said_not_to_be_used(self):
        with self.assertLogs("message_bus", logging.INFO) as logs:
            bus = MessageBus("x", None, object())
        self.assertIn("context of x is not used", logs.records[0].getMessage())
        self.assertIsInstance(bus, MessageBus)

    def test_nothing_is_logged_by_itself_and_nothing_opened_by_building(self):
        script = "import logging, threading, message_bus, os\n"
        script += "bus = message_bus.MessageBus('x', context=object())\n"
        script += "assert not logging.getLogger('message_bus').handlers and not logging.getLogger().handlers\n"
        script += "assert threading.active_count() == 1 and len(os.listdir('/proc/self/task')) == 1\n"
        script += "assert set(bus.get_metrics().values()) == {0}\n"
        done = subprocess.run([sys.executable, "-W", "error", "-c", script], timeout=PATIENCE, capture_output=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
