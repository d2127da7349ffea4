"""What is counted: nine numbers, and for who asks, why; and how Prometheus reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

#: A bus as it is shown: its service, and its counts.
Shown = tuple[str, dict[str, Any]]


@dataclass
class BusMetrics:
    """The nine numbers of a bus; `bus.get_metrics()` shows them as a dict."""

    #: Messages that the bus has accepted: published, pushed, requested.
    messages_sent: int = 0
    #: Messages that came: for handlers, as results, as requests.
    messages_received: int = 0
    #: Whatever went wrong, in this bus or in its handlers.
    errors: int = 0
    #: Messages that went out and were lost, or could not go out.
    outbound_dropped: int = 0
    #: Messages that came and could not be read, or for which there was no room.
    inbound_dropped: int = 0
    #: Times that a sender met a full queue.
    backpressure_events: int = 0
    #: Requests that were not answered in time.
    request_timeouts: int = 0
    #: Endpoints that could not be opened.
    failed_bind_count: int = 0
    #: Endpoints that are open now.
    active_connections: int = 0
    #: How often each cause of an error or of a loss was met.
    causes: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """The nine, in their order."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "causes"}

    def dropped_outbound(self, cause: str, count: int = 1) -> None:
        self.outbound_dropped += count
        self.causes[f"outbound_dropped.{cause}"] += count

    def dropped_inbound(self, cause: str, count: int = 1) -> None:
        self.inbound_dropped += count
        self.causes[f"inbound_dropped.{cause}"] += count

    def error(self, cause: str) -> None:
        self.errors += 1
        self.causes[f"errors.{cause}"] += 1


_GAUGES = frozenset(["active_connections", "inbound_waiting", "in_flight"])
_HELP = {
    "messages_sent": "Messages that the bus has accepted",
    "messages_received": "Messages that came to a loop",
    "errors": "Whatever went wrong, in the bus or in a handler",
    "outbound_dropped": "Messages that went out and were lost, or could not go out",
    "inbound_dropped": "Messages that came and could not be read, or were not handled",
    "backpressure_events": "Times that a sender met a full queue",
    "request_timeouts": "Requests that were not answered in time",
    "failed_bind_count": "Endpoints that could not be opened",
    "active_connections": "Endpoints that are open now",
    "inbound_waiting": "Messages that wait for handlers, or are in one",
    "delivered": "Messages that were taken, summed over who takes them",
    "in_flight": "Messages that were sent and are neither taken nor lost",
    "no_subscriber": "Messages that nobody came for in time",
}


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def text_of(buses: Iterable[Shown]) -> str:
    """Version 0.0.4 of the exposition format."""
    shown = [(f'service="{_label(service)}"', counts) for service, counts in buses]
    lines = []
    for name, help in _HELP.items():
        kind = "gauge" if name in _GAUGES else "counter"
        full = f"bus_{name}" + ("" if kind == "gauge" else "_total")
        lines += [f"# HELP {full} {help}", f"# TYPE {full} {kind}"]
        lines += [f"{full}{{{label}}} {counts[name]}" for label, counts in shown]
    lines += ["# HELP bus_causes_total How often each cause was met", "# TYPE bus_causes_total counter"]
    for label, counts in shown:
        lines += [f'bus_causes_total{{{label},cause="{_label(cause)}"}} {count}' for cause, count in counts["causes"].items()]
    return "\n".join(lines) + "\n"
