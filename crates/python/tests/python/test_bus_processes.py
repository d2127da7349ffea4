"""Sync handlers of `message_bus` in processes of their own. One that was killed, and what follows."""

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor

from bus_stage import BusClaims
from message_bus import MessageBus
from stage import PATIENCE, Child

CONFIG = {"sync_executor": "process", "handler_max_concurrency": 2}


def notes(message):
    """Found by its name in another process: it writes down where it ran."""
    data = message["data"]
    if data["what"] == "fails":
        raise ValueError("no such price")
    if data["what"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(data["file"], "a") as file:
        file.write(f"{os.getpid()} {threading.current_thread() is threading.main_thread()} {data['what']}\n")
    # It cannot be pickled, and nobody wants it.
    return file


def stays(message):
    notes(message)
    threading.Event().wait(PATIENCE)


async def awaited(message):
    notes(message)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Processes(BusClaims):
    def read(self, path):
        with open(path) as file:
            return [line.split() for line in file]

    def test_what_a_killed_process_leaves_at_the_end_is_counted_as_dropped(self):
        async def main(path):
            async with self.bus() as sender:
                bus = MessageBus("x", {**CONFIG, "close_linger_ms": 0})
                for topic in "abcd":
                    bus.register_handler(topic, stays)
                await self.listens(bus)
                for number in range(12):
                    await sender.publish("abcd"[number % 4], {"what": "stays", "file": path})
                await self.until(lambda: bus.get_metrics()["messages_received"] == 12 and len(self.read(path)) == 2)
                await bus.cleanup()
                await self.until(lambda: bus.get_metrics()["inbound_dropped"] == 12)
                self.assertEqual((len(self.read(path)), bus.get_metrics()["errors"]), (2, 0))

        with tempfile.NamedTemporaryFile() as file:
            self.run_async(main(file.name))

    def test_sync_handlers_run_in_processes_that_end_with_the_bus(self):
        async def main(path):
            async with self.bus(CONFIG) as bus:
                bus.register_handler("a", notes)
                bus.register_handler("b", notes)
                bus.register_handler("async", awaited)
                await self.listens(bus)
                for number in range(20):
                    await bus.publish("ab"[number % 2], {"what": str(number), "file": path})
                await bus.publish("async", {"what": "here", "file": path})
                await bus.publish("a", {"what": "fails"})
                await self.until(lambda: len(self.read(path)) == 21 and bus.get_metrics()["errors"] == 1)
                await self.until(lambda: bus.get_metrics(extended=True)["inbound_waiting"] == 0)
                return bus.get_metrics(extended=True)["causes"]

        with tempfile.NamedTemporaryFile() as file, self.assertLogs("message_bus", logging.ERROR) as logs:
            causes = self.run_async(main(file.name))
            lines = self.read(file.name)
        self.assertIn("no such price", logs.records[0].getMessage())
        self.assertEqual(causes, {"errors.handler": 1})
        pids = {int(pid) for pid, _, what in lines if what != "here"}
        self.assertNotIn(os.getpid(), pids)
        self.assertLessEqual(len(pids), 2)
        self.assertEqual({int(pid) for pid, _, what in lines if what == "here"}, {os.getpid()})
        for first in (0, 1):
            mine = [int(what) for _, _, what in lines if what != "here" and int(what) % 2 == first]
            self.assertEqual(mine, list(range(first, 20, 2)), "in order by topic")
        self.assertEqual([pid for pid in pids if is_running(pid)], [])
        self.evidence(messages=20, processes=len(pids))

    def test_as_many_processes_are_at_it_as_handlers_were_allowed(self):
        async def main(path):
            async with self.bus({**CONFIG, "handler_max_concurrency": 3, "close_linger_ms": 0}) as bus:
                for topic in "abcd":
                    bus.register_handler(topic, stays)
                await self.listens(bus)
                for topic in "abcd":
                    await bus.publish(topic, {"what": topic, "file": path})
                await self.until(lambda: len(self.read(path)) == 3, "three are in a handler, each in a process")
                self.assertEqual(len({pid for pid, *_ in self.read(path)}), 3)

        with tempfile.NamedTemporaryFile() as file:
            self.run_async(main(file.name))

    def test_what_another_process_cannot_find_is_refused_where_it_is_registered(self):
        bus = MessageBus("x", CONFIG)

        def within(message):
            pass

        for wrong in (lambda message: None, within, bus.get_metrics):
            for register in (bus.register_handler, bus.add_handler):
                with self.assertRaisesRegex(ValueError, "top of a module"):
                    register("x", wrong)

        async def found(message):
            pass

        bus.register_handler("x", found)
        bus.register_handler("x", notes)
        MessageBus("x").register_handler("x", within)
        with ProcessPoolExecutor(1) as pool, self.assertRaisesRegex(ValueError, "'process'"):
            MessageBus("x", {"sync_executor": pool})

    def test_a_process_that_is_killed_costs_what_it_had_and_the_next_message_has_another(self):
        async def main(path):
            async with self.bus({**CONFIG, "handler_max_concurrency": 1}) as bus:
                bus.register_handler("a", notes)
                await self.listens(bus)
                await bus.publish("a", {"what": "first", "file": path})
                await self.until(lambda: len(self.read(path)) == 1)
                await bus.publish("a", {"what": "dies", "file": path})
                await self.until(lambda: bus.get_metrics()["errors"] == 1)
                await bus.publish("a", {"what": "last", "file": path})
                await self.until(lambda: len(self.read(path)) == 2)
                self.assertEqual(bus.get_metrics()["errors"], 1)

        with tempfile.NamedTemporaryFile() as file, self.assertLogs("message_bus", logging.ERROR):
            self.run_async(main(file.name))
            (first, _, _), (last, _, what) = self.read(file.name)
        self.assertEqual(what, "last")
        self.assertNotEqual(first, last)

    def test_no_process_outlives_the_program_that_it_works_for(self):
        script = """
import asyncio, test_bus_processes
from message_bus import MessageBus

async def main():
    bus = MessageBus("killed", test_bus_processes.CONFIG)
    bus.register_handler("a", test_bus_processes.notes)
    asyncio.create_task(bus.subscribe_loop(5555))
    await bus.publish("a", {"what": "first", "file": sys.stdin.readline().strip()})
    await asyncio.sleep(1000)

asyncio.run(main())
"""

        async def main(path):
            with Child(script) as child:
                child.say(path)
                await self.until(lambda: self.read(path))
                pid = int(self.read(path)[0][0])
                self.assertTrue(is_running(pid))
                child.process.kill()
                try:
                    await self.until(lambda: not is_running(pid), "it ends with its parent")
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

        with tempfile.NamedTemporaryFile() as file:
            self.run_async(main(file.name))
