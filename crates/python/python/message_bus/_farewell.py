"""What was sent before a cleanup and waits for the first who reads it: its ports stay open, and the process stays for them.

A cleanup that had to wait for them would hold its program up for seconds where nobody listens. So they are handed over, with a
share in the membership, to one thread of the process, which is no daemon: an interpreter that ends joins it first. They are for
other programs, and for buses of this one that were there before: one that is made later begins with nothing of them, as who
tests one bus after the other expects.

Invariant: each port that is handed over is ended once: when all of it was read, when its time for the first is over, the linger
after the first has come, or before a bus that was made later reads what it is for. A child made by fork has none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import busway

from ._route import Route
from ._runtime import Membership

#: Seconds between two looks whether somebody has come.
SLICE = 0.02
#: Ports that wait at once, of all buses: each has its memory and its descriptor, and a program that makes a bus for each request
#: would have thousands. Beyond, the one that has waited longest is ended.
PORTS_MAX = 256


@dataclass(eq=False)
class Parting:
    """A port that waits, and who hears of its end."""

    route: Route
    topic: str
    #: When the time of the first is over, by the monotonic clock; once somebody has come, the time to read.
    until: float
    linger: float
    end: Callable[[Route], None]
    began: float = field(default_factory=time.monotonic)
    came: bool = False

    def is_over(self) -> bool:
        try:
            self.route.native.flush(0.0)
            return True
        except busway.TimedOut:
            return self._has_waited()
        except Exception:
            return True

    def _has_waited(self) -> bool:
        try:
            if not self.came and self.route.is_heard():
                self.came, self.until = True, time.monotonic() + self.linger
        except Exception:
            return True
        return time.monotonic() >= self.until


#: Held while ports are looked at and ended, so that each is ended once.
_lock = threading.Lock()
_waiting: list[tuple[Membership, list[Parting]]] = []
_thread: threading.Thread | None = None


def _forget() -> None:
    """In a child made by fork: what waits is the parent's."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _waiting.clear()


os.register_at_fork(after_in_child=_forget)


def keep(share: Membership, partings: list[Parting]) -> None:
    """Keeps ports open until they have ended; the share is given back with the last of them."""
    if not _is_kept(share, partings):
        _end(partings, lambda one: True)
        share.release()


def _is_kept(share: Membership, partings: list[Parting]) -> bool:
    """Hands them to the thread; False where there can be none."""
    global _thread
    with _lock:
        if _thread is None:
            thread = threading.Thread(target=_stay, name="message_bus farewell", daemon=False)
            try:
                thread.start()
            except RuntimeError:
                return False
            _thread = thread
        _waiting.append((share, partings))
        beyond = sum(len(some) for _, some in _waiting) - PORTS_MAX
        for _, some in _waiting:
            oldest = some[: max(0, beyond)]
            beyond -= len(oldest)
            _end(some, oldest.__contains__)
    return True


def end(bus: busway.Bus, endpoint: str, made: float, prefixes: tuple[str, ...]) -> None:
    """Ends what waits for readers of topics of `endpoint` that begin so, before one is opened by a bus that was made at `made`."""
    if _waiting:
        with _lock:
            for share, partings in _waiting:
                if share.bus is bus:
                    _end(
                        partings,
                        lambda one: one.route.endpoint == endpoint and one.topic.startswith(prefixes) and one.began < made,
                    )


def _end(partings: list[Parting], ends: Callable[[Parting], bool]) -> None:
    for parting in [parting for parting in partings if ends(parting)]:
        partings.remove(parting)
        try:
            parting.end(parting.route)
        except Exception:
            # The others have their end all the same.
            logging.getLogger("message_bus").exception("%s was not closed", parting.route.endpoint)


def _stay() -> None:
    global _thread
    while True:
        with _lock:
            for _, partings in _waiting:
                _end(partings, Parting.is_over)
            over = [share for share, partings in _waiting if not partings]
            _waiting[:] = [entry for entry in _waiting if entry[1]]
        for share in over:
            # It may settle links, for which nobody else need wait.
            with contextlib.suppress(busway.Error):
                share.release()
        with _lock:
            if not _waiting:
                _thread = None
                return
        time.sleep(SLICE)
