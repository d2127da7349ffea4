"""What is done for a single handler: whether it is tried again, left alone for a while, and where what it gave up goes.

It also keeps the times of its calls, roughly: how many there were, and how the longer ones are distributed.

Invariant: a message of a handler with care is handled, or counted as dropped and, where a topic was named, published there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._breaker import Breaker
from ._retry import Retry, retry_of

#: Calls that are quicker, in seconds, are only counted: they are not what makes a handler slow.
QUICK = 0.001
#: Bounds of time that are told apart: from 1 ms on, each twice the one before, up to 17 minutes.
BOUNDS = 21


class Care:
    """What was asked for with a handler."""

    __slots__ = ("breaker", "dead_letter", "retry")

    def __init__(self, retry: Retry | None, breaker: Breaker | None, dead_letter: str | None) -> None:
        self.retry = retry
        self.breaker = breaker
        self.dead_letter = dead_letter


def care_of(retry: object, breaker: object, dead_letter: object) -> Care | None:
    """What a program says of a handler; None where it says nothing."""
    if retry is None and breaker is None and dead_letter is None:
        return None
    if dead_letter is not None and not isinstance(dead_letter, str):
        raise TypeError(f"dead_letter is a topic, not {dead_letter!r}")
    return Care(retry_of(retry, "retry"), _breaker_of(breaker), dead_letter)


def _breaker_of(value: object) -> Breaker | None:
    if value is None:
        return None
    form = "breaker must be None or a dict of failures and cooldown"
    if not isinstance(value, Mapping) or any(key not in ("failures", "cooldown") for key in value):
        raise ValueError(f"{form}, not {value!r}")
    failures, cooldown = value.get("failures", 5), value.get("cooldown", 10.0)
    if isinstance(failures, bool) or not isinstance(failures, int) or not 1 <= failures <= 1024:
        raise ValueError(f"{form}: failures is a number of 1 to 1024, not {failures!r}")
    if isinstance(cooldown, bool) or not isinstance(cooldown, (int, float)) or not 0 < cooldown <= 86_400:
        raise ValueError(f"{form}: cooldown is a time of more than 0 s and at most a day, not {cooldown!r}")
    return Breaker(float(cooldown), failures)


class Times:
    """How long the calls of a handler take."""

    __slots__ = ("_longer", "calls", "longest")

    def __init__(self) -> None:
        self.calls = 0
        self.longest = 0.0
        #: Calls of 1 to 2 ms, of 2 to 4 ms, and so on.
        self._longer: list[int] | None = None

    def took(self, seconds: float) -> None:
        """A call that was not quick."""
        if self._longer is None:
            self._longer = [0] * BOUNDS
        self._longer[min(int(seconds / QUICK).bit_length() - 1, BOUNDS - 1)] += 1
        self.longest = max(self.longest, seconds)

    def p99(self) -> float:
        """Within how many seconds 99 of 100 calls are done: a power of two of milliseconds, and never more than the longest."""
        beyond = self.calls // 100
        for bound in reversed(range(BOUNDS)):
            count = self._longer[bound] if self._longer is not None else 0
            if count > beyond:
                return min(QUICK * 2.0 ** (bound + 1), self.longest)
            beyond -= count
        return QUICK
