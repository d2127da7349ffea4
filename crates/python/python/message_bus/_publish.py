"""Publishing: what `MessageBus.publish` does beyond the straight way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from functools import partial
from typing import Any

import busway

from ._core import Core
from ._names import name
from ._outbound import ROUTES_MAX, LateJoins, PublishResult, Route, when_there_is_room

ACCEPTED = PublishResult(True)


def slots(hwm: int) -> int:
    """Messages that a ring of the bus holds for so many: the next power of two, at least 32."""
    return max(32, 1 << (hwm - 1).bit_length())


class Publishing:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.fresh()

    def fresh(self) -> None:
        #: By port and topic, the one that was used least recently first, as far as that is looked at.
        self.routes: dict[tuple[int, str], Route] = {}
        self._opening = threading.Lock()
        self._late: LateJoins | None = None
        self._sent = 0
        #: What routes that are closed have lost.
        self._lost = 0
        self._unattended = 0

    async def publish(self, topic: str, data: Any, port: int) -> PublishResult:
        core, metrics = self._core, self._core.metrics
        breaker = core.breaker(f"pub:{port}")
        if core.closed:
            return self._dropped("closed")
        if not breaker.allows():
            return self._dropped("cooldown")
        try:
            payload = core.dumps({"topic": topic, "sender": core.service, "ts": time.time(), "data": data})
            if not isinstance(topic, str):
                raise TypeError(f"a topic is text, not {topic!r}")
        except Exception as error:
            breaker.gave_up()
            return self._dropped("unserialisable", error)
        try:
            route = await self.route(port, topic)
            kept = route.keep(payload)
            if kept is None:
                await self._send(route, payload)
            elif kept:
                self._watch(route)
            else:
                metrics.backpressure_events += 1
        except busway.Full as error:
            breaker.failed()
            return self._dropped("timeout", error)
        except busway.TooLarge as error:
            breaker.gave_up()
            return self._dropped("too_large", error)
        except busway.Closed as error:
            breaker.gave_up()
            return self._dropped("closed", error)
        except busway.Error as error:
            breaker.failed()
            return self._dropped(error.code, error)
        except BaseException:
            breaker.gave_up()
            raise
        breaker.succeeded()
        if kept is False:
            return self._dropped("hwm")
        metrics.messages_sent += 1
        # Who has just been made to subscribe has its turn first.
        await asyncio.sleep(0)
        return ACCEPTED

    def _dropped(self, cause: str, error: Exception | None = None) -> PublishResult:
        metrics = self._core.metrics
        metrics.dropped_outbound(cause)
        if error is not None:
            metrics.error(cause)
        text = "a message was not published: %s"
        self._core.log(logging.WARNING, f"publish {cause}", text, error or cause)
        if self._core.settings.strict:
            raise error or busway.Error(603, f"the message was not published: {cause}")
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
            send = partial(route.native.try_send, payload)
            sent = await when_there_is_room(send, core.settings.pub_send_timeout)
        finally:
            route.waiting -= 1
        if sent.stalled:
            route.stalled += sent.stalled
            core.metrics.causes["outbound_dropped.timeout"] += sent.stalled
            text = "%d subscribers of %s did not take a message within %s s: they are waited for when they have caught up"
            timeout = core.settings.pub_send_timeout
            core.log(logging.WARNING, f"stalled {route.native.topic}", text, sent.stalled, route.native.topic, timeout)

    async def route(self, port: int, topic: str) -> Route:
        route = self.routes.get((port, topic))
        if route is None:
            route = await self._core.in_thread(partial(self._opened, port, topic))
        return route

    def _opened(self, port: int, topic: str) -> Route:
        core, config = self._core, self._core.settings
        with self._opening:
            route = self.routes.get((port, topic))
            if route is not None:
                return route
            room = slots(config.hwm_outbound)
            try:
                native = core.bus().publisher(
                    name(port, topic), slots_max=room, max_wait=config.pub_send_timeout, gating=config.pub_send_timeout > 0
                )
            except busway.Closed:
                raise
            except busway.Error as error:
                core.not_opened(f"pub:{port}", error)
                raise
            if len(self.routes) >= ROUTES_MAX:
                self._retire()
            route = Route(native, room, config.late_join, config.hwm_outbound)
            core.opened(f"pub:{port}")
            self.routes[port, topic] = route
            return route

    def _retire(self) -> None:
        """Closes the oldest route that keeps nothing."""
        for key, route in list(self.routes.items()):
            if route.is_plain:
                del self.routes[key]
                self._close(key[0], route)
                return

    def _close(self, port: int, route: Route) -> None:
        self._lost += route.losses()
        self._unattended += route.unattended
        route.native.close()
        self._core.ended(f"pub:{port}")

    def _watch(self, route: Route) -> None:
        with self._opening:
            if self._late is None or not self._late.watch(route):
                self._late = LateJoins()
                self._late.watch(route)
                self._late.start()

    @property
    def keeps(self) -> int:
        """Messages that wait for the first subscriber of their topic."""
        return sum(route.keeps for route in list(self.routes.values()))

    def lost(self) -> int:
        """Messages that were sent and are lost."""
        return self._lost + sum(route.losses() for route in list(self.routes.values()))

    def unattended(self) -> int:
        """Messages of new topics to which nobody came in time."""
        return self._unattended + sum(route.unattended for route in list(self.routes.values()))

    def close(self, until: float) -> None:
        """Waits until `until` for those who have not read everything, and closes; what then is left is discarded. Blocks."""
        while self.keeps and time.monotonic() < until:
            time.sleep(0.002)
        if self._late is not None:
            self._late.stop()
        for (port, _), route in list(self.routes.items()):
            if route.keeps:
                self._core.metrics.dropped_outbound("closed", route.keeps)
            try:
                route.native.flush(max(0.0, until - time.monotonic()))
            except busway.Error:
                self._core.metrics.causes["undelivered"] += 1
            self._close(port, route)
        self.routes.clear()
