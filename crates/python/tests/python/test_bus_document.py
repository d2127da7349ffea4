"""The examples of the ZeroMQ message bus document, as they stand there, run: each file of `document/` is one of them.

What an example takes for granted is given to it. That of the state bus needs `import time`, which it does not have itself.
"""

import ast
import asyncio
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types
import venv
import warnings

import busway
import message_bus
from bus_stage import BusClaims
from message_bus import DEFAULT_CONFIG, MessageBus, Ports, Topics
from stage import PATIENCE

BLOCKS = pathlib.Path(__file__).with_name("document")
#: What the quick start says, whatever comes first.
SAYS = {"Price update: {'symbol': 'BTC', 'price': 43210.5}", "State response: {'status': 'not_implemented'}"}
#: Runs the quick start, and looks at what it counted and at what it left.
LOOKS = """
import asyncio, gc, json, message_bus, os, runpy, sys, threading, warnings
cleanup = message_bus.MessageBus.cleanup

async def counted(self, *arguments):
    print(json.dumps(self.get_metrics()), file=sys.stderr)
    await cleanup(self, *arguments)

message_bus.MessageBus.cleanup = counted
before = set(os.listdir("/proc/self/fd"))
runpy.run_path(sys.argv[1], run_name="__main__")
gc.collect()
# Those of a pool that was shut down may be about to end.
for thread in set(threading.enumerate()) - {threading.main_thread()}:
    thread.join(20)
assert threading.active_count() == 1, threading.enumerate()
left = [os.readlink(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - before if os.path.islink(f"/proc/self/fd/{fd}")]
assert not [fd for fd in left if "socket" in fd or "memfd" in fd], left
"""


