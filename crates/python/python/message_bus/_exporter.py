"""An address where the counts of buses are found as text: `metrics_port`, on this host only.

One thread serves all buses of a process that name the same port, from the first that opens something to the cleanup of the last.

Invariant: a bus that is cleaned up is not shown; a request can do nothing but read the text.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
from collections.abc import Callable
from typing import Any

from ._metrics import Shown, text_of

#: A client that says nothing is let go after so many seconds.
PATIENCE = 5.0


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        self.buses: dict[int, Callable[[], Shown | None]] = {}
        super().__init__(("127.0.0.1", port), _Request)


class _Request(http.server.BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        found = [shown() for shown in list(self.server.buses.values())]
        body = text_of([one for one in found if one is not None]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """A request is nothing to tell."""


_lock = threading.Lock()
_servers: dict[int, _Server] = {}


def _forget() -> None:
    """In a child made by fork: the address is the parent's."""
    global _lock
    _lock = threading.Lock()
    for server in _servers.values():
        server.socket.close()
    _servers.clear()


os.register_at_fork(after_in_child=_forget)


def show(port: int, key: int, shown: Callable[[], Shown | None]) -> None:
    """Shows a bus at a port. Raises OSError where another program has it."""
    with _lock:
        server = _servers.get(port)
        if server is None:
            server = _servers[port] = _Server(port)
            threading.Thread(target=server.serve_forever, args=[0.1], name="message_bus metrics", daemon=True).start()
        server.buses[key] = shown


def hide(port: int, key: int) -> None:
    """Shows a bus no more; with the last one the port is free. Blocks for a moment."""
    with _lock:
        server = _servers.get(port)
        if server is None:
            return
        server.buses.pop(key, None)
        if server.buses:
            return
        del _servers[port]
        server.shutdown()
        server.server_close()
