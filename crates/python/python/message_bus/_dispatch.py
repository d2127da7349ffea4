"""Handlers at work: messages wait in lanes, and a few tasks carry them to their handlers.

A lane is a topic, whose messages are handled one after the other; with `ordering="none"` each message is a lane of its own.
A task takes a lane and handles what lies there, so that a flood costs neither a task nor a future for each message. Another
task is started when there are lanes left while all tasks are in a handler: at most `concurrency` handlers run at once.

Invariant: a lane is in the hands of one task at most; what an inbox has counted as waiting is in a lane or in a handler.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import Any

from ._care import QUICK
from ._core import CALLER, Core
from ._handlers import Handler
from ._names import LETTER, PortKey
from ._processes import HandlerFailed

#: Messages of a lane that are handled before another lane has its turn, and so at most in one call of a thread.
TURN = 64


class Inbox:
    """How much of one subscription waits to be handled."""

    def __init__(self, port: PortKey, most: int) -> None:
        self.port = port
        self.most = most
        self.waiting = 0
        #: Somebody waits for room.
        self.wanted = False
        self._room = asyncio.Event()

    async def room(self) -> int:
        """Waits until there is room, and says for how many messages."""
        while self.waiting >= self.most:
            self._room.clear()
            self.wanted = True
            await self._room.wait()
        return self.most - self.waiting

    def done(self, count: int) -> None:
        self.waiting -= count
        if self.wanted:
            self.wanted = False
            self._room.set()


class Run:
    """Messages of one lane that came together, for the same handlers."""

    __slots__ = ("handlers", "inbox", "messages")

    def __init__(self, inbox: Inbox, handlers: tuple[Handler, ...]) -> None:
        self.inbox = inbox
        self.handlers = handlers
        self.messages: deque[dict[str, Any]] = deque()


class _Lane:
    __slots__ = ("runs", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.runs: deque[Run] = deque()


class _Outcome:
    """What a call in a thread has come to: how many were handled, what they returned to be awaited, what they raised."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self.awaitables: list[Awaitable[Any]] = []
        self.errors: list[BaseException] = []
        self.slow: list[float] = []

    def begins_or_ends(self) -> bool:
        """Whether it is the first to say so: the call that begins, or who has given it up before it began."""
        with self._lock:
            is_first, self._is_over = not self._is_over, True
            return is_first


