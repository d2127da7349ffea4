"""Serializers for data that is no JSON: MessagePack, bytes as they are, and tables of Arrow.

With `raw` and `arrow` a message is one byte that says what follows (1), the length of its head in four bytes, little-endian,
the head (a JSON object of all but `data`), and the data as it is. What has no data, as an answer that tells an error, is a byte
(2) and JSON; bytes or a table alone, as an answer, are a byte (0) and the data. They are for data that shall not be copied into text.

Invariant: bytes from anywhere are refused with ValueError where they are no such message; nothing is run or allocated for them
beyond their own size.
"""

from __future__ import annotations

import importlib
import json
import struct
from typing import Any

from ._serializers import Serializer

_BARE, _MESSAGE, _JSON = 0, 1, 2
_LENGTH = struct.Struct("<I")


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"the package {package} is not installed; try: pip install {package}") from None


class MsgpackSerializer(Serializer):
    """MessagePack, by the package msgpack."""

    def __init__(self) -> None:
        msgpack = _module("msgpack", "msgpack")
        self._pack, self._unpack = msgpack.packb, msgpack.unpackb

    def dumps(self, obj: Any) -> str | bytes:
        packed: bytes = self._pack(obj)
        return packed

    def loads(self, data: Any) -> Any:
        return self._unpack(data, strict_map_key=False)


class RawSerializer(Serializer):
    """Data that is bytes, or shows them as a buffer; it comes as bytes."""

    def dumps(self, obj: Any) -> str | bytes:
        if isinstance(obj, dict) and "sender" in obj and "data" in obj:
            head = json.dumps({key: value for key, value in obj.items() if key != "data"}, separators=(",", ":")).encode()
            return b"".join([bytes([_MESSAGE]), _LENGTH.pack(len(head)), head, self.packed(obj["data"])])
        if isinstance(obj, dict):
            return bytes([_JSON]) + json.dumps(obj, separators=(",", ":"), allow_nan=False).encode()
        return bytes([_BARE]) + self.packed(obj)

    def loads(self, data: Any) -> Any:
        view = memoryview(data)
        if not view:
            raise ValueError("a message is not empty")
        if view[0] == _BARE:
            return self.unpacked(view[1:])
        if view[0] == _JSON:
            return json.loads(bytes(view[1:]))
        if view[0] != _MESSAGE or len(view) < 5:
            raise ValueError("it is no message of this serializer")
        end = 5 + _LENGTH.unpack_from(view, 1)[0]
        if end > len(view):
            raise ValueError("the head of a message is longer than the message")
        message = json.loads(bytes(view[5:end]))
        if not isinstance(message, dict):
            raise ValueError("the head of a message is no object")
        message["data"] = self.unpacked(view[end:])
        return message

    def packed(self, data: Any) -> bytes | memoryview:
        """The data of a message as bytes."""
        try:
            return memoryview(data).cast("B")
        except TypeError:
            raise TypeError(f"the serializer raw carries bytes, not {type(data).__name__}") from None

    def unpacked(self, view: memoryview) -> Any:
        """What the bytes of a message's data are."""
        return bytes(view)


class ArrowSerializer(RawSerializer):
    """Data that is a table or a record batch of the package pyarrow; it comes as a table."""

    def __init__(self) -> None:
        self._arrow = _module("pyarrow", "pyarrow")
        _module("pyarrow.ipc", "pyarrow")

    def packed(self, data: Any) -> bytes | memoryview:
        arrow = self._arrow
        if not isinstance(data, (arrow.Table, arrow.RecordBatch)):
            raise TypeError(f"the serializer arrow carries a Table or a RecordBatch, not {type(data).__name__}")
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, data.schema) as stream:
            stream.write(data)
        return memoryview(sink.getvalue())

    def unpacked(self, view: memoryview) -> Any:
        # What is shown lies in memory that goes with the message: the table keeps its own.
        return self._arrow.ipc.open_stream(self._arrow.py_buffer(bytes(view))).read_all()
