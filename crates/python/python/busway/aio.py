"""Busway for asyncio: the same names, awaited.

An event loop watches one descriptor a subscriber and is woken once for whatever has come; messages that are there are
handed over without another turn of the loop, and without a future each.

>>> import asyncio
>>> from busway import aio
>>> async def main():
...     async with aio.Bus("example") as bus:
...         async with bus.subscriber("price.*") as prices, bus.publisher("price.tick") as tick:
...             await tick.send(b"101.5")
...             async for sample in prices:
...                 return bytes(sample)
>>> asyncio.run(main())
b'101.5'
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import busway

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Bus", "Publisher", "Puller", "Pusher", "Subscriber"]

#: Messages that are handed over before the loop has its turn, so that a flood does not stop everything else.
TURN = 256


#: Seconds that a thread waits in one piece: so long it goes on when the task for which it waits was cancelled.
SLICE = 0.1


class _Port(Protocol):
    def close(self) -> None: ...


class _Sends(_Port, Protocol):
    def try_send(self, data: Buffer) -> busway.Sent: ...
    def send(self, data: Buffer, timeout: float | None = None) -> busway.Sent: ...
    def loan(self, size: int) -> busway.Loan: ...
    def flush(self, timeout: float | None = 5.0) -> None: ...


class _Takes(_Port, Protocol):
    @property
    def closed(self) -> bool: ...
    def try_recv(self) -> Any: ...
    def try_recv_many(self, most: int = 256) -> list[Any]: ...
    def _fileno(self) -> int: ...
    def _arm(self, most: int = 1) -> list[Any]: ...
    def _clear(self) -> None: ...


P = TypeVar("P", bound=_Port)
N = TypeVar("N", bound=_Sends)
I = TypeVar("I", bound=_Takes)
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", bound="_Opened[Any]")
Q = TypeVar("Q", bound="_Intake[Any, Any]")


async def _in_slices(wait: Callable[[float], R], timeout: float | None) -> R:
    """What `wait` returns, waited for in a thread that ends soon after the task is cancelled."""
    loop = asyncio.get_running_loop()
    end = None if timeout is None else loop.time() + timeout
    while True:
        # In this order a time that is no number stays none, and is refused.
        slice = SLICE if end is None else min(end - loop.time(), SLICE)
        try:
            return await loop.run_in_executor(None, wait, slice)
        except busway.TimedOut:
            if end is not None and loop.time() >= end:
                raise


class _Opened(Generic[P]):
    """What is opened with `async with` or `await`, and closed without holding the loop up."""

    def __init__(self, open: Callable[[], P]) -> None:
        self._open = open
        self._port: P | None = None

    @property
    def _native(self) -> P:
        if self._port is None:
            raise RuntimeError("it is opened by `async with` or `await`")
        return self._port

    async def _enter(self: S) -> S:
        if self._port is None:
            # Meeting others may take a moment, for which the loop must not stand still.
            self._port = await asyncio.get_running_loop().run_in_executor(None, self._open)
        return self

    def __await__(self: S) -> Generator[Any, None, S]:
        return self._enter().__await__()

    async def __aenter__(self: S) -> S:
        return await self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes it. What waits in it ends."""
        if self._port is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._port.close)


class Bus(_Opened["busway.Bus"]):
    """A membership in a domain, as `busway.Bus`, with ports whose calls are awaited."""

    def __init__(self, domain: str = "default", **settings: Any) -> None:
        super().__init__(partial(busway.Bus, domain, **settings))

    @property
    def bus(self) -> busway.Bus:
        """The bus itself, for what need not be awaited."""
        return self._native

    def publisher(self, topic: str, **settings: Any) -> Publisher:
        """A publisher of `topic`: `async with` or `await` opens it. Settings as for `busway.Bus.publisher`."""
        return Publisher(partial(self._native.publisher, topic, **settings))

    def subscriber(self, pattern: str, **settings: Any) -> Subscriber:
        """A subscriber of `pattern`: `async with` or `await` opens it. Settings as for `busway.Bus.subscriber`."""
        return Subscriber(partial(self._native.subscriber, pattern, **settings))

    def pusher(self, topic: str, **settings: Any) -> Pusher:
        """A pusher of `topic`: `async with` or `await` opens it. Settings as for `busway.Bus.pusher`."""
        return Pusher(partial(self._native.pusher, topic, **settings))

    def puller(self, pattern: str, **settings: Any) -> Puller:
        """A puller of `pattern`: `async with` or `await` opens it. Settings as for `busway.Bus.puller`."""
        return Puller(partial(self._native.puller, pattern, **settings))

    async def inspect(self) -> dict[str, Any]:
        """What the domain looks like now, as `busway ls --json` prints it."""
        return await asyncio.get_running_loop().run_in_executor(None, self._native.inspect)


class _Sender(_Opened[N]):
    """What sends. Tasks may share it."""

    async def send(self, data: Buffer, timeout: float | None = None) -> busway.Sent:
        """Sends, at once if nobody must be waited for, else without holding the loop up."""
        native = self._native
        try:
            return native.try_send(data)
        except (busway.Full, busway.TimedOut):
            return await asyncio.get_running_loop().run_in_executor(None, native.send, data, timeout)

    async def send_json(self, value: object, timeout: float | None = None) -> busway.Sent:
        """Sends a value as JSON."""
        import json

        return await self.send(json.dumps(value).encode(), timeout)

    def loan(self, size: int) -> busway.Loan:
        """Room for a message, to be written and sent: `with publisher.loan(n) as loan`."""
        return self._native.loan(size)

    async def flush(self, timeout: float | None = 5.0) -> None:
        """Waits until all who may be waited for have passed the last message: subscribers have read it, pullers finished."""
        await _in_slices(self._native.flush, timeout)


