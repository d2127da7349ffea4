"""Times of `message_bus` that its document names: what a handler that computes costs the loop, how long calls take that have nothing to wait for.

Writes one line of JSON: a name ends with the unit. Each time is the median of its tries; the loop's lateness is that of a sleep of 1 ms.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from message_bus import MessageBus

SPINS = 40
SPIN = 0.025
TRIES = 15
QUICK_START = Path(__file__).parents[2] / "crates/python/tests/python/document/02_quick_start.py"


def spin(_: object = None) -> None:
    """Computes, as a handler does that is no coroutine."""
    until = time.perf_counter() + SPIN
    while time.perf_counter() < until:
        pass


async def late(work: Awaitable[object]) -> float:
    """How much later than it asked a loop wakes while work is done beside it, in ns: the median."""
    task, found = asyncio.ensure_future(work), []
    while not task.done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        found.append(time.perf_counter() - before - 0.001)
    await task
    return statistics.median(found) * 1e9


async def bare() -> None:
    for _ in range(SPINS):
        await asyncio.to_thread(spin)


async def handled(place: str, executor: str) -> float:
    bus = MessageBus("spins", {"domain": place, "sync_executor": executor})
    bus.register_handler("spin", spin)
    loop = asyncio.create_task(bus.subscribe_loop(7101))

    async def all_handled() -> None:
        for number in range(SPINS):
            await bus.publish("spin", number, 7101)
        while bus.get_metrics(extended=True)["inbound_waiting"] or bus.get_metrics()["messages_received"] < SPINS:
            await asyncio.sleep(0.01)

    await bus.publish("spin", None, 7101)
    while bus.get_metrics()["messages_received"] < 1 or bus.get_metrics(extended=True)["inbound_waiting"]:
        await asyncio.sleep(0.01)
    found = await late(all_handled())
    await bus.cleanup()
    loop.cancel()
    return found


async def twenty_at_once(place: str) -> float:
    """A hundred handlers of 100 ms, of as many topics, twenty at once."""
    bus = MessageBus("slow", {"domain": place, "handler_max_concurrency": 20})
    done, left = asyncio.Event(), 100

    async def handler(message: dict[str, Any]) -> None:
        nonlocal left
        await asyncio.sleep(0.1)
        left -= 1
        if not left:
            done.set()

    bus.register_handler("slow.>", handler)
    loop = asyncio.create_task(bus.subscribe_loop(7102))
    for number in range(100):
        await bus.ready(f"slow.{number}", 7102)
    before = time.perf_counter()
    for number in range(100):
        await bus.publish(f"slow.{number}", None, 7102)
    await done.wait()
    found = time.perf_counter() - before
    await bus.cleanup()
    loop.cancel()
    return found * 1e9


async def median(call: Callable[[], Awaitable[object]]) -> float:
    found = []
    for _ in range(TRIES):
        before = time.perf_counter()
        await call()
        found.append(time.perf_counter() - before)
    return statistics.median(found) * 1e9


async def left_alone(place: str) -> float:
    """What a request takes whose endpoint is left alone, because it was late before."""

    class Late(MessageBus):
        async def _handle_request(self, request: dict[str, Any]) -> Any:
            await asyncio.sleep(60)

    bus = Late("late", {"domain": place, "breaker": "strict"})
    loop = asyncio.create_task(bus.response_loop(7103))
    assert await bus.request(1, 7103, timeout=0.2) is None
    found = await median(lambda: bus.request(1, 7103))
    assert bus.get_metrics()["outbound_dropped"] >= TRIES
    await bus.cleanup()
    loop.cancel()
    return found


async def nobody(place: str) -> float:
    """What a request takes that nobody answers, once nobody is waited for any more."""
    bus = MessageBus("alone", {"domain": place, "late_join_ms": 0})
    await bus.request(1, 7104)
    found = await median(lambda: bus.request(1, 7104))
    await bus.cleanup()
    return found


async def cleanup(place: str) -> float:
    """What the end of a bus takes beyond its linger, with messages that nobody reads and a handler that does not return."""
    bus = MessageBus("ends", {"domain": place, "close_linger_ms": 100, "late_join_ms": 60_000})
    bus.register_handler("x", lambda message: asyncio.sleep(60))
    loop = asyncio.create_task(bus.subscribe_loop(7105, "x"))
    await bus.ready("x", 7105)
    for _ in range(100):
        await bus.publish("x", None, 7105)
        await bus.publish("nobody's", None, 7105)
    before = time.perf_counter()
    await bus.cleanup()
    found = time.perf_counter() - before - 0.1
    loop.cancel()
    return found * 1e9


def quick_start() -> float:
    before = time.perf_counter()
    subprocess.run([sys.executable, str(QUICK_START)], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - before) * 1e9


def main() -> None:
    place = sys.argv[2]
    found = {
        "bare_thread_late_ns": asyncio.run(late(bare())),
        "handler_late_ns": asyncio.run(handled(place, "thread")),
        "process_late_ns": asyncio.run(handled(place, "process")),
        "twenty_at_once_ns": asyncio.run(twenty_at_once(place)),
        "left_alone_ns": asyncio.run(left_alone(place)),
        "nobody_ns": asyncio.run(nobody(place)),
        "cleanup_ns": asyncio.run(cleanup(place)),
        "quick_start_ns": quick_start(),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
