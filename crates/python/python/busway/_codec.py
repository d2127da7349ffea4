"""JSON as the bus speaks it: what does not work is an error of the bus.

It takes and makes what `json` does, but for NaN and infinity, also as a number that is too large for one, which are no JSON: who reads a message in another language would
refuse all of it. Of a field that comes twice the last holds, as in `json` and in Rust's `serde_json::Value`: to look for it would cost
each message that has none. The compiled half asks it too.
"""

from __future__ import annotations

import json
import math
from typing import Any

from ._errors import CodecError

__all__ = ["decoded", "encoded"]

#: What people are shown of the words of `json`: bytes of a stranger may make them as long as the message.
WORDS_MAX = 200


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is larger than any number can be")
    return value


_encode = json.JSONEncoder(allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite).decode


def encoded(value: object) -> bytes:
    """A value as JSON. Raises CodecError, whatever does not work."""
    try:
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        why = f"the value cannot be encoded as JSON: {str(error)[:WORDS_MAX]}"
        raise CodecError(701, why, "send", "send dicts, lists, texts, numbers, or bytes that were encoded before") from error


def decoded(payload: bytes) -> Any:
    """The value that bytes hold as JSON. Raises CodecError, whatever they are."""
    try:
        return _decode(payload.decode(json.detect_encoding(payload), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        why = f"the bytes do not hold JSON: {str(error)[:WORDS_MAX]}"
        raise CodecError(702, why, "json", "look at bytes(message), and at who sent it") from error
