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
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import ref

import busway

from ._codec import encoded
from ._handlers import serve, work

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._aio_artifacts import Artifacts

__all__ = ["Bus", "Pending", "Publisher", "Puller", "Pusher", "Requester", "Responder", "Subscriber", "serve", "work"]

#: Messages of one topic, decoded; or without a topic, messages that are not decoded.
Run = tuple[str | None, list[Any]]

#: Messages that are handed over before the loop has its turn, so that a flood does not stop everything else.
TURN = 256
#: Turns of the loop in which it is looked whether more comes, before the port is watched: some 40 us.
LOOKS = 4


#: Seconds that a thread waits in one piece: so long it goes on when the task for which it waits was cancelled.
SLICE = 0.1


#: Seconds between two looks for room: few at first, and so many that a publisher that waits long costs little.
PAUSE_MIN, PAUSE_MAX = 0.0002, 0.005


class _Port(Protocol):
    def close(self) -> None: ...


class _Sends(_Port, Protocol):
    def try_send(self, data: Buffer) -> busway.Sent: ...
    def send(self, data: Buffer, timeout: float | None = None) -> busway.Sent: ...
    def _send_soon(self, data: bytes) -> busway.Sent | None: ...
    def try_send_many(self, messages: Iterable[Buffer]) -> int: ...
    def send_many(self, messages: Iterable[Buffer], timeout: float | None = None) -> int: ...
    def loan(self, size: int) -> busway.Loan: ...
    def flush(self, timeout: float | None = 5.0) -> None: ...


class _Watches(_Port, Protocol):
    @property
    def closed(self) -> bool: ...
    def _fileno(self) -> int: ...


class _Takes(_Watches, Protocol):
    def try_recv(self) -> Any: ...
    def try_recv_many(self, most: int = 256) -> list[Any]: ...
    def _arm(self, most: int = 1) -> list[Any]: ...
    def _clear(self) -> None: ...


P = TypeVar("P", bound=_Port)
W = TypeVar("W", bound=_Watches)
N = TypeVar("N", bound=_Sends)
I = TypeVar("I", bound=_Takes)
T = TypeVar("T")
V = TypeVar("V")
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

    @classmethod
    def of(cls: type[S], native: Any) -> S:
        """Around a port of `busway` that is open: it needs no `async with` and no `await`, and is closed as one that was opened so."""
        made = cls(lambda: native)
        made._port = native
        return made

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

    @classmethod
    def of(cls, native: Any) -> Bus:
        """Around a bus that is open."""
        made = cls()
        made._port = native
        return made

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

    def requester(self, topic: str, **settings: Any) -> Requester:
        """A requester of `topic`: `async with` or `await` opens it. Settings as for `busway.Bus.requester`."""
        return Requester(partial(self._native.requester, topic, **settings))

    def responder(self, pattern: str, **settings: Any) -> Responder:
        """A responder of `pattern`: `async with` or `await` opens it. Settings as for `busway.Bus.responder`."""
        return Responder(partial(self._native.responder, pattern, **settings))

    def artifacts(self, topic: str) -> Artifacts:
        """The artifacts of a topic or pattern: `async with` or `await` opens them, as `busway.Bus.artifacts`."""
        from ._aio_artifacts import Artifacts

        return Artifacts(partial(self._native.artifacts, topic))

    async def inspect(self) -> dict[str, Any]:
        """What the domain looks like now, as `busway ls --json` prints it."""
        return await asyncio.get_running_loop().run_in_executor(None, self._native.inspect)


