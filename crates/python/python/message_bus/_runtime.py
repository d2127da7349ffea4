"""What all buses of a process share: one membership in each domain, opened by the first that needs it and left by the last, and the
links of that domain to other hosts.

Invariant: a membership has as many users as there are shares that were not released; a child made by fork has none.
"""

from __future__ import annotations

import os
import threading
from copy import copy
from dataclasses import dataclass, field

import busway

from ._node import Joined

_Key = tuple[str, str | None]
_lock = threading.Lock()
_open: dict[_Key, _Shared] = {}


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


@dataclass
class _Shared:
    """What the shares are of."""

    bus: busway.Bus
    users: int = 0
    #: By what was said of them, links to other hosts and who needs them.
    nodes: dict[Joined, tuple[busway.Node, int]] = field(default_factory=dict)


class Membership:
    """A share in a process's membership of a domain, and in its links to other hosts if it has any."""

    def __init__(self, domain: str, service: str, joined: Joined | None) -> None:
        self._key = (domain, os.environ.get("BUSWAY_DIR"))
        self._joined = joined
        self.node: busway.Node | None = None
        with _lock:
            shared = _open.get(self._key)
            if shared is None or shared.bus.closed:
                shared = _Shared(busway.Bus(domain, name=_name(service)))
            if joined is not None:
                try:
                    node, users = shared.nodes.get(joined) or (joined.open(shared.bus), 0)
                except BaseException:
                    if shared.users == 0:
                        shared.bus.close()
                    raise
                shared.nodes[joined] = (node, users + 1)
                self.node = node
            shared.users += 1
            _open[self._key] = shared
        self.bus = shared.bus

    def again(self) -> Membership | None:
        """Another share in the same; None where the bus was closed from outside."""
        with _lock:
            shared = _open.get(self._key)
            if shared is None or shared.bus is not self.bus:
                return None
            shared.users += 1
            if self._joined is not None and self._joined in shared.nodes:
                node, users = shared.nodes[self._joined]
                shared.nodes[self._joined] = (node, users + 1)
        return copy(self)

    def release(self) -> None:
        """Gives the share back; the last one ends the links, and leaves the domain."""
        with _lock:
            shared = _open.get(self._key)
            if shared is None or shared.bus is not self.bus:
                return
            node = self._without(shared)
            shared.users -= 1
            if shared.users == 0:
                del _open[self._key]
        # Not under the lock: what is under way on links is settled first.
        if node is not None:
            node.close()
        if shared.users == 0:
            shared.bus.close()

    def _without(self, shared: _Shared) -> busway.Node | None:
        """The links that nobody needs any more."""
        if self._joined is None or self._joined not in shared.nodes:
            return None
        node, users = shared.nodes[self._joined]
        if users > 1:
            shared.nodes[self._joined] = (node, users - 1)
            return None
        del shared.nodes[self._joined]
        return node
