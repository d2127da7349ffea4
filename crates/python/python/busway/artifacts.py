"""Artifacts: bodies that are to be at many nodes, by name of their bytes. `Bus.artifacts` has them, with a node of the host.

>>> from busway.artifacts import Interest
>>> def wanted(advert):
...     return Interest.FETCH if advert.size < 1 << 20 else Interest.STASH

A node is one of `busway up`, or one in a program. In asyncio `busway.aio.Bus.artifacts` has the same names, awaited.
"""

from __future__ import annotations

import enum
import io
from typing import TYPE_CHECKING

from ._busway import Advert, Arriving, Artifact, ArtifactReader, Artifacts, Listed, Progress, Withdrawn
from ._busway import ArtifactOffer as Offer
from ._busway import ArtifactSubscriber as Subscriber

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Advert",
    "Arriving",
    "Artifact",
    "Artifacts",
    "Interest",
    "Listed",
    "Offer",
    "Progress",
    "Reader",
    "Subscriber",
    "Withdrawn",
]

#: Bytes that are read at once at most: a part at the node has no more.
READ_BYTES_MAX = 1 << 20


class Interest(enum.StrEnum):
    """What a function of interest says of an artifact."""

    #: It is not wanted, and not asked about again.
    DROP = "drop"
    #: Not now: it is asked about again after `Subscriber.reconsider`.
    STASH = "stash"
    #: It is wanted once the node has a copy, and not before.
    LATER = "later"
    #: It is wanted.
    FETCH = "fetch"
    #: It is wanted before what is fetched.
    FETCH_NOW = "fetch-now"


class Reader(io.RawIOBase):
    """Reads an artifact, or one that arrives: a raw file, for `io.BufferedReader` and `shutil.copyfileobj`.

    A read waits for the next bytes at most `timeout` seconds, without end where that is None; it raises TimedOut then and may be tried
    again. It raises BytesLost where the artifact is not offered any more, and those bytes are not here.
    """

    def __init__(self, artifact: Artifact | Arriving, timeout: float | None = None) -> None:
        super().__init__()
        self._native: ArtifactReader = artifact._reader()
        self.timeout = timeout

    def readable(self) -> bool:
        """It is."""
        self._checked()
        return True

    def seekable(self) -> bool:
        """It is, also to where nothing is yet."""
        self._checked()
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """The next bytes, as many as are here of those that fit: none at the end."""
        self._checked()
        with memoryview(buffer).cast("B") as room:
            data = self._native._read(min(len(room), READ_BYTES_MAX), self.timeout)
            room[: len(data)] = data
            return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Where it reads next."""
        self._checked()
        return self._native._seek(offset, whence)

    def tell(self) -> int:
        """Where it reads next."""
        return self.seek(0, io.SEEK_CUR)

    def close(self) -> None:
        """It reads no more. What came stays."""
        if not self.closed:
            super().close()
            self._native._close()

    def _checked(self) -> None:
        if self.closed:
            raise ValueError("the reader is closed")