class _Sender(_Opened[N]):
    """What sends. Tasks may share it."""

    async def send(self, data: Buffer, timeout: float | None = None) -> busway.Sent:
        """Sends, at once if nobody must be waited for, else without holding the loop up. Where it is cancelled, it is not sent."""
        native = self._native
        try:
            return native.try_send(data)
        except (busway.Full, busway.TimedOut) as full:
            return await self._when_there_is_room(full, bytes(data), timeout)

    async def _when_there_is_room(self, full: busway.Error, data: bytes, timeout: float | None) -> busway.Sent:
        """Looks now and then: a thread would send what is not wanted any more, and those of the loop are needed by who makes room."""
        native, loop = self._native, asyncio.get_running_loop()
        if timeout is not None and timeout != timeout:
            # A time that is no number, which it says.
            native.flush(timeout)
        end = None if timeout is None else loop.time() + timeout
        pause = 0.0
        while end is None or loop.time() < end:
            await asyncio.sleep(pause)
            sent = native._send_soon(data)
            if sent is not None:
                return sent
            pause = min(max(2 * pause, PAUSE_MIN), PAUSE_MAX)
        raise busway.TimedOut(402, full.cause, full.place, full.remedy) from None

    async def send_many(self, messages: Iterable[Buffer], timeout: float | None = None) -> int:
        """Sends all of these, and returns how many: at once where there is room, else without holding the loop up. Where it is
        cancelled, the first of them are sent, and no more."""
        native, everything = self._native, list(messages)
        loop, sent = asyncio.get_running_loop(), native.try_send_many(everything)
        end = None if timeout is None else loop.time() + timeout
        while sent < len(everything):
            try:
                await self.send(everything[sent], None if end is None else end - loop.time())
                sent += 1
                sent += native.try_send_many(everything[sent : sent + TURN])
            except busway.Error as error:
                error.sent += sent
                raise
        return sent

    async def send_json(self, value: object, timeout: float | None = None) -> busway.Sent:
        """Sends a value as JSON. Raises CodecError."""
        return await self.send(encoded(value), timeout)

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


class _Watched(_Opened[W]):
    """What a loop watches: one loop at a time."""

    def __init__(self, open: Callable[[], W]) -> None:
        super().__init__(open)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1

    def _inherited(self) -> bool:
        """Whether this is a child made by fork: what the loop watches is shared with the parent, which watches on."""
        try:
            self._native.closed
        except busway.Forked:
            return True
        return False

    def _leave(self) -> None:
        """The loop watches it no more."""
        if self._loop is not None and not self._loop.is_closed() and not self._inherited():
            self._loop.remove_reader(self._fd)
        self._loop = None


