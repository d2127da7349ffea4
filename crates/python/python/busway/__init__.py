"""Busway: messages, work and requests between programs: of one host through shared memory, of several over links.

A message is laid out once, in memory that its publisher owns; a subscriber reads it there. Nothing is to be started before.

>>> import busway
>>> with busway.Bus("example") as bus:
...     subscriber = bus.subscriber("price.*")
...     publisher = bus.publisher("price.tick")
...     sent = publisher.send(b"101.5")
...     with subscriber.recv(timeout=5) as sample:
...         print(sample.topic, bytes(sample))
price.tick b'101.5'

For asyncio there is `busway.aio`, with the same names.
"""

from __future__ import annotations

import atexit as _atexit
import os as _os
import weakref as _weakref
from typing import Any as _Any

from . import _busway, _errors
from ._busway import (
    Loan,
    Message,
    Node,
    Origin,
    Pending,
    Publisher,
    Puller,
    Pusher,
    Reply,
    Request,
    Requester,
    Responder,
    Sample,
    Sent,
    Subscriber,
    Task,
)
from ._errors import (
    BytesLost,
    Cancelled,
    Closed,
    CodecError,
    Error,
    Evicted,
    Forked,
    Full,
    JoinError,
    NoResponders,
    NoSubscribers,
    PeerError,
    ReplyLost,
    ResourceError,
    ResponderDied,
    ResponderFailed,
    SettingError,
    TimedOut,
    TooFarAhead,
    TooLarge,
    TooLate,
    TooManyRequests,
    Unanswered,
)

__all__ = [
    "Bus",
    "BytesLost",
    "Cancelled",
    "Closed",
    "CodecError",
    "Error",
    "Evicted",
    "Forked",
    "Full",
    "JoinError",
    "Loan",
    "Message",
    "NoResponders",
    "NoSubscribers",
    "Node",
    "Origin",
    "PeerError",
    "Pending",
    "Publisher",
    "Puller",
    "Pusher",
    "Reply",
    "ReplyLost",
    "Request",
    "Requester",
    "ResourceError",
    "Responder",
    "ResponderDied",
    "ResponderFailed",
    "Sample",
    "Sent",
    "SettingError",
    "Subscriber",
    "Task",
    "TimedOut",
    "TooFarAhead",
    "TooLarge",
    "TooLate",
    "TooManyRequests",
    "Unanswered",
]

_open: _weakref.WeakSet[Bus] = _weakref.WeakSet()


class Bus(_busway.Bus):
    """A membership in a domain: the way to publishers and subscribers.

    `with busway.Bus("shop") as bus:` leaves the domain at the end of the block; a bus that is still open when the
    interpreter ends leaves then.

    >>> import busway
    >>> with busway.Bus("example") as bus:
    ...     bus.domain, bus.closed
    ('example', False)
    >>> bus.closed
    True
    """

    def __init__(self, *_settings: _Any, **_named: _Any) -> None:
        _open.add(self)


@_atexit.register
def _leave() -> None:
    """Leaves all domains, so that others see a departure and not a death."""
    for bus in list(_open):
        bus.close()


# What is shown of a message is not there in a child made by fork.
_os.register_at_fork(after_in_child=_busway._after_fork)
