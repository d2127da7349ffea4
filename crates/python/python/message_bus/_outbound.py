"""The way out: one publisher for each topic of a port, and what is kept for subscribers that are about to come.

A route that is new keeps what it is given until the first subscriber is there, or until `late_join` seconds are over. From
then on it hands over to its publisher, which waits for nobody: who calls waits, in its event loop, and tries again.

Invariant: what a route was given it sends in that order; nothing is sent past what it still keeps.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import busway

#: Messages that are sent before the loop has its turn: a flood must not keep others from reading it.
TURN = 64
#: Topics that have a publisher at once. Beyond, the one that was used least recently is closed; what it sent is read on.
ROUTES_MAX = 4096
#: Seconds between two looks for the first subscriber of a new topic.
LOOK = 0.002
#: What an account tells that is no fault: who left, and what nobody waited for.
NO_FAULT = frozenset(
    ["conflated", "no_subscriber", "subscriber_died", "subscriber_left", "expired", "cancelled", "dead_letter"]
)


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of a message that was to go out."""

    #: Whether the bus has it.
    accepted: bool
    #: Why it was dropped, where it was not accepted: `timeout`, `hwm`, `cooldown`, `unserialisable`, `too_large`, `closed`,
    #: or the code of an error.
    cause: str | None = None


def lost(account: dict[str, Any]) -> int:
    """Messages of an account that are lost, and should not have been."""
    return sum(count for cause, count in account["dropped"].items() if cause not in NO_FAULT)


class Route:
    """A publisher of one topic."""

    def __init__(self, native: busway.Publisher, slots: int, late_join: float, kept_max: int) -> None:
        self.native = native
        self.waiting = 0
        #: Subscribers for which the publisher waits no more, each time that one became so.
        self.stalled = 0
        self.unattended = 0
        self._slots = slots
        self._lock = threading.Lock()
        self._kept_max = kept_max
        self._until = time.monotonic() + late_join
        self._kept: deque[bytes] | None = deque() if late_join > 0 else None

    @property
    def is_plain(self) -> bool:
        """Whether it hands over to its publisher at once."""
        return self._kept is None and not self.waiting

    @property
    def keeps(self) -> int:
        """Messages that wait for the first subscriber."""
        kept = self._kept
        return 0 if kept is None else len(kept)

    def keep(self, payload: bytes) -> bool | None:
        """Keeps a message of a new topic. False where there is no room, None where it need not be kept: then it is sent."""
        if self._kept is None:
            return None
        with self._lock:
            if self._settled():
                return None
            assert self._kept is not None
            if len(self._kept) >= self._kept_max:
                return False
            self._kept.append(payload)
            return True

    def settle(self) -> bool:
        """Sends what was kept if somebody is there, and drops it if the time is over. Whether nothing is kept any more."""
        with self._lock:
            return self._settled()

    def _settled(self) -> bool:
        kept = self._kept
        if kept is None:
            return True
        if not self.native.subscribers:
            if time.monotonic() < self._until:
                return False
            self.unattended += len(kept)
            self._kept = None
            return True
        try:
            while kept:
                self.stalled += self.native.try_send(kept[0]).stalled
                kept.popleft()
        except busway.Full:
            return False
        self._kept = None
        return True

    def losses(self) -> int:
        """Messages that were sent and are lost, for each subscriber that has lost them."""
        account = self.native.account()
        # What a slow subscriber will not find any more counts as soon as it is gone, not when that one looks.
        beyond = account["in_flight"] - self._slots * account["subscribers"]
        return max(lost(account) + max(0, int(beyond)), self.stalled)


class LateJoins(threading.Thread):
    """Looks for the first subscribers of new topics, while there are any. It ends by itself."""

    def __init__(self) -> None:
        super().__init__(name="message_bus late joins")
        self._routes: list[Route] = []
        self._guard = threading.Lock()
        self._ended = False
        self._over = threading.Event()

    def watch(self, route: Route) -> bool:
        """False where the thread has ended, and another is to be started."""
        with self._guard:
            if not self._ended and route not in self._routes:
                self._routes.append(route)
            return not self._ended

    def stop(self) -> None:
        self._over.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while not self._over.wait(LOOK):
            for route in list(self._routes):
                try:
                    over = route.settle()
                except busway.Error:
                    # The bus or the publisher is closed; the count of what was kept stays with the route.
                    over = True
                if over:
                    self._routes.remove(route)
            with self._guard:
                if not self._routes:
                    self._ended = True
                    return


async def when_there_is_room(send: Callable[[], busway.Sent], timeout: float) -> busway.Sent:
    """Tries to send until it works. Raises Full when `timeout` seconds are over.

    After that time the publisher itself waits no more for a slow subscriber, and the next try works. Where several are slow
    one after the other it takes twice as long; and one whose policy is `fail` it never waits for.
    """
    until = time.monotonic() + 2 * timeout + 0.05
    pause = 0.0
    while True:
        await asyncio.sleep(pause)
        try:
            return send()
        except busway.Full:
            if time.monotonic() >= until:
                raise
        pause = min(max(2 * pause, 0.0002), 0.005)
