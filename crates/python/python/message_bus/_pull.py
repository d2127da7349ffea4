"""Pulling: the loop that takes results, each of which goes to one loop, and hands them to the bus one after the other.

As long as results are handled quickly it takes many at once; while they are slow it takes one, so that other loops get theirs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import busway
from busway import aio

from ._core import Core
from ._names import results

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
        self.waiting = 0

    async def loop(self, port: int, handle: Callable[[Any], Any]) -> None:
        """Hands over results until it is cancelled."""

        def open() -> busway.Puller:
            return self._core.bus().puller(results(port), holds=HOLDS)

        async def use(native: busway.Puller) -> None:
            puller = aio.Puller(open)
            puller._port = native
            try:
                await self._take_batches(puller, handle)
            finally:
                await puller.close()

        await self._core.keep_open(f"pull:{port}", open, use)

    async def _take_batches(self, puller: aio.Puller, handle: Callable[[Any], Any]) -> None:
        most = 1
        while True:
            try:
                batch = await puller.recv_many(most)
            except busway.ResourceError as error:
                self._core.log(logging.DEBUG, "holds", "%s", error)
                await asyncio.sleep(0)
                continue
            payloads = [bytes(task) for task in batch]
            del batch
            self._core.metrics.messages_received += len(payloads)
            began = time.monotonic()
            await self._handle_all(payloads, handle)
            slow = time.monotonic() - began > SLOW
            most = 1 if slow else min(2 * most, BATCH, self._core.settings.hwm_inbound)

    async def _handle_all(self, payloads: list[bytes], handle: Callable[[Any], Any]) -> None:
        core, self.waiting = self._core, self.waiting + len(payloads)
        done = 0
        try:
            for payload in payloads:
                done += 1
                try:
                    message = core.loads(payload)
                    if not isinstance(message, dict):
                        raise TypeError("it is no dict")
                except Exception as error:
                    core.undecodable(error)
                else:
                    try:
                        await answer_of(handle, message, core)
                    except (Exception, asyncio.CancelledError) as error:
                        core.handler_failed("results", error)
                self.waiting -= 1
        finally:
            # Whoever is cancelled in the middle loses the rest, which nobody else has.
            left = len(payloads) - done
            self.waiting -= left
            if left:
                core.metrics.dropped_inbound("closed", left)
