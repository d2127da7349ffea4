"""Which topic of the bus a port and a topic are.

The program's topics may be any text; names on the bus may not. So each character that a name cannot have is written as
`%XX` of its bytes, and an empty token as a single `%`. Escapes do not depend on what follows, so that a prefix of a topic
is a prefix of its name.

A port is a number, or a name of the program's choice that stands in its place: `events`, also as `bus://events`.

Invariant: different topics have different names, and `name(port, topic)` begins with `prefix(port, p)` exactly where
`topic` begins with `p`, as far as `LENGTH` reaches. What stands for one port is one port, however it is written.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import busway

#: A number, or a name.
PortKey = int | str

#: The key beside `topic`, `sender`, `ts` and `data` that says that a message is a dead letter.
LETTER = "dead_letter"

#: Bytes of a name: the bus refuses more than 255.
LENGTH = 255
#: Bytes of a name that is cut, before its hash: `%~` and 32 hex digits follow.
_CUT = LENGTH - 34

_PLAIN = re.compile(r"[A-Za-z0-9_/:@#+=,~-]+(\.[A-Za-z0-9_/:@#+=,~-]+)*").fullmatch


_NAMED = re.compile(r"[A-Za-z_-][A-Za-z0-9_-]{0,63}").fullmatch
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}").fullmatch


@lru_cache(1024)
def port_of(written: str) -> PortKey:
    """The port that a text stands for; the text itself where it stands for none, which `space` and its like refuse."""
    text = written.removeprefix("bus://")
    if _NUMBER(text):
        return int(text)
    return text if _NAMED(text) else written


def _token(port: PortKey) -> str:
    if isinstance(port, int):
        return str(int(port))
    if isinstance(port, str) and _NAMED(port):
        return port
    cause, remedy = f"{port!r} is no port", "a number, or a name of letters, digits, - and _ that begins with no digit"
    raise busway.SettingError(106, cause, "", remedy)


def space(port: PortKey) -> str:
    """What the names of all topics of a port begin with. Raises SettingError for what is no port, as do the others."""
    return f"port.{_token(port)}."


def results(port: PortKey) -> str:
    """The name under which the results of a port are shared."""
    return f"results.{_token(port)}"


def requests(port: PortKey) -> str:
    """The name under which the requests of a port are answered."""
    return f"requests.{_token(port)}"


def _character(one: str) -> str:
    if one not in "%*>" and one.isprintable() and not one.isspace():
        return one
    return "".join(f"%{byte:02X}" for byte in one.encode("utf-8", "surrogatepass"))


def _escaped(text: str) -> str:
    tokens = ["".join(map(_character, token)) for token in text.split(".")]
    # The last token of a prefix may go on: only who knows that it does not marks it as empty.
    return ".".join([*(token or "%" for token in tokens[:-1]), tokens[-1]])


def name(port: PortKey, topic: str) -> str:
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


def pattern(port: PortKey, prefix: str) -> str:
    """The pattern of all topics of a port that begin with `prefix`; of some more, where `is_cut` says so."""
    return "^" + _cut(space(port) + _escaped(prefix))


def is_cut(port: PortKey, prefix: str) -> bool:
    """Whether the prefix is too long for a pattern, so that who receives has to look at the topic."""
    return len((space(port) + _escaped(prefix)).encode()) > _CUT


def _cut(whole: str) -> str:
    """What of a name stands before its hash: the same for all that begin with it."""
    return whole.encode()[:_CUT].decode(errors="ignore")
