"""What all buses of a process share: one membership in each domain, opened by the first that needs it and left by the last.

Invariant: a membership has as many users as `acquire` was called for it without `release`; a child made by fork has none.
"""

from __future__ import annotations

import os
import threading

import busway

_Key = tuple[str, str | None]
_lock = threading.Lock()
_open: dict[_Key, tuple[busway.Bus, int]] = {}


def _forget() -> None:
    """In a child made by fork: what the parent has is the parent's."""
    global _lock
    _lock = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_forget)


def _name(service: str) -> str:
    """A process's name on the bus: only people read it."""
    printable = "".join(one for one in service if one.isprintable())
    return printable.encode()[:64].decode(errors="ignore").lstrip("-") or "message_bus"


class Membership:
    """A share in a process's membership of a domain."""

    def __init__(self, domain: str, service: str) -> None:
        self._key = (domain, os.environ.get("BUSWAY_DIR"))
        with _lock:
            bus, users = _open.get(self._key) or (None, 0)
            if bus is None or bus.closed:
                bus, users = busway.Bus(domain, name=_name(service)), 0
            _open[self._key] = (bus, users + 1)
        self.bus = bus

    def release(self) -> None:
        """Gives the share back; the last one leaves the domain."""
        with _lock:
            bus, users = _open.get(self._key, (None, 0))
            if bus is not self.bus:
                return
            if users > 1:
                _open[self._key] = (bus, users - 1)
                return
            del _open[self._key]
            bus.close()