class _Intake(_Watched[I], Generic[I, T]):
    """What takes. Tasks of one loop may share it; each message goes to one of them. A receive that is cancelled has taken
    nothing."""

    #: How it is called in errors.
    _name = "port"

    def __init__(self, open: Callable[[], I]) -> None:
        super().__init__(open)
        self._waiting: set[asyncio.Future[None]] = set()
        self._in_turn = 0
        #: Whether more comes in the turns of the loop that a wake-up would take.
        self._is_brisk = False
        self._timer: asyncio.TimerHandle | None = None

    def _taken(self, native: Any) -> T:
        """What it hands over for what it took."""
        taken: T = native
        return taken

    async def recv(self) -> T:
        """The next."""
        return await self._one()

    async def _one(self) -> T:
        await self._pause()
        native = self._native
        while True:
            taken = native.try_recv()
            if taken is None:
                for taken in await self._next(1, native.try_recv_many, native._arm):
                    break
            else:
                self._is_brisk = True
            if taken is not None:
                self._in_turn += 1
                return self._taken(taken)

    async def recv_many(self, most: int = 256) -> list[T]:
        """Waits for one and returns it with those that are there by then, at most `most`."""
        await self._pause()
        native = self._native
        while most > 0:
            batch = native.try_recv_many(most) or await self._next(most, native.try_recv_many, native._arm)
            if batch:
                self._is_brisk = self._is_brisk or len(batch) > 1
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
        self._leave()
        self._rung()

    async def _pause(self) -> None:
        """Gives the loop its turn after many messages that were there already; before the next is taken, not after it."""
        if self._in_turn >= TURN:
            self._in_turn = 0
            await asyncio.sleep(0)

    def _look_again(self) -> float | None:
        """In how many seconds to look again, whatever comes."""
        return None

    def _watch(self) -> asyncio.AbstractEventLoop:
        """The loop that runs; from now on it is this one that watches the port, if none does."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(f"the {self._name} is used by another event loop")
            self._fd = self._native._fileno()
            self._waiting.clear()
            loop.add_reader(self._fd, self._rung)
            self._loop, self._timer = loop, None
        return loop

    async def _next(self, most: int, take: Callable[[int], list[V]], arm: Callable[[int], list[V]]) -> Sequence[V]:
        """What `take` or `arm` finds there, at most `most`, or nothing after a wait. While much comes it looks again for a few turns of
        the loop: to be woken costs who sends more than the message."""
        loop = self._watch()
        if self._is_brisk:
            for _ in range(LOOKS):
                await asyncio.sleep(0)
                batch = take(most)
                if batch:
                    self._in_turn = 0
                    return batch
            self._is_brisk = False
        batch = arm(most)
        if not batch:
            await self._wait_for_news(loop)
        return batch

    async def _wait_for_news(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waits until there may be something."""
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

    async def _recv_runs(self, most: int, reads_json: Callable[[], bool]) -> Sequence[Run]:
        """For `message_bus`: waits for a message and returns it with those that are there by then, at most `most`: pairs of a topic and what
        came of it together, decoded from JSON where `reads_json` says so by then, or of None and messages that are not decoded. A
        MemoryError is for one message, which is lost."""
        await self._pause()
        native = self._native

        def take(most: int) -> list[Run]:
            return native._try_recv_runs(most, reads_json())

        while True:
            runs = take(most) or await self._next(most, take, self._arm_runs)
            if runs:
                count = sum(len(messages) for _, messages in runs)
                self._is_brisk = self._is_brisk or count > 1
                self._in_turn += count
                return runs

    def _arm_runs(self, most: int) -> list[Run]:
        batch = self._native._arm(most)
        return [(None, batch)] if batch else []


class Puller(_Intake["busway.Puller", "busway.Task"]):
    """A puller of one pattern, in one group: `async for task in puller`, `await puller.recv()`.

    A task is a `busway.Task`; to acknowledge it or to give it back needs no waiting.
    """

    _name = "puller"

    def __init__(self, open: Callable[[], busway.Puller]) -> None:
        super().__init__(open)
        #: What each task of the loop took last, where nothing is acknowledged.
        self._last: dict[asyncio.Task[Any] | None, list[ref[busway.Task]]] = {}

    async def recv(self) -> busway.Task:
        """The next. Where the group does not acknowledge, what this task of the loop had taken is over then: it may stand in a
        variable until the next comes, and that may wait for it."""
        self._end_last()
        task = await self._one()
        self._note([task])
        return task

    async def recv_many(self, most: int = 256) -> list[busway.Task]:
        """Waits for one and returns it with those that are there by then, at most `most`; what was taken before is over, as with
        `recv`."""
        self._end_last()
        tasks = await super().recv_many(most)
        self._note(tasks)
        return tasks

    def _end_last(self) -> None:
        """What this task of the loop took is over, and what those took that have ended, as those of `asyncio.wait_for`."""
        me = asyncio.current_task()
        for taker in [taker for taker in self._last if taker in (me, None) or taker.done()]:
            for last in self._last.pop(taker):
                task = last()
                if task is not None:
                    with suppress(busway.Error, ValueError):
                        task.ack()

    def _note(self, tasks: list[busway.Task]) -> None:
        if self._native.ack is None:
            self._last[asyncio.current_task()] = [ref(task) for task in tasks]

    def unread(self) -> list[dict[str, Any]]:
        """Pushers that match and that it cannot take from, and why."""
        return self._native.unread()

    async def close(self) -> None:
        """Leaves the group; tasks of the loop that wait in it end."""
        self._end_last()
        await super().close()

    @property
    def puller(self) -> busway.Puller:
        """The puller itself, for what need not be awaited."""
        return self._native

    def _look_again(self) -> float | None:
        # What the others of the group have had for too long is given back by whoever looks.
        ack = self._native.ack
        return None if ack is None else min(max(ack / 4, 0.01), 1.0)


