"""The keys `node`, `tls` and `token`: which nodes of other hosts a program joins, and how it shows who it is.

They say what `busway.toml` says of a client, in the same words. Nothing is opened or read here: files are read, and links
made, when the bus first needs its membership.

Invariant: no error and no text of what stands here shows a token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import busway

_NODE = (
    "None, 'HOST:PORT' of node 0, 'INDEX=HOST:PORT' with a comma between several, or a dict of peers, cluster, client and "
    "allow_plain_beyond_loopback"
)
_TLS = "None, or a dict of files: ca, or ca, cert and key, as busway cert new makes them"
_WORDS = frozenset(["peers", "cluster", "client", "allow_plain_beyond_loopback"])
_FILES = frozenset(["ca", "cert", "key"])


@dataclass(frozen=True)
class Joined:
    """Nodes that a program joins. Two programs that say the same have one of these."""

    peers: tuple[tuple[int, str], ...]
    cluster: str
    client: str | None
    plain: bool
    ca: str | None
    cert: str | None
    key: str | None
    token: str | None = field(repr=False)

    def open(self, bus: busway.Bus) -> busway.Node:
        """Joins them; links are made meanwhile. Raises what is wrong with files and names."""
        return bus.node(
            dict(self.peers),
            cluster=self.cluster,
            client=self.client,
            ca=self.ca,
            cert=self.cert,
            key=self.key,
            token=self.token,
            allow_plain_beyond_loopback=self.plain,
        )


def _wrong(key: str, value: object, wanted: str) -> ValueError:
    """Names keys that are unknown and no value: what stands one level too deep may be a token."""
    known = _WORDS if key == "node" else _FILES
    unknown = [str(name) for name in value if name not in known] if isinstance(value, Mapping) else []
    said = f" with the unknown {', '.join(sorted(unknown))}" if unknown else ""
    return ValueError(f"config[{key!r}] is of type {type(value).__name__}{said}: it must be {wanted}")


def _peers(value: object, node: object) -> tuple[tuple[int, str], ...]:
    """The address of each node by its index, in the order of these."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        pairs = [part.split("=", 1) if "=" in part else ["0", part] for part in parts]
        if any(not index.isdecimal() for index, _ in pairs):
            raise _wrong("node", node, _NODE)
        found = [(int(index), address) for index, address in pairs]
    elif isinstance(value, Mapping):
        # In a file of JSON each key is a text.
        found = [(int(key) if isinstance(key, str) and key.isdecimal() else key, value[key]) for key in value]
    else:
        raise _wrong("node", node, _NODE)
    for index, address in found:
        is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 64
        host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
        if not is_index or not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _wrong("node", node, _NODE)
    if not found or len({index for index, _ in found}) < len(found):
        raise _wrong("node", node, f"{_NODE}; each node once")
    return tuple(sorted(found))


def _files(value: object) -> tuple[str | None, str | None, str | None]:
    if value is None:
        return None, None, None
    if not isinstance(value, Mapping) or set(value) not in ({"ca"}, {"ca", "cert", "key"}):
        raise _wrong("tls", value, _TLS)
    if not all(isinstance(path, (str, os.PathLike)) for path in value.values()):
        raise _wrong("tls", value, _TLS)
    ca, cert, key = (os.fsdecode(value[name]) if name in value else None for name in ("ca", "cert", "key"))
    return ca, cert, key


def joined(given: Mapping[str, Any]) -> Joined | None:
    """What a configuration says of other hosts. Raises ValueError for what cannot be meant."""
    node, tls, token = given["node"], given["tls"], given["token"]
    if node is None:
        if tls is not None or token is not None:
            raise ValueError("config['tls'] and config['token'] are for links to a node: name it in config['node']")
        return None
    said: Mapping[str, Any] = node if isinstance(node, Mapping) else {"peers": node}
    plain = said.get("allow_plain_beyond_loopback", False)
    cluster, client = said.get("cluster", "default"), said.get("client")
    is_name = client is None or (isinstance(client, (str, int)) and not isinstance(client, bool))
    if not set(said) <= _WORDS or not isinstance(plain, bool) or not isinstance(cluster, str) or not is_name:
        raise _wrong("node", node, _NODE)
    peers = _peers(said.get("peers"), node)
    files = _files(tls)
    if token is not None and not isinstance(token, str):
        raise ValueError(f"config['token'] is no text but a {type(token).__name__}")
    if token is not None and client is None:
        raise ValueError("config['token'] is somebody's: say whose, config['node'] = {'peers': ..., 'client': NAME}")
    return Joined(peers, cluster, None if client is None else str(client), plain, *files, token)
