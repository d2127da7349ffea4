"""Which topic of the bus a port and a topic are.

The program's topics may be any text; names on the bus may not. So each character that a name cannot have is written as
`%XX` of its bytes, and an empty token as a single `%`. Escapes do not depend on what follows, so that a prefix of a topic
is a prefix of its name.

Invariant: different topics have different names, and `name(port, topic)` begins with `prefix(port, p)` exactly where
`topic` begins with `p`, as far as `LENGTH` reaches.
"""

from __future__ import annotations

import hashlib
import re

#: Bytes of a name: the bus refuses more than 255.
LENGTH = 255
#: Bytes of a name that is cut, before its hash: `%~` and 32 hex digits follow.
_CUT = LENGTH - 34

_PLAIN = re.compile(r"[A-Za-z0-9_/:@#+=,~-]+(\.[A-Za-z0-9_/:@#+=,~-]+)*").fullmatch


def space(port: int) -> str:
    """What the names of all topics of a port begin with."""
    return f"port.{port}."


def results(port: int) -> str:
    """The name under which the results of a port are shared."""
    return f"results.{port}"


def requests(port: int) -> str:
    """The name under which the requests of a port are answered."""
    return f"requests.{port}"


def _character(one: str) -> str:
    if one not in "%*>" and one.isprintable() and not one.isspace():
        return one
    return "".join(f"%{byte:02X}" for byte in one.encode("utf-8", "surrogatepass"))


def _escaped(text: str) -> str:
    tokens = ["".join(map(_character, token)) for token in text.split(".")]
    # The last token of a prefix may go on: only who knows that it does not marks it as empty.
    return ".".join([*(token or "%" for token in tokens[:-1]), tokens[-1]])


def name(port: int, topic: str) -> str:
    """The name of a topic on the bus."""
    if _PLAIN(topic):
        escaped = topic
    else:
        escaped = _escaped(topic)
        if not escaped or escaped.endswith("."):
            escaped += "%"
    whole = space(port) + escaped
    if len(whole.encode()) <= LENGTH:
        return whole
    digest = hashlib.blake2b(topic.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{_cut(whole)}%~{digest}"


def pattern(port: int, prefix: str) -> str:
    """The pattern of all topics of a port that begin with `prefix`; of some more, where `is_cut` says so."""
    return "^" + _cut(space(port) + _escaped(prefix))


def is_cut(port: int, prefix: str) -> bool:
    """Whether the prefix is too long for a pattern, so that who receives has to look at the topic."""
    return len((space(port) + _escaped(prefix)).encode()) > _CUT


def _cut(whole: str) -> str:
    """What of a name stands before its hash: the same for all that begin with it."""
    return whole.encode()[:_CUT].decode(errors="ignore")