class Publisher(_Sender["busway.Publisher"]):
    """A publisher of one topic. Tasks may share it."""

    @property
    def publisher(self) -> busway.Publisher:
        """The publisher itself, for what need not be awaited."""
        return self._native

    async def wait_for_subscribers(self, count: int = 1, timeout: float | None = None) -> int:
        """Waits until `count` subscribers at least are attached, and returns how many are."""
        return await _in_slices(partial(self._native.wait_for_subscribers, count), timeout)


class Pusher(_Sender["busway.Pusher"]):
    """A pusher of one topic. Tasks may share it."""

    @property
    def pusher(self) -> busway.Pusher:
        """The pusher itself, for what need not be awaited."""
        return self._native

    async def wait_for_pullers(self, count: int = 1, timeout: float | None = None) -> int:
        """Waits until `count` pullers at least are attached, and returns how many are."""
        return await _in_slices(partial(self._native.wait_for_pullers, count), timeout)


class _Intake(_Opened[I], Generic[I, T]):
    """What takes. Tasks of one loop may share it; each message goes to one of them. A receive that is cancelled has taken
    nothing."""

    #: How it is called in errors.
    _name = "port"

    def __init__(self, open: Callable[[], I]) -> None:
        super().__init__(open)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._waiting: set[asyncio.Future[None]] = set()
        self._in_turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def _taken(self, native: Any) -> T:
        """What it hands over for what it took."""
        taken: T = native
        return taken

    async def recv(self) -> T:
        """The next."""
        await self._pause()
        native = self._native
        while True:
            taken = native.try_recv()
            if taken is None:
                for taken in await self._news(1):
                    break
            if taken is not None:
                self._in_turn += 1
                return self._taken(taken)

    async def recv_many(self, most: int = 256) -> list[T]:
        """Waits for one and returns it with those that are there by then, at most `most`."""
        await self._pause()
        native = self._native
        while most > 0:
            batch = native.try_recv_many(most) or await self._news(most)
            if batch:
                self._in_turn += len(batch)
                return [self._taken(taken) for taken in batch]
        return []

    async def batches(self, most: int = 256) -> AsyncIterator[list[T]]:
        """What comes, in lists of at most `most`, until it or its bus is closed."""
        while True:
            try:
                yield await self.recv_many(most)
            except busway.Closed:
                return

    def __aiter__(self: Q) -> Q:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except busway.Closed:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Closes it; tasks that wait in it end."""
        await super().close()
        # Only now: who waits and is woken sees that it is closed, and does not watch again.
        if self._loop is not None and not self._loop.is_closed() and not self._inherited():
            self._loop.remove_reader(self._fd)
        self._loop = None
        self._rung()

    def _inherited(self) -> bool:
        """Whether this is a child made by fork: what the loop watches is shared with the parent, which watches on."""
        try:
            self._native.closed
        except busway.Forked:
            return True
        return False

    async def _pause(self) -> None:
        """Gives the loop its turn after many messages that were there already; before the next is taken, not after it."""
        if self._in_turn >= TURN:
            self._in_turn = 0
            await asyncio.sleep(0)

    def _look_again(self) -> float | None:
        """In how many seconds to look again, whatever comes."""
        return None

    async def _news(self, most: int) -> Sequence[Any]:
        """What is there, at most `most`; else waits until there may be something, and returns nothing."""
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop) and not self._loop.is_closed():
            raise RuntimeError(f"the {self._name} is used by another event loop")
        batch = self._native._arm(most)
        if batch:
            return batch
        if self._loop is not loop:
            self._fd = self._native._fileno()
            self._waiting.clear()
            loop.add_reader(self._fd, self._rung)
            self._loop, self._timer = loop, None
        self._in_turn = 0
        after = self._look_again()
        if self._timer is None and after is not None:
            self._timer = loop.call_later(after, self._rung)
        waiter = loop.create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
        return []

    def _rung(self) -> None:
        """Something came: all who wait look, and those who find nothing wait again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._port is not None:
            self._port._clear()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class Subscriber(_Intake["busway.Subscriber", "busway.Sample"]):
    """A subscriber of one pattern: `async for sample in subscriber`, `await subscriber.recv()`.

    Tasks of one loop may share it; each message goes to one of them. A receive that is cancelled has taken nothing.
    """

    _name = "subscriber"

    @property
    def subscriber(self) -> busway.Subscriber:
        """The subscriber itself, for what need not be awaited: `losses()`, `account()`."""
        return self._native

    def losses(self) -> list[dict[str, Any]]:
        """What was missed since this was asked last."""
        return self._native.losses()


class Puller(_Intake["busway.Puller", "busway.Task"]):
    """A puller of one pattern, in one group: `async for task in puller`, `await puller.recv()`.

    A task is a `busway.Task`; to acknowledge it or to give it back needs no waiting.
    """

    _name = "puller"

    @property
    def puller(self) -> busway.Puller:
        """The puller itself, for what need not be awaited."""
        return self._native

    def _look_again(self) -> float | None:
        # What the others of the group have had for too long is given back by whoever looks.
        ack = self._native.ack
        return None if ack is None else min(max(ack / 4, 0.01), 1.0)