class Responder(_Intake["busway.Responder", "busway.Request"]):
    """A responder to what is asked on the topics of one pattern: `async for request in responder`.

    A request is a `busway.Request`. `request.reply()` needs no waiting once there is a lane to who asks; to open one takes a
    moment, for which `await responder.reply(request, data)` leaves the loop its turn.
    """

    _name = "responder"

    @property
    def responder(self) -> busway.Responder:
        """The responder itself, for what need not be awaited: `unhandled()`."""
        return self._native

    async def reply(self, request: busway.Request, data: Buffer) -> None:
        """The reply, or the last one."""
        await _said(request, partial(request.reply, data))

    async def reply_part(self, request: busway.Request, data: Buffer) -> None:
        """A reply that others follow."""
        await _said(request, partial(request.reply_part, data))

    async def fail(self, request: busway.Request, why: Buffer | str | None = None) -> None:
        """There is no answer, and why: who asked gets ResponderFailed."""
        await _said(request, partial(request.fail, why))

    def _look_again(self) -> float | None:
        # Lanes that nobody needs any more are closed by who looks.
        return 1.0 if self._native.lanes > 0 else None


async def _said(request: busway.Request, say: Callable[[], None]) -> None:
    if request._has_lane():
        say()
    else:
        await asyncio.get_running_loop().run_in_executor(None, say)


