"""The message bus as its users know it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import busway

from ._care import care_of
from ._core import Core
from ._handlers import Function
from ._hooks import Hook, checked
from ._log import logger
from ._metrics import BusMetrics, text_of
from ._names import PortKey, port_of
from ._outbound import Publishing, PublishResult, Pushing
from ._pull import Pulling
from ._request import Answering, Asking
from ._retry import new_id
from ._route import TURN, Route
from ._serializers import Serializer
from ._subscribe import Subscribing

_buses: weakref.WeakSet[MessageBus] = weakref.WeakSet()


class Ports:
    """Where events, results and questions go, unless a program says otherwise: any number is a port, and any name."""

    GLOBAL_EVENTS = 5555
    TASK_RESULTS = 5556
    STATE_MANAGEMENT = 5557


class Topics:
    """Topics that programs have in common."""

    PRICE_TICK = "price.tick"


class MessageBus:
    """Publish/subscribe, push/pull and request/response of one service.

    It can be built anywhere, also where no event loop runs; it opens what it needs when it needs it. A child made by fork has
    a bus that has done nothing yet, with the same handlers. `context` is accepted and not used: all buses of a process share
    what they need to share.
    """

    def __init__(self, service_name: str, config: Mapping[str, Any] | None = None, context: object = None) -> None:
        self.service_name = service_name
        self.config = dict(config or {})
        self._core = Core(service_name, config)
        self._publishing = Publishing(self._core)
        self._core.bury = self._publishing.send
        self._core.shown = weakref.WeakMethod(self._shown)
        self._subscribing = Subscribing(self._core)
        self._pushing = Pushing(self._core)
        self._pulling = Pulling(self._core)
        self._asking = Asking(self._core)
        self._answering = Answering(self._core)
        self._look_for_routes()
        self._retries = self._core.settings.retry is not None
        self._turn = 0
        if context is not None:
            logger.info("the context of %s is not used: all buses of a process share theirs", service_name)
        _buses.add(self)

    def _fresh(self) -> None:
        self._core.fresh()
        for events in (self._publishing, self._subscribing):
            events.fresh()
        for work in (self._pushing, self._pulling, self._asking, self._answering):
            work.fresh()
        self._look_for_routes()

    def _look_for_routes(self) -> None:
        """Where a message may go by the short way: nobody is told then what becomes of it later, so that a strict bus has none."""
        core = self._core
        short = not core.settings.strict and not core.before_send
        self._routes = self._publishing.routes if short else {}
        self._results = self._pushing.routes if short else {}

    @property
    def serializer(self) -> Serializer:
        """How messages become text: an object with `dumps` and `loads`. It may be replaced at any time."""
        return self._core.serializer

    @serializer.setter
    def serializer(self, serializer: Serializer) -> None:
        self._core.serializer = serializer

    @property
    def metrics(self) -> BusMetrics:
        """The counts of this bus itself; `get_metrics` adds what the bus below has counted."""
        return self._core.metrics

    async def publish(self, topic: str, data: Any, port: PortKey = Ports.GLOBAL_EVENTS) -> None:
        """Publishes an event. It raises nothing, unless the bus is strict: what goes wrong is counted and logged."""
        if isinstance(port, str):
            port = port_of(port)
        message = {"topic": topic, "sender": self._core.service, "ts": time.time(), "data": data}
        if self._retries:
            message["id"] = new_id()
        if not self._sent(self._routes, port, topic, message):
            await self._publishing.send(port, topic, message)
        elif self._turn >= TURN:
            self._turn = 0
            await asyncio.sleep(0)

    def _sent(self, routes: dict[tuple[PortKey, str], Route], port: PortKey, topic: str, message: dict[str, Any]) -> bool:
        """Sends a message if nothing is in its way. What is, is found out where there is time for it."""
        try:
            route = routes.get((port, topic))
            if route is None or ((route.waiting or route.rest is not None) and route.is_held_up()):
                return False
            id = message["id"] if self._retries else None
            route.take(self._core.dumps(message), id)
        except Exception:
            return False
        self._turn += 1
        return True

    async def publish_ex(self, topic: str, data: Any, port: PortKey = Ports.GLOBAL_EVENTS) -> PublishResult:
        """Publishes as `publish`, and says what became of it."""
        message = {"topic": topic, "sender": self._core.service, "ts": time.time(), "data": data}
        if self._retries:
            message["id"] = new_id()
        return await self._publishing.send(_of(port), topic, message)

    async def ready(self, topic: str, port: PortKey = Ports.GLOBAL_EVENTS, timeout: float = 5.0) -> bool:
        """Waits until somebody subscribes to a topic; False where nobody does in time."""
        until, port = time.monotonic() + timeout, _of(port)
        while True:
            route = await self._publishing.route(port, topic)
            if route.is_heard():
                return True
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0.002)

    async def subscribe_loop(self, port: PortKey, topics: Iterable[str] | str | None = None) -> None:
        """Brings what is published on a port to its handlers, until it is cancelled or the bus is cleaned up.

        `topics` are what topics begin with; None means all. Each loop has its own.
        """
        await self._core.run_loop(self._subscribing.loop(_of(port), topics))

    def register_handler(
        self,
        topic: str,
        fn: Function,
        *,
        retry: Mapping[str, Any] | None = None,
        breaker: Mapping[str, Any] | None = None,
        dead_letter: str | None = None,
    ) -> None:
        """The handler of a topic, or of a pattern such as `price.*` or `price.>`; the last one wins.

        A coroutine function is awaited, anything else is called in a thread. It is given the whole message: a dict of `topic`,
        `sender`, `ts` and `data`. Where it raises it is called again as `retry` says (`max`, `base_ms`, `cap_ms`, `jitter`);
        after so many failures in a row as `breaker` says (`failures`, `cooldown`) it is left alone for a while. What it gave up
        is dropped, and published on the topic `dead_letter`.
        """
        self._subscribing.handlers.set(topic, fn, care_of(retry, breaker, dead_letter))

    def add_handler(
        self,
        topic: str,
        fn: Function,
        *,
        retry: Mapping[str, Any] | None = None,
        breaker: Mapping[str, Any] | None = None,
        dead_letter: str | None = None,
    ) -> None:
        """One more handler of a topic or pattern, called after those before it, each with its own care."""
        self._subscribing.handlers.add(topic, fn, care_of(retry, breaker, dead_letter))

    def remove_handler(self, topic: str, fn: Function | None = None) -> bool:
        """Takes away the handlers of a topic or pattern, as it was registered, or `fn` alone; returns whether there was one.

        What has come for it and waits is still handled by it.
        """
        return self._subscribing.handlers.remove(topic, fn)

    def use(self, *, before_send: Hook | None = None, after_receive: Hook | None = None) -> None:
        """Hooks, called in the order in which they were added with each message: events, results and requests.

        A hook is given the message as a dict. It lets it pass by returning None, replaces it by returning a dict, and refuses it
        by returning False or raising `Rejected`, which is counted. It may be a coroutine function; else it must be quick.
        """
        core = self._core
        if before_send is not None:
            core.before_send = (*core.before_send, checked(before_send))
        if after_receive is not None:
            core.after_receive = (*core.after_receive, checked(after_receive))
        self._look_for_routes()

    async def push_result(self, data: Any, port: PortKey = Ports.TASK_RESULTS) -> None:
        """Sends a result to one of those who pull. It raises nothing, unless the bus is strict."""
        if isinstance(port, str):
            port = port_of(port)
        message = self._core.envelope(data)
        if self._retries:
            message["id"] = new_id()
        if not self._sent(self._results, port, "", message):
            await self._pushing.send(port, "", message)
        elif self._turn >= TURN:
            self._turn = 0
            await asyncio.sleep(0)

    async def pull_results_loop(self, port: PortKey = Ports.TASK_RESULTS) -> None:
        """Hands results to `_handle_pulled_message`, one after the other, until it is cancelled or the bus is cleaned up."""
        await self._core.run_loop(self._pulling.loop(_of(port), self._handle_pulled_message))

    async def _handle_pulled_message(self, message: dict[str, Any]) -> None:
        """What is done with a result: a dict of `sender`, `ts` and `data`. To be overridden."""
        self._core.log(logging.DEBUG, "pulled", "a result of %s was pulled", message.get("sender"))

    async def request(self, data: Any, port: PortKey = Ports.STATE_MANAGEMENT, timeout: float | None = None) -> Any:
        """Asks, and returns the answer; None where there is none in time, unless the bus is strict.

        `timeout` in seconds takes the place of `req_total_timeout`; 0 means that one.
        """
        try:
            return await self._asking.request(data, _of(port), timeout)
        except Exception as error:
            if self._core.settings.strict:
                raise
            cause = f"request {port} {type(error).__name__}"
            self._core.log(logging.WARNING, cause, "a request on port %s has no answer: %s", port, error)
            return None

    async def request_ex(self, data: Any, port: PortKey = Ports.STATE_MANAGEMENT, timeout: float | None = None) -> Any:
        """Asks as `request`, and raises what went wrong: `busway.NoResponders`, `busway.TimedOut`, `Cooldown` and others."""
        return await self._asking.request(data, _of(port), timeout)

    async def response_loop(self, port: PortKey = Ports.STATE_MANAGEMENT) -> None:
        """Answers requests by `_handle_request`, many at once, until it is cancelled or the bus is cleaned up."""
        await self._core.run_loop(self._answering.loop(_of(port), self._handle_request))

    async def _handle_request(self, request: dict[str, Any]) -> Any:
        """The answer to a request: a dict of `sender`, `ts` and `data`. To be overridden."""
        return {"status": "not_implemented"}

    async def cleanup(self, cancel_running: bool = True) -> None:
        """Ends all loops and closes everything, within `close_linger_ms` and a second. It may be called again.

        What was sent and nobody has come for yet has its `late_join_ms` first: so long it waits for the first who does, and so
        long the process stays where it ends before. This does not wait for it; the counts tell what became of it.
        Who is cancelled while it waits, as by `asyncio.wait_for`, does not stop it: the next call waits for its end.
        What was sent has the linger to be read. With `cancel_running=False` handlers of events, results and requests that run
        have it to come to their end: they may still answer and publish.
        """
        until = time.monotonic() + self._core.settings.linger
        await self._core.clean_up(0.0 if cancel_running else until, partial(self._clean_up, until, cancel_running))

    async def _clean_up(self, until: float, cancel_running: bool) -> None:
        core = self._core
        if not cancel_running:
            # Nothing more is taken; what is being handled may still answer and publish.
            await core.end_loops(max(0.0, until - time.monotonic()) + 0.5)
            await self._subscribing.drain(until)
        for outbound in (self._publishing, self._pushing):
            await outbound.settle(until)
        core.closed = True
        if not core.left:
            # At once, so that who comes late for either is waited for once.
            await asyncio.gather(
                core.in_thread(lambda: self._publishing.close(until)), core.in_thread(lambda: self._pushing.close(until))
            )
        await self._asking.close()
        await core.end_loops(0.5)
        await self._subscribing.close(until)
        self._pulling.close()
        await asyncio.get_running_loop().run_in_executor(None, core.leave(until))
        core.cleaned = True

    def get_metrics(self, extended: bool = False) -> dict[str, Any]:
        """The nine counts; with `extended` also `causes`, what waits for handlers and what they took, and what became of what
        was sent: `expected` is `delivered` and `in_flight` and `lost`."""
        for outbound in (self._publishing, self._pushing):
            outbound.flush()
        counts: dict[str, Any] = self._core.metrics.as_dict()
        try:
            counts["outbound_dropped"] += self._publishing.lost() + self._pushing.lost()
            counts["inbound_dropped"] += self._subscribing.lost()
        except busway.Error:
            # Closed between two looks: what it had counted is in the counts when it has ended.
            pass
        if extended:
            counts["causes"] = dict(self._core.metrics.causes)
            counts["handlers"] = self._subscribing.handlers.times()
            counts["links"] = self._core.links()
            counts["inbound_waiting"] = self._subscribing.waiting + self._pulling.waiting + self._answering.waiting
            account: Counter[str] = Counter()
            counts["no_subscriber"] = 0
            with contextlib.suppress(busway.Error):
                counts["no_subscriber"] = self._publishing.unattended() + self._pushing.unattended()
                account = self._publishing.account() + self._pushing.account()
            for name in ("expected", "delivered", "in_flight"):
                counts[name] = account.pop(name, 0)
            counts["lost"] = {cause.removeprefix("lost."): count for cause, count in account.items()}
        return counts

    def metrics_text(self) -> str:
        """The counts as Prometheus reads them. With `metrics_port` they are at `http://127.0.0.1:PORT/metrics`, with no code."""
        return text_of([self._shown()])

    def _shown(self) -> tuple[str, dict[str, Any]]:
        return self.service_name, self.get_metrics(extended=True)


def _of(port: PortKey) -> PortKey:
    return port_of(port) if isinstance(port, str) else port


def _after_fork() -> None:
    for bus in list(_buses):
        bus._fresh()


os.register_at_fork(after_in_child=_after_fork)
