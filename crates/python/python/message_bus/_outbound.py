"""The way out: ports of the bus that were opened for topics, what is sent through them, and what becomes of it.

Publishing and pushing differ in what they open. Both wait for room in the event loop, and both drop a message, with its
cause, where it cannot go: nothing is raised unless the bus is strict.

Invariant: each message that is handed in is counted once, as sent or as dropped; what is sent and lost afterwards is counted
by the account of its port.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import busway

from ._core import Core
from ._names import name, results

#: Messages that are sent before the loop has its turn: a flood must not keep others from reading it.
TURN = 64
#: Topics that have a port at once. Beyond, the one that was opened first is closed; what it sent is read on.
ROUTES_MAX = 4096
#: Seconds that results wait for the first loop that pulls them: a day. They are work, which nobody wants to lose; what bounds
#: them is the length of the queue.
RESULTS_WAIT = 86400.0
#: What an account tells that is no fault: who left, and what nobody waited for.
NO_FAULT = frozenset(
    ["conflated", "no_subscriber", "subscriber_died", "subscriber_left", "expired", "cancelled", "dead_letter"]
)

_Port = busway.Publisher | busway.Pusher


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of a message that was to go out."""

    #: Whether the bus has it.
    accepted: bool
    #: Why it was dropped, where it was not accepted: `timeout`, `cooldown`, `unserialisable`, `too_large`, `closed`, or the
    #: code of an error.
    cause: str | None = None


ACCEPTED = PublishResult(True)


def lost(account: dict[str, Any]) -> int:
    """Messages of an account that are lost, and should not have been."""
    return sum(count for cause, count in account["dropped"].items() if cause not in NO_FAULT)


def slots(hwm: int) -> int:
    """Messages that a ring of the bus holds for so many: the next power of two, at least 32."""
    return max(32, 1 << (hwm - 1).bit_length())


class Route:
    """A port of the bus for one topic."""

    def __init__(self, endpoint: str, native: _Port, slots: int) -> None:
        self.endpoint = endpoint
        self.native = native
        self.waiting = 0
        #: Subscribers for which the publisher waits no more, each time that one became so.
        self.stalled = 0
        self._slots = slots
        self._lost = 0

    def is_heard(self) -> bool:
        """Whether anybody listens."""
        native = self.native
        return bool(native.subscribers if isinstance(native, busway.Publisher) else native.pullers)

    def losses(self) -> int:
        """Messages that were sent and are lost, for each subscriber that has lost them."""
        account = self.native.account()
        # What a slow subscriber will not find any more counts as soon as it is gone, not when that one looks.
        beyond = account["in_flight"] - self._slots * max(1, account["subscribers"])
        # Who leaves takes along what it had not read, and a count never falls.
        self._lost = max(lost(account) + max(0, int(beyond)), self.stalled, self._lost)
        return self._lost

    def unattended(self) -> int:
        """Messages for which nobody came in time."""
        return int(self.native.account()["dropped"].get("no_subscriber", 0))


