"""What all receivers share: they count, and say how long it took.

A receiver writes `ready` when it listens, and one line of JSON when all messages have come, or when none has come for a while.
The time is from the first message to the last, so that nothing of how a side starts is in it.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time

IDLE = 3.0


class Count:
    """Messages of one run."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.received = 0
        self.wrong = 0
        self._first = 0.0
        self._last = 0.0

    def add(self, sequence: int) -> bool:
        """Notes a message; True when it was the last."""
        now = time.monotonic()
        if not self.received:
            self._first = now
        # Each is to come once and in order; what is lost makes those after it too high.
        self.wrong += sequence < self.received
        self.received += 1
        self._last = now
        return self.received >= self.expected

    def add_all(self, sequences: list[int]) -> bool:
        """As `add`, of a batch."""
        now = time.monotonic()
        if not self.received:
            self._first = now
        self.wrong += sequences != list(range(sequences[0], sequences[0] + len(sequences)))
        self.received += len(sequences)
        self._last = now
        return self.received >= self.expected

    def idle(self) -> bool:
        """Whether so much time has passed since the last that no more will come."""
        return bool(self.received) and time.monotonic() - self._last > IDLE

    def tell(self) -> None:
        """Writes what was found."""
        seconds = self._last - self._first
        found = {
            "received": self.received,
            "wrong": self.wrong,
            "seconds": seconds,
            "cpu_seconds": resource.getrusage(resource.RUSAGE_SELF).ru_utime,
            "threads": threading.active_count(),
        }
        print(json.dumps(found), flush=True)


def ready() -> None:
    print("ready", flush=True)


def arguments() -> tuple[str, str, int]:
    """`receive` or `send`, where they meet, and how many messages."""
    role, place, count = sys.argv[1:4]
    return role, place, int(count)
