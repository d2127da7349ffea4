"""Handlers at work: messages wait in lanes, and a few tasks carry them to their handlers.

A lane is a topic, whose messages are handled one after the other; with `ordering="none"` each message is a lane of its own.
A task takes a lane and handles what lies there, so that a flood costs neither a task nor a future for each message. Another
task is started when there are lanes left while all tasks are in a handler: at most `concurrency` handlers run at once.

Invariant: a lane is in the hands of one task at most; what an inbox has counted as waiting is in a lane or in a handler.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import Any

from ._core import Core
from ._handlers import Handler
from ._processes import HandlerFailed

#: Messages of a lane that are handled before another lane has its turn, and so at most in one call of a thread.
TURN = 64


class Inbox:
    """How much of one subscription waits to be handled."""

    def __init__(self, most: int) -> None:
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
        self.awaitables: list[Awaitable[Any]] = []
        self.errors: list[Exception] = []


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
    def running(self) -> set[asyncio.Task[None]]:
        """The tasks that are at it."""
        return self._tasks

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
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        return left

    async def _work(self) -> None:
        self._fresh -= 1
        while self._ready and not self._closed:
            lane = self._ready.popleft()
            # Whoever comes next is there when this task waits in a handler, and finds nothing if it does not.
            self.start()
            await self._carry(lane)
            if lane.runs:
                self._ready.append(lane)
            elif self._lanes.get(lane.topic) is lane:
                del self._lanes[lane.topic]
            if self._in_turn >= 4 * TURN:
                self._in_turn = 0
                await asyncio.sleep(0)
        self._active -= 1

    async def _carry(self, lane: _Lane) -> None:
        """Handles what lies in a lane, for one turn."""
        turn = TURN
        while lane.runs and turn > 0:
            run = lane.runs[0]
            if len(run.handlers) > 1:
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
        inbox, messages, function = run.inbox, run.messages, run.handlers[0].function
        count = 0
        while messages and count < most:
            message = messages.popleft()
            count += 1
            self._in_turn += 1
            try:
                await function(message)
            except (Exception, asyncio.CancelledError) as error:
                inbox.done(1)
                self._core.handler_failed(lane.topic, error)
                continue
            inbox.waiting -= 1
            if inbox.wanted:
                inbox.done(0)
        return count

    async def _carry_to_all(self, lane: _Lane, run: Run, most: int) -> int:
        """The same where there are several handlers."""
        count = 0
        while run.messages and count < most:
            message = run.messages.popleft()
            count += 1
            self._in_turn += 1
            try:
                for handler in run.handlers:
                    try:
                        if handler.is_async:
                            await handler.function(message)
                        else:
                            await self._in_thread(handler, [message], lane.topic)
                    except (Exception, asyncio.CancelledError) as error:
                        self._core.handler_failed(lane.topic, error)
            finally:
                run.inbox.done(1)
        return count

    async def _carry_to_thread(self, lane: _Lane, run: Run) -> None:
        """Handles what waits for the same function in one call of a thread."""
        messages = [run.messages.popleft() for _ in range(min(TURN, len(run.messages)))]
        try:
            await self._in_thread(run.handlers[0], messages, lane.topic)
        except (Exception, asyncio.CancelledError) as error:
            self._core.handler_failed(lane.topic, error)
        finally:
            run.inbox.done(len(messages))

    async def _in_thread(self, handler: Handler, messages: list[dict[str, Any]], topic: str) -> None:
        """Calls a function in a thread with each of the messages, and awaits what it returns to be awaited; or in a process."""
        if handler.pickled is not None:
            for failed in await self._core.in_handler_process(handler.pickled, messages):
                self._core.handler_failed(topic, HandlerFailed(failed))
            return
        outcome = _Outcome()
        await self._core.in_handler_thread(partial(self._call, handler, messages, outcome))
        for error in outcome.errors:
            self._core.handler_failed(topic, error)
        for awaitable in outcome.awaitables:
            try:
                await awaitable
            except (Exception, asyncio.CancelledError) as error:
                self._core.handler_failed(topic, error)

    def _call(self, handler: Handler, messages: list[dict[str, Any]], outcome: _Outcome) -> None:
        for message in messages:
            if self._closed:
                self._core.metrics.dropped_inbound("closed")
                continue
            try:
                returned = handler.function(message)
            except Exception as error:
                outcome.errors.append(error)
            else:
                if inspect.isawaitable(returned):
                    outcome.awaitables.append(returned)
