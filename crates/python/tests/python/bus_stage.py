"""What the claims about `message_bus` share: buses that are cleaned up, loops that listen, and waiting for what is true."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

from message_bus import MessageBus, Ports, _farewell
from stage import PATIENCE, Claims


def threads():
    """The threads of this process, as the kernel names them, in any language."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/comm") as name:
            found.append(name.read().strip())
    return sorted(found)


class BusClaims(Claims):
    def tearDown(self):
        """What waits for the first who comes is ended: the next test of this interpreter begins with nothing of it."""
        with _farewell._lock:
            for _, partings in _farewell._waiting:
                _farewell._end(partings, lambda one: True)
            thread = _farewell._thread
        if thread is not None:
            thread.join(PATIENCE)
        super().tearDown()

    def until_gone(self, beginning, but=0):
        """Waits until no more threads are there that are called so. One that was joined is still listed while the kernel clears it away."""
        deadline = time.monotonic() + PATIENCE
        while len(left := [name for name in threads() if name.startswith(beginning)]) > but:
            self.assertLess(time.monotonic(), deadline, f"these are left: {left}")
            os.sched_yield()

    def run_async(self, main):
        """What a coroutine returns, in a loop of its own, within far more time than it needs."""
        return asyncio.run(asyncio.wait_for(main, 2 * PATIENCE))

    @contextlib.asynccontextmanager
    async def bus(self, config=None, kind=MessageBus, name="test"):
        # Who comes late is waited for until it is there, however slow this machine is; what a test sends to nobody ends with the test.
        bus = kind(name, {"late_join_ms": 1000 * PATIENCE, **(config or {})})
        try:
            yield bus
        finally:
            await bus.cleanup()

    async def until(self, condition, what="it came true"):
        """Waits until something is true, without holding the loop up."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"waited too long until {what}")
            await asyncio.sleep(0.001)

    async def listens(self, bus, topics=None, port=Ports.GLOBAL_EVENTS):
        """A subscribe loop that others see."""
        before = len(bus._subscribing._subscribers)
        task = asyncio.create_task(bus.subscribe_loop(port, topics))
        await self.until(lambda: len(bus._subscribing._subscribers) > before, "the loop listens")
        return task


class Gate:
    """A handler that stays where it is until it is let go."""

    def __init__(self):
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0
        self.handled = []

    async def __call__(self, message):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        self.handled.append(message["data"])


class Held:
    """The same for a handler that is called in a thread."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads = []

    def __call__(self, message):
        self.threads.append(threading.current_thread())
        self.entered.release()
        self.open.wait(PATIENCE)
