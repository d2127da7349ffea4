"""What is told to the log: each cause now and then, not each time.

The loggers are the standard library's, and no handler is installed: what is seen is the program's decision.
"""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("message_bus")

#: Seconds for which a cause that was told is only counted.
INTERVAL = 5.0
#: Causes that are remembered. Beyond, the one that was told first is forgotten, and told again.
CAUSES_MAX = 1024


class Limited:
    """A log that tells each cause once in `INTERVAL`, with how often it was not told."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def __call__(self, level: int, cause: str, text: str, *values: object, error: BaseException | None = None) -> None:
        if not logger.isEnabledFor(level):
            return
        now = time.monotonic()
        before, untold = self._told.pop(cause, (now - INTERVAL, 0))
        if now - before < INTERVAL:
            self._told[cause] = (before, untold + 1)
            return
        if len(self._told) >= CAUSES_MAX:
            del self._told[next(iter(self._told))]
        self._told[cause] = (now, 0)
        if untold:
            text += " (and %d more like it)"
            values += (untold,)
        logger.log(level, text, *values, exc_info=error)
