"""The way out: ports of the bus that were opened for topics, what is sent through them, and what becomes of it.

Publishing and pushing differ in what they open. Both wait for room in the event loop, and both drop a message, with its
cause, where it cannot go: nothing is raised unless the bus is strict.

Invariant: each message that is handed in is counted once, as sent or as dropped; what is sent and lost afterwards is counted
by the account of its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import busway

from ._breaker import Breaker
from ._core import LOOK, Core
from ._farewell import Parting, keep
from ._hooks import Rejected, passed
from ._names import LETTER, PortKey, name, results
from ._route import Port, Route, slots
from ._trace import well_formed

#: Seconds within which the bus notices that the time of what it keeps for the first is over.
NOTICED = 1.0
#: Topics that have a port at once. Beyond, the one that was opened first is closed; what it sent is read on.
ROUTES_MAX = 4096
#: Seconds that results wait for the first loop that pulls them: a day. They are work, which nobody wants to lose; what bounds
#: them is the length of the queue.
RESULTS_WAIT = 86400.0


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of a message that was to go out."""

    #: Whether the bus has it.
    accepted: bool
    #: Why it was dropped, where it was not accepted: `timeout`, `cooldown`, `rejected`, `unserialisable`, `too_large`, `closed`, or the
    #: code of an error.
    cause: str | None = None


ACCEPTED = PublishResult(True)


def _cause(error: busway.Error) -> str:
    if isinstance(error, busway.Full):
        return "timeout"
    if isinstance(error, busway.TooLarge):
        return "too_large"
    return "closed" if isinstance(error, busway.Closed) else error.code


