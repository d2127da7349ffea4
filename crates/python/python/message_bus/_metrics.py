"""What is counted: nine numbers, and for who asks, why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


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
