"""Which messages belong together: traces, as W3C Trace Context writes them, over events, results and requests.

`bus.use(**tracing())` says so of each message that the bus sends and receives. It starts no spans and exports nothing: who has a library
for that says what its trace is.

Invariant: what a handler sends belongs to the trace of the message that it was given; what is sent elsewhere begins one. What a
stranger writes in the keys of a trace is taken where it is well-formed, and else is none.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ._hooks import Hook
from ._retry import new_id

#: Characters of a correlation id that is taken: who made a longer one meant something else by it.
CORRELATION_MAX = 128

_WELL_FORMED = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


@dataclass(frozen=True, slots=True)
class Trace:
    """To what a message belongs."""

    #: The trace and the span that sent it, as an HTTP header has them.
    traceparent: str
    #: What the program calls all that came of one cause: the id of the first message, unless another was given.
    correlation_id: str

    @property
    def trace_id(self) -> str:
        """The 32 digits by which tools know the trace."""
        return self.traceparent[3:35]


_current: ContextVar[Trace | None] = ContextVar("message_bus trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the message that is being handled here; None where none is, or it has none."""
    return _current.get()


def well_formed(text: object) -> str | None:
    """A `traceparent`, where it is one."""
    return text if isinstance(text, str) and _WELL_FORMED(text) else None


def tracing(current: Callable[[], str | None] | None = None) -> dict[str, Hook]:
    """Hooks for `bus.use(**tracing())`: each message has `traceparent`, `trace_id` and `correlation_id` beside its data.

    `current` returns the `traceparent` of what the program does just then, where another library knows it. Without it, or where it
    returns None, a message belongs to the trace of the one that is being handled, and else begins one.
    """

    def before_send(message: dict[str, Any]) -> None:
        here = _current.get()
        parent = well_formed(message.get("traceparent")) or well_formed(current() if current is not None else None)
        if parent is None:
            parent = here.traceparent if here is not None else f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        message["traceparent"], message["trace_id"] = parent, parent[3:35]
        if not isinstance(message.get("correlation_id"), str):
            message["correlation_id"] = here.correlation_id if here is not None else message.get("id") or new_id()

    def after_receive(message: Any) -> None:
        _current.set(_of(message) if isinstance(message, dict) else None)

    if current is not None and not callable(current):
        raise TypeError(f"current must be callable, not {current!r}")
    return {"before_send": before_send, "after_receive": after_receive}


def _of(message: dict[str, Any]) -> Trace | None:
    parent, correlation = well_formed(message.get("traceparent")), message.get("correlation_id")
    if parent is None:
        return None
    if isinstance(correlation, str) and 0 < len(correlation) <= CORRELATION_MAX:
        return Trace(parent, correlation)
    return Trace(parent, parent[3:35])
