"""How often something is tried again, and with which pauses: `{"max": 3, "base_ms": 10, "cap_ms": 10000, "jitter": True}`.

The first pause is at most `base_ms`, each that follows twice as long, and none longer than `cap_ms`. With jitter a pause is drawn
between its half and its whole, so that those who failed together do not come back together. A Rust outlet does the same.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: As many tries after the first as may be asked for: with more a message is not retried but kept.
MAX = 100
#: The longest pause, in milliseconds: an hour.
PAUSE_MAX = 3_600_000
DEFAULTS: dict[str, Any] = {"max": 3, "base_ms": 10, "cap_ms": 10_000, "jitter": True}


#: The digits of a ULID.
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id() -> str:
    """An id for a message, a ULID: the time in milliseconds, and 80 bits of chance. No bus need be open for it."""
    number = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True, slots=True)
class Retry:
    #: Tries after the first.
    times: int
    base: float
    cap: float
    jitter: bool

    def pause(self, failed: int) -> float:
        """Seconds before the next try, where so many have failed."""
        whole = min(self.base * 2.0 ** min(failed - 1, 64), self.cap)
        return random.uniform(whole / 2, whole) if self.jitter else whole


def retry_of(value: object, where: str) -> Retry | None:
    """What a dict of `max`, `base_ms`, `cap_ms` and `jitter` means; None where nothing is tried again."""
    if value is None:
        return None
    form = f"{where} must be None or a dict of {', '.join(DEFAULTS)}"
    if not isinstance(value, Mapping):
        raise ValueError(f"{form}, not {value!r}")
    unknown = [key for key in value if key not in DEFAULTS]
    if unknown:
        raise ValueError(f"{form}: there is no {unknown[0]!r}")
    given = {**DEFAULTS, **value}
    times = given["max"]
    if isinstance(times, bool) or not isinstance(times, int) or not 0 <= times <= MAX:
        raise ValueError(f"{where}['max'] is {times!r}: it must be a number of tries after the first, 0 to {MAX}")
    for key in ("base_ms", "cap_ms"):
        pause = given[key]
        if isinstance(pause, bool) or not isinstance(pause, (int, float)) or math.isnan(pause) or not 0 <= pause <= PAUSE_MAX:
            raise ValueError(f"{where}[{key!r}] is {pause!r}: it must be milliseconds, 0 to {PAUSE_MAX}")
    if not isinstance(given["jitter"], bool):
        raise ValueError(f"{where}['jitter'] is {given['jitter']!r}: it must be True or False")
    return Retry(times, given["base_ms"] / 1000, given["cap_ms"] / 1000, given["jitter"])
