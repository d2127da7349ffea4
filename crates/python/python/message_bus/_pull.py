"""Pulling: the loop that takes results, each of which goes to one loop, and hands them to the bus one after the other.

As long as results are handled quickly it takes many at once; while they are slow it takes one, so that other loops get theirs.

Invariant: a result that was taken is handled, or kept for the next loop of its port, or was counted as dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import busway
from busway import aio

from ._core import CALLER, Core
from ._farewell import end
from ._names import PortKey, results
from ._route import IDS

#: Results that are taken at once.
BATCH = 256
#: A batch that took longer than this many seconds is followed by one of a single result.
SLOW = 0.01
#: Results of another program that are held at once while a batch is copied.
HOLDS = 64


async def answer_of(call: Callable[[Any], Any], message: Any, core: Core) -> Any:
    """What a method of the program returns: a coroutine function is awaited, anything else is called in a thread."""
    if inspect.iscoroutinefunction(call):
        return await call(message)
    returned = await core.in_handler_thread(partial(call, message))
    return await returned if inspect.isawaitable(returned) else returned


class Pulling:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.fresh()

    def fresh(self) -> None:
        #: By port, what loops that were cancelled had taken and not handled: nobody else can have it.
        self._left: dict[PortKey, deque[bytes]] = {}
        #: What loops have taken and not handled yet.
        self._taken: list[deque[bytes]] = []
        #: Loops of one bus may run in several threads, and hand over to each other.
        self._lock = threading.Lock()
        #: Ids of results that were taken, the oldest first.
        self._seen: dict[str, None] = {}
        #: Results that are in a handler.
        self._in_hand = 0

    @property
    def waiting(self) -> int:
        """Results that were taken and are not handled."""
        with self._lock:
            return self._in_hand + sum(map(len, [*self._left.values(), *self._taken]))

    async def loop(self, port: PortKey, handle: Callable[[Any], Any]) -> None:
        """Hands over results until it is cancelled."""
        shared = results(port)
        with self._lock:
            mine = self._left.pop(port, None) or deque()
            self._taken.append(mine)

        def open() -> busway.Puller:
            end(self._core.bus(), f"push:{port}", self._core.made, ("",))
            return self._core.bus().puller(shared, holds=HOLDS)

        async def use(native: busway.Puller) -> None:
            puller = aio.Puller.of(native)
            try:
                await self._take_batches(puller, mine, handle)
            finally:
                await puller.close()

        try:
            await self._core.keep_open(f"pull:{port}", open, use)
        finally:
            with self._lock:
                self._taken = [one for one in self._taken if one is not mine]
                if mine:
                    self._left.setdefault(port, deque()).extend(mine)
                    # A handler that goes on beyond its loop is followed by none of these: they are the next loop's.
                    mine.clear()

    async def _take_batches(self, puller: aio.Puller, mine: deque[bytes], handle: Callable[[Any], Any]) -> None:
        core, most = self._core, 1
        while True:
            if not mine:
                try:
                    batch = await puller.recv_many(most)
                except busway.ResourceError as error:
                    core.log(logging.DEBUG, "holds", "%s", error)
                    await asyncio.sleep(0)
                    continue
                if any(ids := [task.id for task in batch]):
                    with self._lock:
                        batch = self._fresh(batch, ids)
                mine.extend([bytes(task) for task in batch])
                core.metrics.messages_received += len(batch)
                del batch
            began = time.monotonic()
            await core.to_its_end(self._handle_all(mine, handle))
            slow = time.monotonic() - began > SLOW
            most = 1 if slow else min(2 * most, BATCH, core.settings.hwm_inbound)

    def _fresh(self, batch: list[busway.Task], ids: list[str | None]) -> list[busway.Task]:
        """Without what came before: what was taken here is handled here, so that the same again is nobody's. With the lock."""
        fresh = []
        for task, id in zip(batch, ids):
            if id is not None and id in self._seen:
                self._core.metrics.causes["duplicate"] += 1
                continue
            if id is not None:
                self._seen[id] = None
                if len(self._seen) > IDS:
                    del self._seen[next(iter(self._seen))]
            fresh.append(task)
        return fresh

    async def _handle_all(self, mine: deque[bytes], handle: Callable[[Any], Any]) -> None:
        core = self._core
        CALLER.set(asyncio.current_task())
        while mine:
            payload = mine.popleft()
            self._in_hand += 1
            try:
                message = core.decoded(payload)
                if message is not None:
                    message = await core.received(message)
                if message is not None:
                    await answer_of(handle, message, core)
            except (Exception, asyncio.CancelledError) as error:
                core.handler_failed("results", error)
            finally:
                self._in_hand -= 1

    def close(self) -> None:
        """What nobody handles any more is lost."""
        with self._lock:
            lost = sum(map(len, self._left.values()))
            self._left.clear()
        if lost:
            self._core.metrics.dropped_inbound("closed", lost)
