"""How messages become text, and back.

`json` and `orjson` write JSON, so that each reads what the other wrote; those for other data are in `_payloads`. One of the program's own is set by
`bus.serializer = Custom()`, or given as `config["serializer"]`.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
from collections.abc import Callable
from typing import Any

from busway._busway import _parsed

from ._log import logger

#: The module, where it is installed.
orjson: Any
try:
    orjson = importlib.import_module("orjson")
except ImportError:
    orjson = None

#: The names that `config["serializer"]` knows.
NAMES = ("json", "orjson", "msgpack", "raw", "arrow")


class Serializer:
    """What a serializer does. `dumps` may return text or bytes; `loads` is given text."""

    def dumps(self, obj: Any) -> str | bytes:
        raise NotImplementedError

    def loads(self, data: Any) -> Any:
        raise NotImplementedError


class JsonSerializer(Serializer):
    """JSON by the standard library, without spaces. What JSON has no words for (NaN, infinity) is neither written nor read."""

    def __init__(self) -> None:
        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
        self._decode = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite).decode

    def dumps(self, obj: Any) -> str | bytes:
        return self._encode(obj)

    def loads(self, data: Any) -> Any:
        if isinstance(data, bytes):
            value = _parsed(data)
            if value is not NotImplemented:
                return value
        return self._decode(data.decode() if isinstance(data, (bytes, bytearray)) else data)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is larger than any number can be")
    return value


class OrjsonSerializer(Serializer):
    """JSON by orjson, which must be installed."""

    def __init__(self) -> None:
        if orjson is None:
            raise ImportError("orjson is not installed; try: pip install orjson")
        self.write: Callable[[Any], bytes] = orjson.dumps

    def dumps(self, obj: Any) -> str | bytes:
        return self.write(obj)

    def loads(self, data: Any) -> Any:
        return orjson.loads(data)


def build_serializer(name: str) -> Serializer:
    """The serializer of this name; JSON where orjson is asked for and not installed. Raises ImportError, with what to install."""
    if name not in NAMES:
        raise ValueError(f"there is no serializer {name!r}; there are: {', '.join(NAMES)}")
    if name == "json":
        return JsonSerializer()
    if name != "orjson":
        payloads = importlib.import_module("._payloads", __package__)
        made: Serializer = getattr(payloads, f"{name.capitalize()}Serializer")()
        return made
    if orjson is None:
        logger.log(logging.INFO, "orjson is not installed: JSON is written by the standard library")
        return JsonSerializer()
    return OrjsonSerializer()


def reads_bytes(serializer: Serializer) -> bool:
    """Whether it takes bytes as they came: what the program reads by itself is given text, as its author expects."""
    return type(serializer).__module__.rpartition(".")[0] == __package__ and "loads" not in vars(serializer)


def reads_json(serializer: Serializer) -> bool:
    """Whether what is plain JSON may be decoded in its place."""
    return type(serializer) in (JsonSerializer, OrjsonSerializer) and reads_bytes(serializer)
