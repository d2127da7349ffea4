"""What the patterns of one bus share: its settings, its counts, its breakers, its threads, and its place in the domain.

It opens nothing before it is needed, so that a bus can be built anywhere: at import, in a thread, before a fork.

Invariant: an endpoint counts as a connection exactly while something of it is open.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import busway

from ._breaker import FAILURES, Breaker
from ._config import settings
from ._log import Limited
from ._metrics import BusMetrics
from ._runtime import Membership
from ._serializers import Serializer, reads_bytes

T = TypeVar("T")

#: Threads that open and close endpoints, which may take a moment: few are ever at it at once.
THREADS = 4


class Core:
    def __init__(self, service: str, config: Mapping[str, Any] | None) -> None:
        self.service = service
        self.settings = settings(config)
        self.log = Limited()
        self.serializer = self.settings.serializer
        self.fresh()

    def fresh(self) -> None:
        """The state of a bus that has done nothing yet: a new one's, and a forked child's."""
        self.metrics = BusMetrics()
        self.closed = False
        self._breakers: dict[str, Breaker] = {}
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._membership: Membership | None = None
        self._pool: ThreadPoolExecutor | None = None
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
        self.dumps: Callable[[Any], bytes] = encoded
        self.loads: Callable[[bytes], Any] = loads if reads_bytes(serializer) else of_text

    def envelope(self, data: Any) -> dict[str, Any]:
        """What goes around the data of a result or a request."""
        return {"sender": self.service, "ts": time.time(), "data": data}

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
                self._membership = Membership(self.settings.domain, self.service)
            return self._membership.bus

    async def in_thread(self, call: Callable[[], T]) -> T:
        """What `call` returns, called where it does not hold the loop up."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="message_bus")
            pool = self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, call)

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
        if self.closed:
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

    async def end_loops(self, timeout: float) -> None:
        """Ends what `run_loop` runs, here and in other event loops."""
        here = asyncio.get_running_loop()
        current = asyncio.current_task()
        mine = []
        for task, loop in list(self._loops.items()):
            if loop is here:
                if task is not current:
                    task.cancel()
                    mine.append(task)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        if mine:
            await asyncio.wait(mine, timeout=timeout)

    def leave(self) -> Callable[[], None]:
        """Ends the membership and the threads; what it returns is called where a moment does not matter."""
        with self._lock:
            membership, self._membership = self._membership, None
            pool, self._pool = self._pool, None
            self._open.clear()
            self.metrics.active_connections = 0

        def last() -> None:
            if membership is not None:
                membership.release()
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

        return last
