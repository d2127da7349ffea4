"""Artifacts for asyncio: what `busway.artifacts` has, awaited.

A subscriber is watched by the loop as those of messages are; what an artifact's bytes are asked of the node for is done in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import busway

from . import artifacts as own
from .aio import _in_slices, _Intake, _Opened

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Artifacts", "Offer", "Subscriber"]

R = TypeVar("R")

#: What a subscriber is given.
Event = own.Artifact | own.Withdrawn | own.Progress | own.Arriving



class _Native:
    """The artifacts of a bus, which need no closing."""

    def __init__(self, native: own.Artifacts) -> None:
        self.artifacts = native

    def close(self) -> None:
        """Nothing ends."""


async def _in_thread(call: Callable[[], R]) -> R:
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def _opened(open: Callable[[], own.Offer]) -> own.Offer:
    """What is offered by a thread: where the task is cancelled meanwhile it is withdrawn when it is."""
    offering = asyncio.get_running_loop().run_in_executor(None, open)
    try:
        return await asyncio.shield(offering)
    except asyncio.CancelledError:
        offering.add_done_callback(_withdraw)
        raise


def _withdraw(offering: asyncio.Future[own.Offer]) -> None:
    if not offering.cancelled() and offering.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, offering.result().withdraw)


class Artifacts(_Opened[_Native]):
    """The artifacts of a topic, or of the topics of a pattern, as `busway.artifacts.Artifacts`."""

    def __init__(self, open: Callable[[], own.Artifacts]) -> None:
        super().__init__(lambda: _Native(open()))

    @property
    def artifacts(self) -> own.Artifacts:
        """The artifacts themselves, for what need not be awaited."""
        return self._native.artifacts

    def offer(self, data: Buffer, **how: Any) -> Offer:
        """Offers these bytes: `async with` or `await` does. What is no `bytes` is copied now."""
        return Offer(partial(self.artifacts.offer, data if isinstance(data, bytes) else bytes(memoryview(data)), **how))

    def offer_file(self, path: str | PathLike[str], **how: Any) -> Offer:
        """Offers what is in a file when it is opened."""
        return Offer(partial(self.artifacts.offer_file, path, **how))

    def offer_reader(self, file: Any, **how: Any) -> Offer:
        """Offers what `file.read(n)` gives until its end: it is read by a thread."""
        return Offer(partial(self.artifacts.offer_reader, file, **how))

    def subscriber(self, **settings: Any) -> Subscriber:
        """Who is given the artifacts. Settings as for `busway.artifacts.Artifacts.subscriber`. The function of interest is called by the loop, and must
        not wait: it says STASH, and `reconsider` when it knows more."""
        return Subscriber(partial(self.artifacts.subscriber, **settings))

    async def fetch(self, id: str, timeout: float | None = None) -> own.Artifact:
        """The artifact of this id; waits for it at most `timeout` seconds, and raises TimedOut then."""

        async def first(subscriber: Subscriber) -> own.Artifact:
            while True:
                event = await subscriber.recv()
                if isinstance(event, own.Artifact):
                    return event

        async with self.subscriber(only=id) as subscriber:
            try:
                return await asyncio.wait_for(first(subscriber), timeout)
            except busway.Error:
                raise
            except TimeoutError:
                raise busway.TimedOut(402, "it has not come in time", f"artifact {id}", "wait longer") from None

    async def read(
        self, artifact: own.Artifact | own.Arriving, most: int = 1 << 20, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """Its bytes, in parts of at most `most`, as they are here; the next part is waited for at most `timeout` seconds."""
        with own.Reader(artifact) as reader:
            native = reader._native
            while part := await _in_slices(partial(native._read, min(most, own.READ_BYTES_MAX)), timeout):
                yield part

    async def save(self, artifact: own.Artifact, path: str | PathLike[str]) -> None:
        """Writes it into a file, which is there when all of it is."""
        await _in_thread(partial(artifact.save, path))

    async def list(self) -> list[own.Listed]:
        """Those that the node knows of."""
        return await _in_thread(self.artifacts.list)

    async def remove(self, id: str) -> int:
        """Takes back what this node offers under this id; returns how many such offers there were."""
        return await _in_thread(partial(self.artifacts.remove, id))

    async def counts(self) -> dict[str, Any]:
        """What the node has counted."""
        return await _in_thread(self.artifacts.counts)


class Offer(_Opened[own.Offer]):
    """An artifact that is offered from when it is opened, by `async with` or `await`. At the end of the `async with` it is withdrawn, unless it is kept."""

    async def _enter(self) -> Offer:
        if self._port is None:
            self._port = await _opened(self._open)
        return self

    @property
    def offer(self) -> own.Offer:
        """The offer itself, for what need not be awaited."""
        return self._native

    @property
    def id(self) -> str:
        """The name of its bytes."""
        return self._native.id

    @property
    def reach(self) -> str:
        """How far it has come."""
        return self._native.reach

    @property
    def missing(self) -> list[int]:
        """The nodes that have not said that they have it when its time was up."""
        return self._native.missing

    async def wait_reached(self, timeout: float | None = None) -> None:
        """Waits until it is at all nodes, as `reach_all` says."""

        def wait(slice: float) -> busway.TimedOut | None:
            try:
                self._native.wait_reached(slice)
            except busway.TimedOut as late:
                if self._native.reach == "offered":
                    raise
                return late
            return None

        late = await _in_slices(wait, timeout)
        if late is not None:
            raise late

    async def withdraw(self) -> None:
        """Takes it back, also if it is kept."""
        await _in_thread(self._native.withdraw)


class Subscriber(_Intake[own.Subscriber, Event]):
    """Who is given artifacts: `async for event in subscriber`, `await subscriber.recv()`. Tasks of one loop may share it; a receive that is cancelled has taken nothing."""

    _name = "subscriber of artifacts"

    @property
    def subscriber(self) -> own.Subscriber:
        """The subscriber itself, for what need not be awaited."""
        return self._native

    def reconsider(self) -> None:
        """The function of interest would say something else now."""
        self._native.reconsider()