class Requester(_Watched["busway.Requester"]):
    """A requester of one topic: `await requester.request(data)`. Tasks of one loop may share it.

    The loop watches one descriptor for all requests that are under way.
    """

    def __init__(self, open: Callable[[], busway.Requester]) -> None:
        super().__init__(open)
        #: Who waits for a reply, by the number of its request.
        self._waiting: dict[int, asyncio.Future[None]] = {}
        #: Who waits until there is a place for one more.
        self._placeless: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def requester(self) -> busway.Requester:
        """The requester itself, for what need not be awaited: `strays()`, `account()`."""
        return self._native

    async def request(self, data: Buffer, timeout: float | None = 5.0) -> busway.Reply:
        """Asks, and waits for the reply, at most `timeout` seconds. Of a stream of replies it is the first, and the others are
        not wanted. Raises NoResponders, ResponderDied, Unanswered, ResponderFailed, ReplyLost or TimedOut."""
        async with await self.send(data, timeout) as pending:
            reply = await pending.recv()
            if reply is None:
                raise busway.Unanswered(408, "the responder let the request go without an answer", "request")
            return reply

    async def send(self, data: Buffer, timeout: float | None = 5.0) -> Pending:
        """Asks, and does not wait for the replies, for which nobody waits any more after `timeout` seconds. It waits for the
        first responder (`late_join`), and for a place where as many requests are under way as may be."""
        loop = self._watch()
        native = self._native
        pending = native._send(data, timeout, 0.0)
        if pending is None:
            # What is sent later is what was there now.
            data = bytes(data)
            end = None if timeout is None else loop.time() + timeout
            while pending is None:
                left = None if end is None else end - loop.time()
                if native.under_way > 0:
                    await self._place(left)
                    left = None if end is None else end - loop.time()
                    try:
                        pending = native._send(data, left, 0.0)
                    except busway.Error:
                        # Nothing is under way of it, so that nothing of it ends: the place is for the next.
                        self._call(1)
                        raise
                else:
                    # Nobody answers yet, and so nothing ends that others could wait for: each calls the next.
                    self._call(1)
                    pending = await loop.run_in_executor(None, native._send, data, left, SLICE)
        return Pending(self, pending)

    async def wait_for_responders(self, count: int = 1, timeout: float | None = None) -> int:
        """Waits until `count` responders at least are there, and returns how many are."""
        return await _in_slices(partial(self._native.wait_for_responders, count), timeout)

    async def close(self) -> None:
        """Asks no more; tasks that wait for replies or for a place end."""
        await super().close()
        self._leave()
        self._stop_timer()
        self._end()

    def _watch(self) -> asyncio.AbstractEventLoop:
        """Has the running loop watch the replies."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return loop
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError("the requester is used by another event loop")
        self._fd = self._native._fileno()
        self._waiting.clear()
        self._placeless.clear()
        self._timer = None
        loop.add_reader(self._fd, self._rung)
        self._loop = loop
        self._rung()
        return loop

    async def _answer(self, id: int) -> None:
        """Waits until this request has something."""
        loop = self._watch()
        if id in self._waiting:
            raise RuntimeError("another task waits for the reply")
        waiter = loop.create_future()
        self._waiting[id] = waiter
        try:
            await waiter
        finally:
            if self._waiting.get(id) is waiter:
                del self._waiting[id]

    async def _place(self, left: float | None) -> None:
        """Waits until a request has ended, or for a moment, or until its time is up."""
        loop = self._watch()
        waiter = loop.create_future()
        self._placeless.append(waiter)
        over = None if left is None else loop.call_later(max(left, 0.0), self._give_up, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # The place is for the next.
                self._call(1)
            raise
        finally:
            if over is not None:
                over.cancel()

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        """Its time is up: nobody calls it any more."""
        if not waiter.done():
            self._placeless.remove(waiter)
            waiter.set_result(None)

    def _call(self, count: int) -> None:
        while self._placeless and count > 0:
            waiter = self._placeless.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _tick(self) -> None:
        self._timer = None
        self._rung()
        # Their time may be up.
        self._call(len(self._placeless))

    def _rung(self) -> None:
        """Something came: those who have something look."""
        self._stop_timer()
        if self._port is None or self._loop is None:
            return
        try:
            ready, again = self._port._turn()
        except busway.Error as error:
            # Each is told by its own look.
            self._end()
            if not isinstance(error, (busway.Closed, busway.Forked)):
                self._timer = self._loop.call_later(SLICE, self._tick)
            return
        for id in ready:
            waiter = self._waiting.pop(id, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._call(len(ready))
        if again is not None:
            self._timer = self._loop.call_later(again, self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        for waiter in [*self._waiting.values(), *self._placeless]:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
        self._placeless.clear()


class Pending:
    """A request under way: `async for reply in pending`, `await pending.recv()`. At the end of an `async with`, or when it is
    dropped, it is cancelled."""

    def __init__(self, requester: Requester, native: busway.Pending) -> None:
        self._requester = requester
        self._pending = native

    async def recv(self) -> busway.Reply | None:
        """The next reply; None after the last. One task at a time waits for it."""
        native = self._pending
        while True:
            reply, over = native._take()
            if over:
                self._requester._call(1)
            if over or reply is not None:
                return reply
            if self._requester._native.closed:
                native.cancel()
                continue
            await self._requester._answer(native._id)

    @property
    def over(self) -> bool:
        """Whether all replies were taken, or there will be none."""
        return self._pending.over

    @property
    def remaining(self) -> float | None:
        """For how many seconds it is waited for; None without end."""
        return self._pending.remaining

    def cancel(self) -> None:
        """The replies are not wanted any more."""
        self._pending.cancel()
        self._requester._call(1)

    def __aiter__(self) -> Pending:
        return self

    async def __anext__(self) -> busway.Reply:
        reply = await self.recv()
        if reply is None:
            raise StopAsyncIteration
        return reply

    async def __aenter__(self) -> Pending:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
