"""Subscribing: the loop that brings messages to handlers, a batch at a time.

A loop asks the bus for the topics that begin with any of its own; each pattern has a subscriber and a task that reads it. It
takes no more than its handlers have room for: what is beyond waits with the publisher, who is told by that.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import busway
from busway import aio

from ._core import LOOK, Core, in_loop
from ._dispatch import Dispatcher, Inbox
from ._farewell import end
from ._handlers import Handlers
from ._names import PortKey, is_cut, pattern
from ._route import IDS, lost

#: Messages that are taken at once.
BATCH = 256
#: Samples that a subscriber may hold while a batch is read.
HOLDS = 64
#: Seconds between two looks for what was lost.
LOSSES = 1.0


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
        self.handlers = Handlers(core.settings.in_processes)
        self.fresh()

    def fresh(self) -> None:
        self._subscribers: set[aio.Subscriber] = set()
        self._inboxes: set[Inbox] = set()
        self._lost = 0
        self._dispatchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Dispatcher] = weakref.WeakKeyDictionary()

    async def loop(self, port: PortKey, topics: Iterable[str] | str | None) -> None:
        """Brings messages to their handlers until it is cancelled."""
        prefixes = asked_for(topics)
        inbox = Inbox(port, self._core.settings.hwm_inbound)
        self._inboxes.add(inbox)
        patterns: dict[str, list[str]] = {}
        for prefix in prefixes:
            patterns.setdefault(pattern(port, prefix), []).append(prefix)
        readers = []
        for one, of in patterns.items():
            cut = tuple(of) if any(is_cut(port, prefix) for prefix in of) else None
            readers.append(asyncio.create_task(self._read(port, one, tuple(of), cut, inbox)))
        try:
            await asyncio.gather(*readers)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
            self._inboxes.discard(inbox)
            # Where this was all that its event loop was for, it ends with us, and its handlers with it.
            dispatcher = self._dispatcher()
            while dispatcher.running and time.monotonic() < self._core.end_by:
                await asyncio.sleep(LOOK)

    async def _read(
        self, port: PortKey, pattern: str, prefixes: tuple[str, ...], cut: tuple[str, ...] | None, inbox: Inbox
    ) -> None:
        """Reads one pattern; where it cannot be read it is tried again."""
        core = self._core

        def open() -> busway.Subscriber:
            end(core.bus(), f"pub:{port}", core.made, prefixes)
            return core.bus().subscriber(pattern, policy=core.settings.policy, holds=HOLDS, drop_duplicates=IDS)

        async def use(native: busway.Subscriber) -> None:
            # Opened by a thread of ours: the loop's own may all be busy with what the program gave them.
            subscriber = aio.Subscriber.of(native)
            self._subscribers.add(subscriber)
            try:
                await self._take_batches(subscriber, cut, inbox)
            finally:
                self._settle(subscriber)
                self._subscribers.discard(subscriber)
                await subscriber.close()

        await core.keep_open(f"sub:{port}", open, use)

    async def _take_batches(self, subscriber: aio.Subscriber, cut: tuple[str, ...] | None, inbox: Inbox) -> None:
        core, dispatcher = self._core, self._dispatcher()
        looked = time.monotonic()
        while True:
            room = await inbox.room()
            try:
                runs = await subscriber._recv_runs(min(room, BATCH), lambda: core.reads_json)
            except busway.ResourceError as error:
                # More large messages than may be held: those that came before are let go by now.
                core.log(logging.DEBUG, "holds", "%s", error)
                await asyncio.sleep(0)
                continue
            except MemoryError as error:
                # Python's own, which that of the bus is one of: it has none for one message.
                core.metrics.messages_received += 1
                core.undecodable(error)
                await asyncio.sleep(0)
                continue
            for topic, messages in runs:
                if topic is None:
                    self._hand_over(messages, cut, inbox, dispatcher)
                else:
                    self._hand_over_run(topic, messages, cut, inbox, dispatcher)
            # What is held is let go of before handlers have it.
            del runs, messages
            dispatcher.start()
            if time.monotonic() - looked >= LOSSES:
                looked = time.monotonic()
                self._tell_losses(subscriber)

    def _hand_over(
        self, payloads: Sequence[Any], cut: tuple[str, ...] | None, inbox: Inbox, dispatcher: Dispatcher
    ) -> None:
        """Decodes a batch and puts it where its handlers find it: those of a topic that came together in one go."""
        core, loads = self._core, self._core.loads
        core.metrics.messages_received += len(payloads)
        before: str | None = None
        run: deque[dict[str, Any]] | None = None
        count = 0
        for payload in payloads:
            try:
                message = loads(bytes(payload))
                topic = message["topic"]
                if topic is None or topic != before:
                    if not isinstance(topic, str):
                        raise TypeError("its topic is no text")
                    run = self._place_of(topic, cut, inbox, dispatcher)
                    before = topic if dispatcher.by_topic else None
            except Exception as error:
                core.undecodable(error)
                continue
            if run is not None:
                run.append(message)
                count += 1
            else:
                self._leave(topic, cut)
        inbox.waiting += count

    def _hand_over_run(
        self, topic: str, messages: list[dict[str, Any]], cut: tuple[str, ...] | None, inbox: Inbox, dispatcher: Dispatcher
    ) -> None:
        """Puts messages of a topic, which are decoded, where its handlers find them."""
        self._core.metrics.messages_received += len(messages)
        count = 0
        for some in [messages] if dispatcher.by_topic else [[message] for message in messages]:
            run = self._place_of(topic, cut, inbox, dispatcher)
            if run is not None:
                run.extend(some)
                count += len(some)
            else:
                for _ in some:
                    self._leave(topic, cut)
        inbox.waiting += count

    def _place_of(
        self, topic: str, cut: tuple[str, ...] | None, inbox: Inbox, dispatcher: Dispatcher
    ) -> deque[dict[str, Any]] | None:
        """Where messages of a topic go; None where nobody handles them."""
        handlers = self.handlers.of(topic) if cut is None or topic.startswith(cut) else ()
        return dispatcher.feed(inbox, handlers, topic) if handlers else None

    def _leave(self, topic: str, cut: tuple[str, ...] | None) -> None:
        """A message that is not for this loop, or for which there is no handler."""
        core = self._core
        if cut is not None and not topic.startswith(cut):
            core.metrics.messages_received -= 1
            return
        core.metrics.causes["no_handler"] += 1
        level = core.settings.log_level_no_handler
        core.log(level, f"no handler {topic}", "there is no handler for %s", topic)

    def _tell_losses(self, subscriber: aio.Subscriber) -> None:
        for loss in subscriber.losses():
            text = "%d messages of %s were lost: %s"
            cause = f"lost {loss['topic']} {loss['cause']}"
            level = logging.DEBUG if loss["cause"] == "duplicate" else logging.WARNING
            self._core.log(level, cause, text, loss["count"], loss["topic"], loss["cause"])

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
            config = self._core.settings
            concurrency = config.handler_max_concurrency or config.hwm_inbound
            found = Dispatcher(self._core, concurrency, config.ordering == "topic")
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

    async def drain(self, until: float) -> None:
        """Lets the handlers' tasks of all event loops come to their end, until `until`."""
        while self._at_work() and time.monotonic() < until:
            await asyncio.sleep(LOOK)

    def _at_work(self) -> bool:
        return any(loop.is_running() and dispatcher.running for loop, dispatcher in list(self._dispatchers.items()))

    async def close(self, until: float) -> None:
        """Ends the handlers' tasks of all event loops."""
        for loop, dispatcher in list(self._dispatchers.items()):
            in_loop(loop, partial(self._end, dispatcher))
        # Those of another loop are told in its next turn.
        await self.drain(max(until, time.monotonic()) + 0.5)

    def _end(self, dispatcher: Dispatcher) -> None:
        left = dispatcher.close()
        if left:
            self._core.metrics.dropped_inbound("closed", left)