class Outbound:
    """All routes of one pattern: `pub` or `push`."""

    def __init__(self, core: Core, pattern: str, timeout: float) -> None:
        self._core = core
        self._pattern = pattern
        self._timeout = timeout
        self.fresh()

    def fresh(self) -> None:
        #: By port and topic, the one that was opened first at the beginning.
        self.routes: dict[tuple[int, str], Route] = {}
        self._opening = threading.Lock()
        #: What routes that are closed have lost.
        self._lost = 0
        self._unattended = 0

    def open(self, port: int, topic: str) -> _Port:
        """A port of the bus for a topic; it may take a moment."""
        raise NotImplementedError

    async def send(self, port: int, topic: str, message: dict[str, Any]) -> PublishResult:
        """Sends a message whatever it takes, or drops it."""
        core = self._core
        endpoint = f"{self._pattern}:{port}"
        breaker = core.breaker(endpoint)
        leave = None if core.closed else breaker.admit()
        if leave is None:
            # A flood of what is refused must not have the loop for itself.
            await asyncio.sleep(0)
            return self._dropped("closed" if core.closed else "cooldown")
        try:
            payload = core.dumps(message)
            if not isinstance(topic, str):
                raise TypeError(f"a topic is text, not {topic!r}")
            hash(port)
        except Exception as error:
            breaker.gave_up(leave)
            return self._dropped("unserialisable", error)
        try:
            route = await self.route(port, topic)
            await self._send(route, payload)
        except busway.Full as error:
            # Somebody is slow; the endpoint is well.
            breaker.gave_up(leave)
            return self._dropped("timeout", error)
        except busway.TooLarge as error:
            breaker.gave_up(leave)
            return self._dropped("too_large", error)
        except busway.Closed as error:
            breaker.gave_up(leave)
            return self._dropped("closed", error)
        except busway.Error as error:
            breaker.failed(leave)
            return self._dropped(error.code, error)
        except BaseException:
            breaker.gave_up(leave)
            raise
        breaker.succeeded(leave)
        core.metrics.messages_sent += 1
        # Who has just been made to listen has its turn first.
        await asyncio.sleep(0)
        return ACCEPTED

    def _dropped(self, cause: str, error: Exception | None = None) -> PublishResult:
        metrics = self._core.metrics
        metrics.dropped_outbound(cause)
        if error is not None:
            metrics.error(cause)
        self._core.log(logging.WARNING, f"{self._pattern} {cause}", "a message was dropped: %s", error or cause)
        if self._core.settings.strict:
            raise error or busway.Error(603, f"the message was dropped: {cause}")
        return PublishResult(False, cause)

    async def _send(self, route: Route, payload: bytes) -> None:
        """Sends, and waits for room as long as may be."""
        if not route.waiting:
            try:
                route.native.try_send(payload)
                return
            except busway.Full:
                pass
        core = self._core
        core.metrics.backpressure_events += 1
        route.waiting += 1
        try:
            sent = await self.when_there_is_room(partial(route.native.try_send, payload))
        finally:
            route.waiting -= 1
        if sent.stalled:
            route.stalled += sent.stalled
            text = "%d subscribers of %s did not take a message within %s s: they are waited for when they have caught up"
            cause = f"stalled {route.native.topic}"
            core.log(logging.WARNING, cause, text, sent.stalled, route.native.topic, self._timeout)

    async def when_there_is_room(self, send: Callable[[], busway.Sent]) -> busway.Sent:
        """Tries to send until it works. Raises Full when the time is over."""
        until = time.monotonic() + self._timeout
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                return send()
            except busway.Full:
                if time.monotonic() >= until:
                    raise
            pause = min(max(2 * pause, 0.0002), 0.005)

    async def route(self, port: int, topic: str) -> Route:
        """The route of a topic, which is opened if it is not there."""
        route = self.routes.get((port, topic))
        if route is None:
            route = await self._core.in_thread(partial(self._opened, port, topic))
        return route

    def _opened(self, port: int, topic: str) -> Route:
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
                self._close(self.routes.pop(next(iter(self.routes))))
            route = Route(endpoint, native, slots(core.settings.hwm_outbound))
            core.opened(endpoint)
            self.routes[port, topic] = route
            return route

    def _close(self, route: Route) -> None:
        self._lost += route.losses()
        self._unattended += route.unattended()
        route.native.close()
        self._core.ended(route.endpoint)

    def lost(self) -> int:
        """Messages that were sent and are lost."""
        return self._lost + sum(route.losses() for route in list(self.routes.values()))

    def unattended(self) -> int:
        """Messages for which nobody came in time."""
        return self._unattended + sum(route.unattended() for route in list(self.routes.values()))

    def close(self, until: float) -> None:
        """Waits until `until` for those who have not read everything, and closes; what then is left is lost. Blocks."""
        for route in list(self.routes.values()):
            try:
                route.native.flush(max(0.0, until - time.monotonic()))
            except busway.Error:
                left = route.native.account()["in_flight"]
                if route.is_heard():
                    # Who is there may still read it.
                    self._core.metrics.causes["undelivered"] += left
                else:
                    self._core.metrics.dropped_outbound("closed", left)
            self._close(route)
        self.routes.clear()


class Publishing(Outbound):
    def __init__(self, core: Core) -> None:
        super().__init__(core, "pub", core.settings.pub_send_timeout)

    def open(self, port: int, topic: str) -> busway.Publisher:
        config = self._core.settings
        return self._core.bus().publisher(
            name(port, topic),
            slots_max=slots(config.hwm_outbound),
            max_wait=config.pub_send_timeout,
            gating=config.pub_send_timeout > 0,
            late_join=config.late_join,
        )


class Pushing(Outbound):
    def __init__(self, core: Core) -> None:
        super().__init__(core, "push", core.settings.push_send_timeout)

    def open(self, port: int, topic: str) -> busway.Pusher:
        config = self._core.settings
        return self._core.bus().pusher(
            results(port), slots_max=slots(config.hwm_outbound), max_wait=config.push_send_timeout, late_join=RESULTS_WAIT
        )