class Document(BusClaims):
    def block(self, name, **given):
        """Runs an example, with what it takes for granted; returns its names."""
        names = dict(given)
        exec(compile((BLOCKS / name).read_text(), name, "exec"), names)
        return names

    async def block_in_loop(self, name, **given):
        """The same where it awaits at its outermost level."""
        names = dict(given)
        code = compile((BLOCKS / name).read_text(), name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if result is not None:
            await result
        return names

    def interpreter(self, parent):
        """A Python that has our packages, and nothing else."""
        venv.create(parent / "venv", symlinks=True, with_pip=False)
        packages = parent / "packages"
        packages.mkdir()
        for package in (busway, message_bus):
            (packages / package.__name__).symlink_to(pathlib.Path(package.__file__).parent)
        environment = {**os.environ, "PYTHONPATH": str(packages), "BUSWAY_DIR": str(parent / "run")}
        return [str(parent / "venv/bin/python"), "-W", "error"], environment

    def test_the_quick_start_runs_as_it_stands_and_leaves_nothing(self):
        shared = set(os.listdir("/dev/shm"))
        with tempfile.TemporaryDirectory() as directory:
            parent = pathlib.Path(directory)
            python, environment = self.interpreter(parent)
            lacks = subprocess.run([*python, "-c", "import zmq"], env=environment, capture_output=True, timeout=PATIENCE)
            self.assertIn(b"No module named 'zmq'", lacks.stderr)
            program = [*python, str(BLOCKS / "02_quick_start.py")]
            done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual((set(done.stdout.splitlines()), len(done.stdout.splitlines())), (SAYS, 2))
            program = [*python, "-c", LOOKS, str(BLOCKS / "02_quick_start.py")]
            done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(set(done.stdout.splitlines()), SAYS)
            counts = ast.literal_eval(done.stderr)
            self.assertEqual((counts["messages_sent"], counts["messages_received"]), (3, 3))
            others = set(counts) - {"messages_sent", "messages_received", "active_connections"}
            self.assertEqual({name: counts[name] for name in others}, dict.fromkeys(others, 0))
            self.assertEqual(counts["active_connections"], 6)
            self.assertEqual(list((parent / "run").rglob("*.sock")), [])
        # What other programs of this machine have there meanwhile goes with them.
        left, deadline = set(os.listdir("/dev/shm")) - shared, time.monotonic() + PATIENCE
        while left := left & set(os.listdir("/dev/shm")):
            self.assertLess(time.monotonic(), deadline, f"these are left: {left}")
            os.sched_yield()

    def test_its_names_are_ours(self):
        names = self.block("03_names.py")
        for theirs, ours in ((names["Ports"], Ports), (names["Topics"], Topics)):
            public = {name: value for name, value in vars(theirs).items() if not name.startswith("_")}
            self.assertEqual({name: getattr(ours, name) for name in public}, public)
        self.assertEqual(MessageBus("svc").get_metrics().keys(), self.metrics().keys())

    def metrics(self):
        return ast.literal_eval((BLOCKS / "09_metrics.py").read_text())

    def test_its_handlers_handle(self):
        async def main():
            async with self.bus() as bus:
                self.block("06_handlers.py", bus=bus, asyncio=asyncio)
                await self.listens(bus)
                for topic in ("price.tick", "trade.executed"):
                    await bus.publish(topic, {})
                await self.until(lambda: bus.get_metrics()["messages_received"] == 2)
                await self.until(lambda: bus.get_metrics(extended=True)["inbound_waiting"] == 0)
                self.assertEqual(bus.get_metrics()["errors"], 0)
            limited = self.block("06_concurrency.py", MessageBus=MessageBus)["bus"]
            self.assertEqual(limited.config, {"handler_max_concurrency": 50})

        self.run_async(main())

    def test_its_state_bus_answers_once_it_has_imported_what_it_uses(self):
        async def main(given):
            async with self.bus(kind=self.block("07_state_bus.py", MessageBus=MessageBus, **given)["StateBus"]) as bus:
                asyncio.create_task(bus.response_loop())
                return [await bus.request({"op": op}) for op in ("get_state", "other")]

        state, unknown = self.run_async(main({"time": time}))
        self.assertEqual((state["state"], unknown), ("OK", {"error": "unknown op"}))
        state, unknown = self.run_async(main({}))
        self.assertEqual(state["error"], "Handler error: name 'time' is not defined")

    def test_its_result_bus_prints_and_its_extension_echoes(self):
        async def main():
            async with self.bus(kind=self.block("08_result_bus.py", MessageBus=MessageBus)["ResultBus"]) as bus:
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    asyncio.create_task(bus.pull_results_loop())
                    await bus.push_result({"task_id": "abc123"})
                    await self.until(lambda: said.getvalue())
                self.assertTrue(said.getvalue().startswith("Result: {"), said.getvalue())
            async with self.bus(kind=self.block("12_extension.py", MessageBus=MessageBus)["MyBus"]) as bus:
                asyncio.create_task(bus.response_loop())
                asyncio.create_task(bus.pull_results_loop())
                self.assertEqual(await bus.request({"a": 1}), {"echo": {"a": 1}})
                await bus.push_result(1)
                await self.until(lambda: bus.get_metrics()["messages_received"] == 2)
                self.assertEqual(bus.get_metrics()["errors"], 0)

        self.run_async(main())

    def test_its_serializer_and_its_lifecycle_are_as_it_says(self):
        with self.assertNoLogs("message_bus", "WARNING"):
            bus = self.block("11_serializer.py", MessageBus=MessageBus)["bus"]
        self.assertEqual(bus.config, {"serializer": "orjson"})

        async def main():
            bus = MessageBus("lifecycle")
            names = await self.block_in_loop("13_lifecycle.py", bus=bus, asyncio=asyncio, Ports=Ports)
            self.assertEqual([task.done() for task in names["tasks"]], [True, True])
            self.assertEqual(bus.get_metrics()["active_connections"], 0)

        self.run_async(main())

    def test_its_web_service_answers(self):
        is_there = importlib.util.find_spec("fastapi") is not None
        service = RealService if is_there else StandIn
        # Where no event loop runs. That its events are deprecated is not ours to mend.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with service.imported():
                names = self.block("17_web.py", MessageBus=MessageBus)

        async def main():
            async with service(names["app"]) as client:
                return [await client.get("/state") for _ in range(3)]

        self.assertEqual(self.run_async(main()), [{"raw": {"status": "not_implemented"}}] * 3)
        self.assertEqual(names["bus"].get_metrics()["active_connections"], 0)
        version = importlib.metadata.version("fastapi") if is_there else "stood in for"
        self.evidence(fastapi=version)

    def test_the_lifespan_of_our_page_answers(self):
        is_there = importlib.util.find_spec("fastapi") is not None
        service = RealService if is_there else StandIn
        page = pathlib.Path(os.environ["BUSWAY_SOURCES"], "../../docs/message_bus.md").read_text()
        block = page.partition("## With FastAPI")[2].partition("```python\n")[2].partition("```")[0]
        names = {}
        with service.imported():
            exec(compile(block, "lifespan", "exec"), names)

        async def main():
            async with service(names["app"]) as client:
                return await client.get("/state")

        self.assertEqual(self.run_async(main()), {"raw": {"status": "not_implemented"}})
        self.assertEqual(names["bus"].get_metrics()["active_connections"], 0)
        self.evidence(fastapi=importlib.metadata.version("fastapi") if is_there else "stood in for")


    def test_our_page_names_every_key_with_its_default_every_count_and_every_difference(self):
        page = pathlib.Path(os.environ["BUSWAY_SOURCES"], "../../docs/message_bus.md").read_text()

        def rows(heading):
            section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
            table = section.partition("\n|")[2].partition("\n\n")[0].splitlines()
            return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]

        found = {key.strip("`"): ast.literal_eval(default) for key, default, *_ in rows("Configuration")}
        self.assertEqual(found, DEFAULT_CONFIG)
        self.assertEqual([count.strip("`") for count, _ in rows("Counts")], list(MessageBus("svc").get_metrics()))
        differences = rows("Where the document and the program differ")
        self.assertEqual([int(number) for number, *_ in differences], list(range(1, 18)))
        self.assertTrue(all(theirs and ours for _, theirs, ours in differences))
        self.evidence(keys=len(found), counts=9, differences=len(differences))


