"""What leaves an endpoint alone for a while after it has failed.

Closed, it lets everybody through. After `failures` in a row it is open for `cooldown` seconds, and refuses at once. Then one
call is let through as a probe: its outcome closes or opens it again. The clock is monotonic: setting the wall clock neither
opens nor shortens anything.
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
        self._until = 0.0
        self._probing = False

    @property
    def opened(self) -> bool:
        """Whether calls are refused now."""
        return self._in_row >= self._failures and (self._probing or time.monotonic() < self._until)

    def allows(self) -> bool:
        """Whether a call may go; it then says how it ended by `succeeded`, `failed` or `gave_up`."""
        if self._cooldown == 0 or self._in_row < self._failures:
            return True
        if self.opened:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._in_row = 0
        self._probing = False

    def failed(self) -> None:
        self._in_row += 1
        self._probing = False
        self._until = time.monotonic() + self._cooldown

    def gave_up(self) -> None:
        """The call ended without an outcome: it was cancelled. The next one is the probe."""
        self._probing = False
