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
        self._room = asyncio.Event()

    async def room(self) -> int:
        """Waits until there is room, and says for how many messages."""
        while self.waiting >= self.most:
            self._room.clear()
            await self._room.wait()
        return self.most - self.waiting

    def done(self, count: int) -> None:
        self.waiting -= count
        self._room.set()


_Item = tuple[Inbox, tuple[Handler, ...], dict[str, Any]]


class _Lane:
    __slots__ = ("is_ready", "items", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.items: deque[_Item] = deque()
        self.is_ready = True


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
        self._by_topic = by_topic
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

    def feed(self, inbox: Inbox, handlers: tuple[Handler, ...], topic: str, message: dict[str, Any]) -> None:
        """Puts a message into its lane. `start` then sees to it that somebody comes."""
        inbox.waiting += 1
        lane = self._lanes.get(topic) if self._by_topic else None
        if lane is None:
            lane = _Lane(topic)
            self._ready.append(lane)
            if self._by_topic:
                self._lanes[topic] = lane
        lane.items.append((inbox, handlers, message))

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
        left = sum(len(lane.items) for lane in self._lanes.values() or self._ready)
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
            if lane.items:
                self._ready.append(lane)
            elif self._lanes.get(lane.topic) is lane:
                del self._lanes[lane.topic]
            if self._in_turn >= 4 * TURN:
                self._in_turn = 0
                await asyncio.sleep(0)
        self._active -= 1

    async def _carry(self, lane: _Lane) -> None:
        """Handles what lies in a lane, for one turn."""
        for _ in range(TURN):
            if not lane.items:
                return
            inbox, handlers, message = lane.items[0]
            if len(handlers) == 1 and not handlers[0].is_async:
                await self._carry_to_thread(lane, handlers[0])
                return
            lane.items.popleft()
            self._in_turn += 1
            try:
                for handler in handlers:
                    try:
                        if handler.is_async:
                            await handler.function(message)
                        else:
                            await self._in_thread(handler, [message])
                    except (Exception, asyncio.CancelledError) as error:
                        self._core.handler_failed(lane.topic, error)
            finally:
                inbox.done(1)

    async def _carry_to_thread(self, lane: _Lane, handler: Handler) -> None:
        """Handles what waits for the same function in one call of a thread."""
        inboxes: list[Inbox] = []
        messages: list[dict[str, Any]] = []
        while lane.items and len(messages) < TURN and lane.items[0][1][0] is handler and len(lane.items[0][1]) == 1:
            inbox, _, message = lane.items.popleft()
            inboxes.append(inbox)
            messages.append(message)
        try:
            await self._in_thread(handler, messages, lane.topic)
        except (Exception, asyncio.CancelledError) as error:
            self._core.handler_failed(lane.topic, error)
        finally:
            for inbox in inboxes:
                inbox.done(1)

    async def _in_thread(self, handler: Handler, messages: list[dict[str, Any]], topic: str = "") -> None:
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