class RealService:
    """A program of FastAPI, started, asked and ended as a server does it, without a socket."""

    imported = contextlib.nullcontext

    def __init__(self, app):
        self.app, self.told, self.say = app, asyncio.Queue(), asyncio.Queue()

    async def __aenter__(self):
        self.life = asyncio.create_task(self.app({"type": "lifespan", "asgi": {"version": "3.0"}}, self.say.get, self.told.put))
        await self.step("startup")
        return self

    async def __aexit__(self, *_):
        await self.step("shutdown")
        await self.life

    async def step(self, name):
        await self.say.put({"type": f"lifespan.{name}"})
        answer = await self.told.get()
        assert answer["type"] == f"lifespan.{name}.complete", answer

    async def get(self, path):
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
        scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []}
        said = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(part):
            said.append(part)

        await self.app({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}, receive, send)
        assert said[0]["status"] == 200, said
        return json.loads(b"".join(part.get("body", b"") for part in said[1:]))


class StandIn:
    """As much of FastAPI as the examples use, where it is not installed."""

    class FastAPI:
        def __init__(self, lifespan=None):
            self.lifespan, self.events, self.routes = lifespan, {}, {}

        def on_event(self, event):
            return lambda function: self.events.setdefault(event, function)

        def get(self, path):
            return lambda function: self.routes.setdefault(path, function)

    @classmethod
    @contextlib.contextmanager
    def imported(cls):
        module = types.ModuleType("fastapi")
        module.FastAPI = cls.FastAPI
        sys.modules["fastapi"] = module
        try:
            yield
        finally:
            del sys.modules["fastapi"]

    def __init__(self, app):
        self.app = app
        self.life = app.lifespan(app) if app.lifespan else None

    async def __aenter__(self):
        await (self.life.__aenter__() if self.life else self.app.events["startup"]())
        return self

    async def __aexit__(self, *told):
        await (self.life.__aexit__(*told) if self.life else self.app.events["shutdown"]())

    async def get(self, path):
        return await self.app.routes[path]()