class Dispatcher:
    """The handlers' tasks of one bus in one event loop."""

    def __init__(self, core: Core, concurrency: int, by_topic: bool) -> None:
        self._core = core
        self._concurrency = concurrency
        self.by_topic = by_topic
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[_Lane] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Tasks that have not ended, and those of them that have not begun. Who has ended is in `_tasks` for a moment longer.
        self._active = 0
        self._fresh = 0
        self._in_turn = 0
        self._closed = False

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The tasks that are at it, but for those that wait for cleanup."""
        return [task for task in list(self._tasks) if not self._core.is_spared(task)]

    def feed(self, inbox: Inbox, handlers: tuple[Handler, ...], topic: str) -> deque[dict[str, Any]]:
        """Where messages of a topic are put. `start` then sees to it that somebody comes; until then nobody takes them.

        Where each message has a lane of its own it is for one.
        """
        lane = self._lanes.get(topic) if self.by_topic else None
        if lane is None:
            lane = _Lane(topic)
            self._ready.append(lane)
            if self.by_topic:
                self._lanes[topic] = lane
        run = Run(inbox, handlers)
        lane.runs.append(run)
        return run.messages

    def start(self) -> None:
        """Starts a task if there is something to do that no task is about to do."""
        if self._ready and not self._fresh and self._active < self._concurrency:
            self._fresh += 1
            self._active += 1
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> int:
        """Ends the tasks; returns how many messages were not handled."""
        self._closed = True
        left = 0
        for lane in self._lanes.values() or self._ready:
            for run in lane.runs:
                left += len(run.messages)
                run.messages.clear()
        self._lanes.clear()
        self._ready.clear()
        for task in self._tasks:
            if not self._core.is_spared(task):
                task.cancel()
        return left

    async def _work(self) -> None:
        self._fresh -= 1
        CALLER.set(asyncio.current_task())
        try:
            while self._ready and not self._closed:
                lane = self._ready.popleft()
                # Whoever comes next is there when this task waits in a handler, and finds nothing if it does not.
                self.start()
                try:
                    await self._carry(lane)
                finally:
                    self._put_back(lane)
                if self._in_turn >= 4 * TURN:
                    self._in_turn = 0
                    await asyncio.sleep(0)
        finally:
            self._active -= 1

    def _put_back(self, lane: _Lane) -> None:
        """A lane is in nobody's hands any more."""
        while lane.runs and not lane.runs[0].messages:
            lane.runs.popleft()
        if self._closed:
            return
        if lane.runs:
            self._ready.append(lane)
        elif self._lanes.get(lane.topic) is lane:
            del self._lanes[lane.topic]

    async def _carry(self, lane: _Lane) -> None:
        """Handles what lies in a lane, for one turn."""
        turn = TURN
        while lane.runs and turn > 0:
            run = lane.runs[0]
            if len(run.handlers) > 1 or run.handlers[0].care is not None or self._core.after_receive:
                turn -= await self._carry_to_all(lane, run, turn)
            elif run.handlers[0].is_async:
                turn -= await self._carry_here(lane, run, turn)
            else:
                await self._carry_to_thread(lane, run)
                turn = 0
            if not run.messages and lane.runs and lane.runs[0] is run:
                lane.runs.popleft()

    async def _carry_here(self, lane: _Lane, run: Run, most: int) -> int:
        """Awaits one handler for so many messages of a run; returns for how many."""
        inbox, messages, handler, clock = run.inbox, run.messages, run.handlers[0], time.monotonic
        function, following = handler.function, messages.popleft
        count = 0
        before = clock()
        while messages and count < most:
            message = following()
            count += 1
            try:
                await function(message)
            except (Exception, asyncio.CancelledError) as error:
                inbox.done(1)
                self._core.handler_failed(lane.topic, error)
            else:
                inbox.waiting -= 1
                if inbox.wanted:
                    inbox.done(0)
            now = clock()
            if now - before > QUICK:
                self._took(handler, now - before)
            before = now
        self._in_turn += count
        handler.times.calls += count
        return count

    async def _carry_to_all(self, lane: _Lane, run: Run, most: int) -> int:
        """The same where there are hooks, several handlers, or one that wants care."""
        count = 0
        while run.messages and count < most:
            message = run.messages.popleft()
            count += 1
            self._in_turn += 1
            try:
                # Asked before a hook may have put another message in its place.
                is_letter = isinstance(message, dict) and message.get(LETTER) is True
                passed = await self._core.received(message)
                if passed is None:
                    continue
                for handler in run.handlers:
                    await self._handle(run.inbox.port, lane.topic, handler, passed, is_letter)
            finally:
                run.inbox.done(1)
        return count

    async def _handle(self, port: PortKey, topic: str, handler: Handler, message: dict[str, Any], is_letter: bool) -> None:
        """Has one message handled by one handler, with the care that was asked for."""
        care, breaker, failed = handler.care, None, 0
        if care is not None:
            breaker = care.breaker
        leave = breaker.admit() if breaker is not None else 0
        if leave is None:
            await self._give_up(port, topic, handler, None if is_letter else message, "breaker", 0)
            return
        while True:
            try:
                error = await self._once(topic, handler, message)
            except BaseException:
                if breaker is not None:
                    breaker.gave_up(leave)
                raise
            if error is None:
                if breaker is not None:
                    breaker.succeeded(leave)
                return
            failed += 1
            retry = care.retry if care is not None else None
            if retry is None or failed > retry.times:
                break
            self._core.metrics.causes["handler_retried"] += 1
            try:
                await asyncio.sleep(retry.pause(failed))
            except BaseException:
                if breaker is not None:
                    breaker.gave_up(leave)
                raise
        if breaker is not None:
            breaker.failed(leave)
        if care is not None:
            await self._give_up(port, topic, handler, None if is_letter else message, repr(error), failed)

    async def _once(self, topic: str, handler: Handler, message: dict[str, Any] | None) -> BaseException | None:
        """Calls a handler; returns what it raised, which is counted."""
        before = time.monotonic()
        error: BaseException | None = None
        try:
            if handler.is_async:
                await handler.function(message)
            else:
                for error in await self._in_thread(handler, [message]):
                    self._core.handler_failed(topic, error)
        except (Exception, asyncio.CancelledError) as raised:
            self._core.handler_failed(topic, raised)
            error = raised
        handler.times.calls += 1
        took = time.monotonic() - before
        if handler.is_async and took > QUICK:
            self._took(handler, took)
        return error

    async def _give_up(
        self, port: PortKey, topic: str, handler: Handler, message: dict[str, Any] | None, why: str, attempts: int
    ) -> None:
        """A message is not handled by a handler, and goes where it was said; None is one that goes nowhere."""
        core = self._core
        core.metrics.dropped_inbound("breaker" if not attempts else "given_up")
        dead_letter = handler.care.dead_letter if handler.care is not None else None
        # A handler of dead letters has none, also where those of another's dead letters go to the first: they would go round for ever.
        if dead_letter is None or dead_letter == topic or message is None:
            return
        data = {"topic": topic, "handler": handler.topic, "error": why, "attempts": attempts, "message": message}
        envelope = {"topic": dead_letter, "sender": core.service, "ts": time.time(), LETTER: True, "data": data}
        try:
            await core.bury(port, dead_letter, envelope)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and core.is_cancelled():
                raise
            core.log(logging.WARNING, "dead letter", "a dead letter cannot be published: %r", error)

    def _took(self, handler: Handler, seconds: float) -> None:
        """A call was not quick; where it was slow that is told."""
        handler.times.took(seconds)
        core, times = self._core, handler.times
        if 0 < core.settings.slow_handler <= seconds:
            core.metrics.causes["slow_handler"] += 1
            text = "a handler of %s took %.3f s; 99 of 100 of its %d calls take at most %.3f s"
            calls = max(times.calls, 1)
            core.log(logging.WARNING, f"slow {handler.topic}", text, handler.topic, seconds, calls, times.p99())

    async def _carry_to_thread(self, lane: _Lane, run: Run) -> None:
        """Handles what waits for the same function in one call of a thread."""
        handler = run.handlers[0]
        messages = [run.messages.popleft() for _ in range(min(TURN, len(run.messages)))]
        try:
            for failed in await self._in_thread(handler, messages):
                self._core.handler_failed(lane.topic, failed)
        except (Exception, asyncio.CancelledError) as error:
            self._core.handler_failed(lane.topic, error)
        finally:
            run.inbox.done(len(messages))
            handler.times.calls += len(messages)

    async def _in_thread(self, handler: Handler, messages: list[Any]) -> list[BaseException]:
        """Calls a function in a thread with each of the messages, and awaits what it returns to be awaited; or in a process."""
        if handler.pickled is not None:
            return [HandlerFailed(text) for text in await self._core.in_handler_process(handler.pickled, messages)]
        outcome = _Outcome()
        try:
            await self._core.in_handler_thread(partial(self._call, handler, messages, outcome))
        except asyncio.CancelledError:
            # It waits for a thread, and nobody waits for it any more.
            if outcome.begins_or_ends():
                self._core.metrics.dropped_inbound("closed", len(messages))
            raise
        for seconds in outcome.slow:
            self._took(handler, seconds)
        for awaitable in outcome.awaitables:
            try:
                await awaitable
            except Exception as error:
                outcome.errors.append(error)
            except asyncio.CancelledError as error:
                if self._core.is_cancelled():
                    raise
                outcome.errors.append(error)
        return outcome.errors

    def _call(self, handler: Handler, messages: list[dict[str, Any]], outcome: _Outcome) -> None:
        if not outcome.begins_or_ends():
            return
        for message in messages:
            if self._closed:
                self._core.metrics.dropped_inbound("closed")
                continue
            before = time.monotonic()
            try:
                returned = handler.function(message)
            except Exception as error:
                outcome.errors.append(error)
            else:
                if inspect.isawaitable(returned):
                    outcome.awaitables.append(returned)
            took = time.monotonic() - before
            if took > QUICK:
                outcome.slow.append(took)
