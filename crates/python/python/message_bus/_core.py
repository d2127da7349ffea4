"""What the patterns of one bus share: its settings, its counts, its breakers, its threads, and its place in the domain.

It opens nothing before it is needed, so that a bus can be built anywhere: at import, in a thread, before a fork.

Invariant: an endpoint counts as a connection exactly while something of it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import busway

from ._breaker import FAILURES, Breaker
from ._config import settings
from ._hooks import Hook, Rejected, passed
from ._log import Limited
from ._metrics import BusMetrics, Shown
from ._names import PortKey
from ._processes import Processes
from ._runtime import Membership
from ._serializers import OrjsonSerializer, Serializer, reads_bytes, reads_json

T = TypeVar("T")

#: Threads that open and close endpoints, which may take a moment: few are ever at it at once.
THREADS = 4
#: Threads of sync handlers where their number is not limited: as many as `asyncio.to_thread` has on a large machine.
HANDLER_THREADS = 32
#: Seconds between two looks at what another event loop does.
LOOK = 0.005
#: The task of ours that calls a handler, in whatever task the handler goes on.
CALLER: contextvars.ContextVar[asyncio.Task[Any] | None] = contextvars.ContextVar("message_bus caller", default=None)
#: The shortest and longest pause before an endpoint that could not be opened is tried again, in seconds.
PAUSE = (0.05, 1.0)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Calls in an event loop: at once where it is this one, soon where it is another's, and not at all where that has ended."""
    if loop is asyncio.get_running_loop():
        call()
        return
    # It may be closed between a look and the call.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


