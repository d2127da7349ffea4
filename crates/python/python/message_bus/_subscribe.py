"""Subscribing: the loop that brings messages to handlers, a batch at a time.

A loop asks the bus for the topics that begin with any of its own; each pattern has a subscriber and a task that reads it. It
takes no more than its handlers have room for: what is beyond waits with the publisher, who is told by that.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import busway
from busway import aio

from ._core import Core
from ._dispatch import Dispatcher, Inbox
from ._handlers import Handlers
from ._names import is_cut, pattern
from ._outbound import lost

#: Messages that are taken at once.
BATCH = 256
#: Samples that a subscriber may hold while a batch is read.
HOLDS = 64
#: Threads of sync handlers where their number is not limited: as many as `asyncio.to_thread` has on a large machine.
THREADS = 32
#: Seconds between two looks for what was lost.
LOOK = 1.0
#: The shortest and longest pause before an endpoint that could not be opened is tried again, in seconds.
PAUSE = (0.05, 1.0)


def disjoint(prefixes: Iterable[str]) -> list[str]:
    """The prefixes that are no longer form of another: so that each message comes once."""
    found: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return found


def asked_for(topics: Iterable[str] | str | None) -> list[str]:
    """The prefixes of a subscription; all topics where none are named."""
    prefixes = [topics] if isinstance(topics, str) else list(topics or [""])
    for prefix in prefixes:
        if not isinstance(prefix, str):
            raise TypeError(f"a topic is text, not {prefix!r}")
    return disjoint(prefixes)


class Subscribing:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.handlers = Handlers()
        self.fresh()

    def fresh(self) -> None:
        self._subscribers: dict[aio.Subscriber, int] = {}
        self._inboxes: set[Inbox] = set()
        self._lost = 0
        self._threads: ThreadPoolExecutor | None = None
        self._dispatchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Dispatcher] = weakref.WeakKeyDictionary()

    async def loop(self, port: int, topics: Iterable[str] | str | None) -> None:
        """Brings messages to their handlers until it is cancelled."""
        prefixes = asked_for(topics)
        inbox = Inbox(self._core.settings.hwm_inbound)
        self._inboxes.add(inbox)
        patterns: dict[str, list[str]] = {}
        for prefix in prefixes:
            patterns.setdefault(pattern(port, prefix), []).append(prefix)
        readers = []
        for one, of in patterns.items():
            cut = tuple(of) if any(is_cut(port, prefix) for prefix in of) else None
            readers.append(asyncio.create_task(self._read(port, one, cut, inbox)))
        try:
            await asyncio.gather(*readers)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
            self._inboxes.discard(inbox)

    async def _read(self, port: int, pattern: str, cut: tuple[str, ...] | None, inbox: Inbox) -> None:
        """Reads one pattern; where it cannot be read it is tried again."""
        core, pause = self._core, PAUSE[0]
        while not core.closed:
            try:
                subscriber = await self._opened(pattern)
            except busway.Closed:
                return
            except busway.Error as error:
                core.metrics.error(error.code)
                core.not_opened(f"sub:{port}", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE[1])
                continue
            pause = PAUSE[0]
            core.opened(f"sub:{port}")
            self._subscribers[subscriber] = 0
            try:
                await self._take_batches(subscriber, cut, inbox)
            except busway.Closed:
                return
            except busway.Error as error:
                core.metrics.error(error.code)
                core.log(logging.ERROR, f"read {port}", "reading port %s: %s", port, error)
            finally:
                self._settle(subscriber)
                del self._subscribers[subscriber]
                core.ended(f"sub:{port}")
                await subscriber.close()

    async def _opened(self, pattern: str) -> aio.Subscriber:
        core = self._core

        def open() -> busway.Subscriber:
            return core.bus().subscriber(pattern, policy=core.settings.policy, holds=HOLDS)

        # Opened by a thread of ours: the loop's own may all be busy with what the program gave them.
        subscriber = aio.Subscriber(partial(open))
        subscriber._port = await core.in_thread(open)
        return subscriber

    async def _take_batches(self, subscriber: aio.Subscriber, cut: tuple[str, ...] | None, inbox: Inbox) -> None:
        dispatcher = self._dispatcher()
        looked = time.monotonic()
        while True:
            room = await inbox.room()
            try:
                batch = await subscriber.recv_many(min(room, BATCH))
            except busway.ResourceError as error:
                # More large messages than may be held: those that came before are let go by now.
                self._core.log(logging.DEBUG, "holds", "%s", error)
                await asyncio.sleep(0)
                continue
            payloads = [bytes(sample) for sample in batch]
            del batch
            self._hand_over(payloads, cut, inbox, dispatcher)
            dispatcher.start()
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                self._tell_losses(subscriber)

    def _hand_over(
        self, payloads: Sequence[bytes], cut: tuple[str, ...] | None, inbox: Inbox, dispatcher: Dispatcher
    ) -> None:
        """Decodes a batch and puts it where its handlers find it."""
        core, loads, handlers_of, feed = self._core, self._core.loads, self.handlers.of, dispatcher.feed
        core.metrics.messages_received += len(payloads)
        for payload in payloads:
            try:
                message = loads(payload)
                topic = message["topic"]
                if not isinstance(topic, str):
                    raise TypeError("its topic is no text")
                handlers = handlers_of(topic)
            except Exception as error:
                self._undecodable(error)
                continue
            if cut is not None and not topic.startswith(cut):
                core.metrics.messages_received -= 1
            elif handlers:
                feed(inbox, handlers, topic, message)
            else:
                core.metrics.causes["no_handler"] += 1
                level = core.settings.log_level_no_handler
                core.log(level, f"no handler {topic}", "there is no handler for %s", topic)

    def _undecodable(self, error: Exception) -> None:
        core = self._core
        core.metrics.dropped_inbound("undecodable")
        core.metrics.error("undecodable")
        core.log(logging.WARNING, "undecodable", "a message that came cannot be read: %r", error)

    def _tell_losses(self, subscriber: aio.Subscriber) -> None:
        for loss in subscriber.losses():
            text = "%d messages of %s were lost: %s"
            cause = f"lost {loss['topic']} {loss['cause']}"
            self._core.log(logging.WARNING, cause, text, loss["count"], loss["topic"], loss["cause"])

    def _settle(self, subscriber: aio.Subscriber) -> None:
        """Keeps the account of a subscriber that ends."""
        try:
            self._lost += lost(subscriber.subscriber.account())
        except busway.Error:
            self._core.metrics.causes["unaccounted"] += 1

    def _dispatcher(self) -> Dispatcher:
        loop = asyncio.get_running_loop()
        found = self._dispatchers.get(loop)
        if found is None:
            core, config = self._core, self._core.settings
            concurrency = config.handler_max_concurrency or config.hwm_inbound
            executor = config.sync_executor
            if executor is None:
                if self._threads is None:
                    threads = config.handler_max_concurrency or THREADS
                    self._threads = ThreadPoolExecutor(threads, thread_name_prefix="message_bus handler")
                executor = self._threads
            found = Dispatcher(concurrency, config.ordering == "topic", executor, core.metrics, core.log)
            self._dispatchers[loop] = found
        return found

    @property
    def waiting(self) -> int:
        """Messages that wait for their handlers, or are in one."""
        return sum(inbox.waiting for inbox in self._inboxes)

    def lost(self) -> int:
        """Messages for which there was no room."""
        alive = sum(lost(subscriber.subscriber.account()) for subscriber in list(self._subscribers))
        return self._lost + alive

    async def close(self, cancel: bool, until: float) -> None:
        """Ends the handlers' tasks of this event loop; where they are not to be cancelled, they have until `until`."""
        dispatcher = self._dispatchers.get(asyncio.get_running_loop())
        if dispatcher is not None:
            current = asyncio.current_task()
            while not cancel and time.monotonic() < until and any(task is not current for task in dispatcher.running):
                await asyncio.sleep(0.002)
            left = dispatcher.close()
            if left:
                self._core.metrics.dropped_inbound("closed", left)
            tasks = [task for task in dispatcher.running if task is not current]
            if tasks:
                await asyncio.wait(tasks, timeout=max(0.0, until - time.monotonic()) + 0.5)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
