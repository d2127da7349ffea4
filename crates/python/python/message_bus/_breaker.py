"""What leaves an endpoint, or a handler, alone for a while after it has failed.

Closed, it lets everybody through. After `failures` in a row it is open for `cooldown` seconds, and refuses at once. Then one
call is let through as a probe: its outcome closes or opens it again. The clock is monotonic: setting the wall clock neither
opens nor shortens anything.

Invariant: who passed before the last decision decides nothing any more: a straggler neither ends the probe of another nor makes
the pause longer. A probe that never ends stands in nobody's way for longer than the pause; one that ends well after that closes it all
the same, so that what takes longer than the pause does not keep it open.
"""

from __future__ import annotations

import time

#: Failures in a row before an endpoint is left alone. One slow moment is no reason; a strict breaker opens at the first.
FAILURES = 3


class Breaker:
    def __init__(self, cooldown: float, failures: int) -> None:
        self._cooldown = cooldown
        self._failures = failures
        self._in_row = 0
        #: When the pause is over; and while a probe is under way, when it is waited for no more.
        self._until = 0.0
        self._probing = False
        #: Raised with each change of the state; and what it was at the last decision: it closed, or something failed too often.
        self._epoch = 0
        self._decided = 0

    @property
    def opened(self) -> bool:
        """Whether calls are refused now."""
        return self._in_row >= self._failures and time.monotonic() < self._until

    def admit(self) -> int | None:
        """Leave to try, to be given back by `succeeded`, `failed` or `gave_up`; None where nothing is tried now."""
        if self._cooldown == 0 or self._in_row < self._failures:
            return self._epoch
        now = time.monotonic()
        if now < self._until:
            return None
        self._epoch += 1
        self._probing = True
        self._until = now + self._cooldown
        return self._epoch

    def succeeded(self, leave: int) -> None:
        if leave == self._epoch or leave > self._decided and self._in_row >= self._failures:
            if self._in_row >= self._failures:
                self._epoch += 1
                self._decided = self._epoch
            self._in_row = 0
            self._probing = False

    def failed(self, leave: int) -> None:
        if leave != self._epoch:
            return
        self._in_row += 1
        if self._cooldown and self._in_row >= self._failures:
            self._epoch += 1
            self._decided = self._epoch
            self._probing = False
            self._until = time.monotonic() + self._cooldown

    def gave_up(self, leave: int) -> None:
        """The call ended without an outcome: it was cancelled. Of a probe, the next one is the probe."""
        if leave == self._epoch and self._probing:
            self._epoch += 1
            self._probing = False
            self._until = 0.0