class Core:
    def __init__(self, service: str, config: Mapping[str, Any] | None) -> None:
        self.service = service
        self.settings = settings(config)
        self.log = Limited()
        self.serializer = self.settings.serializer
        self.before_send: tuple[Hook, ...] = ()
        self.after_receive: tuple[Hook, ...] = ()
        #: The counts of the bus, as long as it is there.
        self.shown: weakref.WeakMethod[Callable[[], Shown]]
        #: Publishes a message that a handler gave up, on a port and a topic.
        self.bury: Callable[[PortKey, str, dict[str, Any]], Awaitable[object]]
        self.fresh()

    def fresh(self) -> None:
        """The state of a bus that has done nothing yet: a new one's, and a forked child's."""
        self.metrics = BusMetrics()
        #: When this bus was made, by the monotonic clock.
        self.made = time.monotonic()
        #: Cleanup has begun: nothing new is started. By `end_by` what runs has come to its end; then all is closed.
        self.ending = False
        self.end_by = 0.0
        self.closed = False
        #: All is closed, and nothing left to be done.
        self.cleaned = False
        self._cleaning: asyncio.Task[None] | None = None
        #: Tasks that wait for cleanup: it neither cancels them nor waits for them.
        self._spared: set[asyncio.Task[Any]] = set()
        self._breakers: dict[str, Breaker] = {}
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._membership: Membership | None = None
        #: Threads and processes have ended, and are not started again.
        self.left = False
        self._pool: ThreadPoolExecutor | None = None
        self._handler_pool: ThreadPoolExecutor | None = None
        self._processes: Processes | None = None
        self._loops: dict[asyncio.Task[None], asyncio.AbstractEventLoop] = {}

    @property
    def serializer(self) -> Serializer:
        return self._serializer

    @serializer.setter
    def serializer(self, serializer: Serializer) -> None:
        dumps, loads = serializer.dumps, serializer.loads

        def encoded(obj: Any) -> bytes:
            data = dumps(obj)
            return data.encode() if isinstance(data, str) else bytes(data)

        def of_text(payload: bytes) -> Any:
            return loads(payload.decode())

        self._serializer = serializer
        #: What is known to make bytes has nothing around it.
        self.dumps: Callable[[Any], bytes] = encoded
        if type(serializer) is OrjsonSerializer and "dumps" not in vars(serializer):
            self.dumps = serializer.write
        self.loads: Callable[[bytes], Any] = loads if reads_bytes(serializer) else of_text
        #: Whether what is plain JSON may be decoded while it is taken.
        self.reads_json = reads_json(serializer)

    def envelope(self, data: Any) -> dict[str, Any]:
        """What goes around the data of a result or a request."""
        return {"sender": self.service, "ts": time.time(), "data": data}

    async def received(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """A message that came, behind the hooks; None where one refused it, which is counted."""
        if not self.after_receive:
            return message
        try:
            return await passed(self.after_receive, message)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self.is_cancelled():
                raise
            self.metrics.dropped_inbound("rejected")
            if not isinstance(error, Rejected):
                self.metrics.error("hook")
            self.log(logging.WARNING, "received rejected", "a message that came was refused: %r", error)
            return None

    def breaker(self, endpoint: str) -> Breaker:
        found = self._breakers.get(endpoint)
        if found is None:
            failures = 1 if self.settings.breaker == "strict" else FAILURES
            found = self._breakers.setdefault(endpoint, Breaker(self.settings.failed_socket_cooldown, failures))
        return found

    def bus(self) -> busway.Bus:
        """This process's membership; it may have to be opened, which takes a moment."""
        with self._lock:
            if self.closed:
                raise busway.Closed(602, "the message bus was cleaned up", self.service)
            if self._membership is None:
                self._membership = Membership(self.settings.domain, self.service, self.settings.joined)
                self._show()
            return self._membership.bus

    def share(self) -> Membership | None:
        """Another share in this process's membership, for who outlives the bus; None where there is none any more."""
        with self._lock:
            return self._membership.again() if self._membership is not None else None

    def links(self) -> list[dict[str, Any]]:
        """How the links are; where another process carries them, one entry that says so."""
        with self._lock:
            node = self._membership.node if self._membership is not None else None
        if node is None:
            return []
        peers = node.peers()
        if not peers and not node.carries:
            return [{"peer": "", "name": "", "address": "", "state": "elsewhere", "last_error": None}]
        return peers

    def _show(self) -> None:
        """Shows the counts where that was said."""
        port = self.settings.metrics_port
        if port is None:
            return

        # Only who wants it pays for a server.
        from ._exporter import show

        def shown() -> Shown | None:
            bus = self.shown()
            return bus() if bus is not None else None

        try:
            show(port, id(self), shown)
        except OSError as error:
            # No program should end for want of being watched.
            self.not_opened(f"metrics:{port}", error)

    def _check(self) -> None:
        """Raises Closed where what `leave` has ended must not be begun again, by a handler that outlives the cleanup."""
        if self.left:
            raise busway.Closed(602, "the message bus was cleaned up", self.service)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """What `call` returns, called where it does not hold the loop up."""
        with self._lock:
            self._check()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="message_bus")
            pool = self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    @property
    def handler_threads(self) -> Executor:
        """Where sync handlers are called."""
        config = self.settings
        if config.sync_executor is not None:
            return config.sync_executor
        with self._lock:
            self._check()
            if self._handler_pool is None:
                threads = config.handler_max_concurrency or HANDLER_THREADS
                self._handler_pool = ThreadPoolExecutor(threads, thread_name_prefix="message_bus handler")
            return self._handler_pool

    async def in_handler_thread(self, call: Callable[[], T]) -> T:
        """What a function of the program returns, called where sync handlers are."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self.handler_threads, context.run, call)

    async def in_handler_process(self, function: bytes, messages: list[dict[str, Any]]) -> list[str]:
        """Calls a function of the program with each of the messages, in another process; returns what it raised."""
        with self._lock:
            self._check()
            if self._processes is None:
                self._processes = Processes(self.settings.handler_max_concurrency)
            processes = self._processes
        called: Future[list[str]] | None = None
        try:
            called = await self.in_thread(partial(processes.call, function, messages))
            return await asyncio.wrap_future(called)
        except asyncio.CancelledError:
            if called is None:
                self.metrics.dropped_inbound("closed", len(messages))
            else:
                # It may still come to its end, or its process be killed before.
                called.add_done_callback(partial(self._unreported, len(messages)))
            raise
        except BrokenExecutor as error:
            # A process was killed, and took the others along: the next message has new ones.
            with self._lock:
                if self._processes is processes:
                    self._processes = None
            return [repr(error)] * len(messages)

    def _unreported(self, count: int, called: Future[list[str]]) -> None:
        """A call of another process has ended for which nobody waited."""
        if called.cancelled() or called.exception() is not None:
            self.metrics.dropped_inbound("closed", count)

    def decoded(self, payload: bytes) -> dict[str, Any] | None:
        """A message that came; None where it cannot be read, which is counted."""
        try:
            message = self.loads(payload)
            if not isinstance(message, dict):
                raise TypeError("it is no dict")
        except Exception as error:
            self.undecodable(error)
            return None
        return message

    def undecodable(self, error: Exception) -> None:
        """A message came that cannot be read."""
        self.metrics.dropped_inbound("undecodable")
        self.metrics.error("undecodable")
        self.log(logging.WARNING, "undecodable", "a message that came cannot be read: %r", error)

    def lost_on_the_way(self, endpoint: str, error: busway.Error) -> None:
        """A message that was accepted could not be sent."""
        cause = "timeout" if isinstance(error, busway.Full) else error.code
        self.metrics.dropped_outbound(cause)
        self.metrics.error(cause)
        self.log(logging.WARNING, f"{endpoint} {cause}", "a message was dropped: %s", error)

    def is_cancelled(self) -> bool:
        """Whether it is our own task that is cancelled, and not what it waits for."""
        task = asyncio.current_task()
        return self.closed or (task is not None and task.cancelling() > 0)

    def handler_failed(self, of: str, error: BaseException) -> None:
        """A handler raised `error`; raises it on where it is our own task that was cancelled."""
        if isinstance(error, asyncio.CancelledError) and self.is_cancelled():
            raise error
        self.metrics.error("handler")
        self.log(logging.ERROR, f"handler of {of}", "a handler of %s failed: %r", of, error, error=error)

    async def keep_open(self, endpoint: str, open: Callable[[], T], use: Callable[[T], Awaitable[None]]) -> None:
        """Opens an endpoint and uses it, and again where that ends with an error; until the bus is closed."""
        pause = PAUSE[0]
        while not self.ending:
            try:
                native = await self.in_thread(open)
            except busway.Closed:
                return
            except busway.Error as error:
                self.metrics.error(error.code)
                self.not_opened(endpoint, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE[1])
                continue
            pause = PAUSE[0]
            self.opened(endpoint)
            try:
                await use(native)
            except busway.Closed:
                return
            except busway.Error as error:
                self.metrics.error(error.code)
                self.log(logging.ERROR, f"use {endpoint}", "%s: %s", endpoint, error)
            finally:
                self.ended(endpoint)

    def opened(self, endpoint: str) -> None:
        """Something of an endpoint was opened."""
        with self._lock:
            self._open[endpoint] += 1
            self.metrics.active_connections = len(self._open)

    def ended(self, endpoint: str) -> None:
        """Something of an endpoint was closed."""
        with self._lock:
            self._open[endpoint] -= 1
            self._open = +self._open
            self.metrics.active_connections = len(self._open)

    def not_opened(self, endpoint: str, error: BaseException) -> None:
        """An endpoint could not be opened. Who wanted it counts the error."""
        self.metrics.failed_bind_count += 1
        self.log(logging.ERROR, f"open {endpoint}", "%s cannot be opened: %s", endpoint, error)

    async def run_loop(self, body: Coroutine[Any, Any, None]) -> None:
        """Runs what a `..._loop` does until it is cancelled, or until the bus is cleaned up, and then returns."""
        if self.ending:
            body.close()
            self.log(logging.WARNING, "loop after cleanup", "a loop of %s was started after cleanup", self.service)
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(body)
        self._loops[task] = loop
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            self._loops.pop(task, None)
        if not task.cancelled():
            task.result()

    async def clean_up(self, by: float, steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs what cleans up, once, however many ask for it; who is cancelled while it waits leaves it running.

        What is cancelled has until `by` to come to its end. Where its loop has ended before it, it is begun anew.
        """
        here = asyncio.get_running_loop()
        # A handler may clean up its own bus, and may do so in a task of its own, as `asyncio.wait_for` has one.
        self._spared |= {task for task in (asyncio.current_task(), CALLER.get()) if task is not None}
        while not self.cleaned:
            with self._lock:
                task = self._cleaning
                if task is None or task.done() or not task.get_loop().is_running():
                    self.ending, self.end_by = True, by
                    task = self._cleaning = here.create_task(steps())
            if task.get_loop() is here:
                await asyncio.shield(task)
            else:
                await asyncio.sleep(LOOK)

    def is_spared(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task waits for cleanup, or is what cleans up."""
        return task in self._spared or task is self._cleaning

    async def to_its_end(self, body: Coroutine[Any, Any, None]) -> None:
        """Runs `body`. Where this task is cancelled by `cleanup`, it has the time that was said there."""
        task = asyncio.get_running_loop().create_task(body)
        try:
            await asyncio.wait({task})
        finally:
            await self.wind_up({task})
        if not task.cancelled():
            task.result()

    async def wind_up(self, tasks: Collection[asyncio.Task[None]]) -> None:
        """Gives tasks the time that `cleanup` has for them, and cancels those that are not done then."""
        going = {task for task in tasks if not task.done() and not self.is_spared(task)}
        try:
            left = self.end_by - time.monotonic()
            if going and left > 0:
                await asyncio.wait(going, timeout=left)
        finally:
            going = {task for task in going if not task.done()}
            for task in going:
                task.cancel()
            if going:
                await asyncio.wait(going, timeout=0.5)

    async def end_loops(self, timeout: float) -> None:
        """Ends what `run_loop` runs, here and in other event loops, and waits for it."""
        here = asyncio.get_running_loop()
        until = time.monotonic() + timeout
        going = {task: loop for task, loop in list(self._loops.items()) if not self.is_spared(task)}
        for task, loop in going.items():
            in_loop(loop, task.cancel)
        mine = [task for task, loop in going.items() if loop is here]
        if mine:
            await asyncio.wait(mine, timeout=timeout)
        # A loop that does not run ends nothing.
        while any(loop.is_running() and not task.done() for task, loop in going.items()):
            if time.monotonic() >= until:
                return
            await asyncio.sleep(LOOK)

    def leave(self, by: float) -> Callable[[], None]:
        """Ends the membership and the threads; what it returns is called where a moment does not matter."""
        with self._lock:
            self.left = True
            membership, self._membership = self._membership, None
            pools = [pool for pool in (self._pool, self._handler_pool) if pool is not None]
            processes, self._processes = self._processes, None
            self._pool = self._handler_pool = None
            self._open.clear()
            self.metrics.active_connections = 0

        def last() -> None:
            if self.settings.metrics_port is not None:
                from ._exporter import hide

                hide(self.settings.metrics_port, id(self))
            if membership is not None:
                membership.release()
            if processes is not None:
                processes.close(by)
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)

        return last
