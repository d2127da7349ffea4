"""The errors of the bus: one class a kind, each with its stable code.

>>> import busway
>>> try:
...     busway.Bus("no/such/name")
... except busway.SettingError as error:
...     print(error.code, isinstance(error, ValueError))
BUS-0103 True
"""

from __future__ import annotations

__all__ = [
    "Error",
    "SettingError",
    "JoinError",
    "ResourceError",
    "PeerError",
    "CodecError",
    "TooLarge",
    "TooLate",
    "Full",
    "TimedOut",
    "Evicted",
    "NoSubscribers",
    "NoResponders",
    "ResponderDied",
    "Unanswered",
    "ResponderFailed",
    "ReplyLost",
    "Cancelled",
    "TooManyRequests",
    "TooFarAhead",
    "BytesLost",
    "Forked",
    "Closed",
]


class Error(Exception):
    """What the bus says when something does not work. Scripts look at `code` only."""

    #: The stable code, `BUS-0602`; docs/errors.md lists all of them.
    code: str
    #: What happened.
    cause: str
    #: Where it happened; empty if there is no place to name.
    place: str
    #: What to try; empty if there is nothing to try.
    remedy: str
    #: What `send_many` raises: how many messages were sent before it.
    sent: int = 0

    def __init__(self, number: int, cause: str, place: str = "", remedy: str = "") -> None:
        # Not by the next class: an OSError, as TimeoutError is, would take the number for an errno.
        self.args = (number, cause, place, remedy)
        self.code = f"BUS-{number:04}"
        self.cause = cause
        self.place = place
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"error[{self.code}]: {self.cause}"
        if self.place:
            text += f"\n  at: {self.place}"
        if self.remedy:
            text += f"\n  try: {self.remedy}"
        return text


class SettingError(Error, ValueError):
    """A name, a pattern, a policy or a setting that the caller must mend (01xx)."""


class TooLarge(SettingError):
    """A message is larger than its publisher allows (BUS-0107)."""


class JoinError(Error, ConnectionError):
    """The domain cannot be joined, or its rendezvous does not answer (02xx)."""


class ResourceError(Error, MemoryError):
    """Memory, descriptors, threads or room that cannot be had (03xx, BUS-0603)."""


class Full(Error):
    """A reliable subscriber has not read what would be overwritten (BUS-0401)."""


class TimedOut(Error, TimeoutError):
    """What was waited for did not happen in time (BUS-0402)."""


class Evicted(Error):
    """The subscriber was evicted by a publisher, because it did not keep up (BUS-0403)."""


class NoSubscribers(Error):
    """Nobody subscribes to the topic (BUS-0404)."""


class TooLate(Error):
    """An acknowledgement came after its message was given to another puller (BUS-0405)."""


class NoResponders(Error):
    """Nobody answers requests on the topic (BUS-0406)."""


class ResponderDied(Error):
    """The responder died before its last reply (BUS-0407)."""


class Unanswered(Error):
    """The responder let the request go without an answer (BUS-0408)."""


class ResponderFailed(Error):
    """The responder failed, and says why (BUS-0409)."""

    #: What it says, as it said it.
    why: bytes = b""


class ReplyLost(Error):
    """A reply was lost because the requester did not take its replies in time (BUS-0410)."""


class Cancelled(Error):
    """Nobody waits for the reply any more (BUS-0411)."""


class TooManyRequests(Error):
    """So many requests are under way or unread that the requester has no room for another (BUS-0412)."""


class TooFarAhead(Error):
    """A request has not ended, and so many were sent after it that its place is needed (BUS-0413)."""


class BytesLost(Error):
    """Bytes of an artifact are not here, and nobody is there who gives them (BUS-0416)."""


class PeerError(Error):
    """Another process of the domain is not what it must be (05xx)."""


class Forked(Error):
    """The handle was inherited by fork and belongs to the parent (BUS-0601)."""


class Closed(Error):
    """The bus or the port is closed (BUS-0602)."""


class CodecError(Error, ValueError):
    """A value cannot be encoded, or bytes do not hold it (07xx)."""


_OF_NUMBER: dict[int, type[Error]] = {
    107: TooLarge,
    401: Full,
    402: TimedOut,
    403: Evicted,
    404: NoSubscribers,
    405: TooLate,
    406: NoResponders,
    407: ResponderDied,
    408: Unanswered,
    409: ResponderFailed,
    410: ReplyLost,
    411: Cancelled,
    412: TooManyRequests,
    413: TooFarAhead,
    416: BytesLost,
    601: Forked,
    602: Closed,
    603: ResourceError,
}
_OF_HUNDRED: dict[int, type[Error]] = {
    1: SettingError,
    2: JoinError,
    3: ResourceError,
    5: PeerError,
    7: CodecError,
}


def of(number: int, cause: str, place: str, remedy: str) -> Error:
    """The exception of a code."""
    kind = _OF_NUMBER.get(number) or _OF_HUNDRED.get(number // 100) or Error
    return kind(number, cause, place, remedy)