class Outbound:
    """All routes of one pattern: `pub` or `push`."""

    #: What is left when the bus ends, and nobody came for, is counted as.
    unheard = "closed"

    def __init__(self, core: Core, pattern: str, timeout: float) -> None:
        self._core = core
        self._pattern = pattern
        self._timeout = timeout
        self.fresh()

    def fresh(self) -> None:
        #: By port and topic, the one that was opened first at the beginning.
        self.routes: dict[tuple[PortKey, str], Route] = {}
        self._opening = threading.Lock()
        #: A cleanup that was begun anew waits for the thread of the one before.
        self._closing = threading.Lock()
        #: Routes that were cleaned up and wait for the first who reads them.
        self._parting: set[Route] = set()
        #: Held while the counts of a route become those of the past, by whichever thread.
        self._counting = threading.Lock()
        #: What routes that are closed have lost, and what became of what they sent.
        self._lost = 0
        self._unattended = 0
        self._past: Counter[str] = Counter()

    def open(self, port: PortKey, topic: str) -> Port:
        """A port of the bus for a topic; it may take a moment."""
        raise NotImplementedError

    def exactly(self) -> int | None:
        """How many messages may wait, where that is held to the letter and not to the size of a ring."""
        return None

    async def send(self, port: PortKey, topic: str, message: dict[str, Any]) -> PublishResult:
        """Sends a message whatever it takes, or drops it."""
        core = self._core
        endpoint = f"{self._pattern}:{port}"
        breaker = core.breaker(endpoint)
        leave = None if core.closed else breaker.admit()
        if leave is None:
            # A flood of what is refused must not have the loop for itself.
            await asyncio.sleep(0)
            return self._dropped("closed" if core.closed else "cooldown")
        # Before a hook may have put another message in its place: whatever it says, it is the same one each time.
        id: str | None = message.get("id") if core.settings.retry is not None else None
        trace = None
        try:
            # What it is no hook takes away: dead letters would go round for ever.
            is_letter = LETTER in message
            if core.before_send:
                message = await passed(core.before_send, message)
                trace = well_formed(message.get("traceparent"))
            if is_letter:
                message[LETTER] = True
            payload = core.dumps(message)
            if not isinstance(topic, str):
                raise TypeError(f"a topic is text, not {topic!r}")
            hash(port)
        except Exception as error:
            breaker.gave_up(leave)
            return self._dropped("rejected" if isinstance(error, Rejected) else "unserialisable", error)
        except BaseException:
            breaker.gave_up(leave)
            raise
        failed = await self._tried(port, topic, (payload, id, trace), breaker, leave)
        if failed is not None:
            return self._dropped(_cause(failed), failed)
        breaker.succeeded(leave)
        core.metrics.messages_sent += 1
        # Who has just been made to listen has its turn first.
        await asyncio.sleep(0)
        return ACCEPTED

    async def _tried(
        self, port: PortKey, topic: str, sent: tuple[bytes, str | None, str | None], breaker: Breaker, leave: int
    ) -> busway.Error | None:
        """Sends a message, and again where that fails, as often as was said; returns what it failed of at last. What is sent has an id and a trace."""
        core, retry, failed = self._core, self._core.settings.retry, 0
        while True:
            try:
                route = await self.route(port, topic)
                await self._send(route, *sent)
                return None
            except busway.Error as error:
                failed += 1
                is_over = isinstance(error, (busway.TooLarge, busway.Closed)) or core.ending
                if retry is None or failed > retry.times or is_over:
                    # Where somebody is slow the endpoint is well.
                    if isinstance(error, (busway.Full, busway.TooLarge, busway.Closed)):
                        breaker.gave_up(leave)
                    else:
                        breaker.failed(leave)
                    return error
            except BaseException:
                breaker.gave_up(leave)
                raise
            core.metrics.causes["retried"] += 1
            try:
                await asyncio.sleep(retry.pause(failed))
            except BaseException:
                breaker.gave_up(leave)
                raise

    def _dropped(self, cause: str, error: Exception | None = None) -> PublishResult:
        metrics = self._core.metrics
        metrics.dropped_outbound(cause)
        if error is not None and cause != "rejected":
            metrics.error(cause)
        self._core.log(logging.WARNING, f"{self._pattern} {cause}", "a message was dropped: %s", error or cause)
        if self._core.settings.strict:
            raise error or busway.Error(603, f"the message was dropped: {cause}")
        return PublishResult(False, cause)

    async def _send(self, route: Route, payload: bytes, id: str | None, trace: str | None) -> None:
        """Sends, and waits for room as long as may be."""
        loop = asyncio.get_running_loop()
        route.flush(loop)
        while route.rest is not None and route.rest.get_loop() is loop:
            await asyncio.wait({route.rest})
        if not route.waiting:
            try:
                route.send_now(payload, id, trace)
                return
            except busway.Full:
                pass
        core, me = self._core, object()
        core.metrics.backpressure_events += 1
        route.waiting.add(me)
        try:
            await route.when_there_is_room(partial(route.send_now, payload, id, trace), self._timeout)
        finally:
            route.waiting.discard(me)

    async def route(self, port: PortKey, topic: str) -> Route:
        """The route of a topic, which is opened if it is not there."""
        route = self.routes.get((port, topic))
        if route is None:
            if len(self.routes) >= ROUTES_MAX:
                # It is about to be closed.
                next(iter(self.routes.values())).flush(asyncio.get_running_loop())
            route = await self._core.in_thread(partial(self._opened, port, topic))
        return route

    def _opened(self, port: PortKey, topic: str) -> Route:
        core, endpoint = self._core, f"{self._pattern}:{port}"
        with self._opening:
            route = self.routes.get((port, topic))
            if route is not None:
                return route
            try:
                native = self.open(port, topic)
            except busway.Closed:
                raise
            except busway.Error as error:
                core.not_opened(endpoint, error)
                raise
            if len(self.routes) >= ROUTES_MAX:
                self._close(*next(iter(self.routes.items())))
            route = Route(core, endpoint, native, self.exactly(), self._timeout)
            core.opened(endpoint)
            self.routes[port, topic] = route
            return route

    def _give_up(self, route: Route) -> None:
        """Counts what was never sent."""
        left = route.give_up()
        if left:
            self._core.metrics.dropped_outbound("closed", left)

    def _close(self, key: tuple[PortKey, str], route: Route, is_end: bool = False) -> None:
        """Closes a route. At the end of the bus what is left in it is counted: who is there may still read it."""
        self._give_up(route)
        with self._counting:
            self._parting.discard(route)
            if self.routes.get(key) is route:
                del self.routes[key]
            # Where the bus was closed from outside there is nothing to be counted any more.
            with contextlib.suppress(busway.Error):
                lost, unattended, account = route.losses(), route.unattended(), route.account()
                left = account["in_flight"] if is_end else 0
                if left and route.is_heard():
                    self._core.metrics.causes["undelivered"] += left
                elif left:
                    account["in_flight"] -= left
                    account[f"lost.{self.unheard}"] += left
                    if self.unheard == "no_subscriber":
                        unattended += left
                    else:
                        self._core.metrics.dropped_outbound(self.unheard, left)
                self._lost += lost
                self._unattended += unattended
                self._past += account
        route.native.close()
        self._core.ended(route.endpoint)

    def flush(self) -> None:
        """Sends what waits for the end of this turn of the loop, so that it is counted."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        for route in list(self.routes.values()):
            route.flush(loop)

    async def settle(self, until: float) -> None:
        """Sends what waits for the end of a turn, and waits until `until` for what waits for room."""
        self.flush()
        while any(route.rest is not None and route.is_held_up() for route in list(self.routes.values())):
            if time.monotonic() >= until:
                return
            await asyncio.sleep(LOOK)

    def _counted(self) -> list[Route]:
        """The routes that count for themselves."""
        return [*self.routes.values(), *self._parting]

    def account(self) -> Counter[str]:
        """What became of what was sent: `delivered`, `in_flight`, and each cause of a loss as `lost.CAUSE`."""
        with self._counting:
            return sum((route.account() for route in self._counted()), Counter(self._past))

    def lost(self) -> int:
        """Messages that were sent and are lost."""
        with self._counting:
            return self._lost + sum(route.losses() for route in self._counted())

    def unattended(self) -> int:
        """Messages for which nobody came in time."""
        with self._counting:
            return self._unattended + sum(route.unattended() for route in self._counted())

    def close(self, until: float) -> None:
        """Waits until `until` for those who have not read everything, and closes; what then is left is lost. Blocks.

        What waits for the first who reads it stays open for as long as was said, and is waited for by nobody here.
        """
        with self._closing:
            config, partings, kept = self._core.settings, [], []
            late = time.monotonic() + config.late_join + NOTICED
            for key, route in list(self.routes.items()):
                if config.late_join > 0 and self._in_flight(route) and not route.is_heard():
                    self._give_up(route)
                    ended = partial(self._close, key, is_end=True)
                    partings.append(Parting(route, key[1], late, config.linger, ended))
                    kept.append(key)
                else:
                    with contextlib.suppress(busway.Error):
                        route.native.flush(max(0.0, until - time.monotonic()))
                    self._close(key, route, is_end=True)
            share = self._core.share() if partings else None
            if share is None:
                for parting in partings:
                    parting.end(parting.route)
            else:
                with self._counting:
                    self._parting.update(parting.route for parting in partings)
                    for key in kept:
                        del self.routes[key]
                keep(share, partings)

    def _in_flight(self, route: Route) -> int:
        """Messages that somebody may still read; none where the bus was closed from outside."""
        with contextlib.suppress(busway.Error):
            return int(route.native.account()["in_flight"])
        return 0


class Publishing(Outbound):
    unheard = "no_subscriber"

    def __init__(self, core: Core) -> None:
        super().__init__(core, "pub", core.settings.pub_send_timeout)

    def open(self, port: PortKey, topic: str) -> busway.Publisher:
        config = self._core.settings
        return self._core.bus().publisher(
            name(port, topic),
            slots_max=slots(config.hwm_outbound),
            max_wait=config.pub_send_timeout,
            gating=config.pub_send_timeout > 0,
            late_join=config.late_join,
            behind_max=config.hwm_outbound,
        )


class Pushing(Outbound):
    def __init__(self, core: Core) -> None:
        super().__init__(core, "push", core.settings.push_send_timeout)

    def exactly(self) -> int | None:
        # All who pull are one reader, so that it can be counted what waits.
        return self._core.settings.hwm_outbound

    def open(self, port: PortKey, topic: str) -> busway.Pusher:
        config = self._core.settings
        return self._core.bus().pusher(
            results(port), slots_max=slots(config.hwm_outbound), max_wait=config.push_send_timeout, late_join=RESULTS_WAIT
        )
