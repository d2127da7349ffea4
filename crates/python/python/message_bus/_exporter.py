"""An address where the counts of buses are found as text: `metrics_port`, on this host only.

One thread serves all buses of a process that name the same port, from the first that opens something to the cleanup of the last. It
waits for no client: each is read and written as far as it goes, and let go when it takes too long.

Invariant: a bus that is cleaned up is not shown; a request can do nothing but read the text; clients cost one thread, however many
there are.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

from ._metrics import Shown, text_of

#: Seconds that a client has for its request and for the answer, whatever it says meanwhile.
PATIENCE = 5.0
#: Clients at once. One more takes the place of the oldest: who scrapes is done in a moment.
CLIENTS_MAX = 64
#: Bytes of a request with its headers. What is longer is no scrape.
REQUEST_BYTES_MAX = 16 << 10
#: Connections that the kernel keeps until there is time for them.
BACKLOG = 64


class _Client:
    """A connection: first what was read of its request, then what is left of the answer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until = time.monotonic() + PATIENCE
        self.request = b""
        self.answer: memoryview | None = None


class _Server:
    def __init__(self, port: int) -> None:
        self.buses: dict[int, Callable[[], Shown | None]] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._woken, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        #: The oldest first.
        self._clients: dict[socket.socket, _Client] = {}
        self._thread = threading.Thread(target=self._serve, name="message_bus metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; the port is free then."""
        self._wakes.close()
        self._thread.join()
        self.forget()

    def forget(self) -> None:
        """Closes what is open, of a thread that has ended or is another process's."""
        for one in (self._listener, self._woken, self._wakes, *self._clients):
            one.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            soonest = min((client.until for client in self._clients.values()), default=None)
            for key, _ in self._selector.select(None if soonest is None else max(0.0, soonest - time.monotonic())):
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._listener:
                    self._welcome()
                elif isinstance(key.data, _Client) and key.data.connection in self._clients:
                    self._go_on(key.data)
            now = time.monotonic()
            for client in [client for client in self._clients.values() if client.until <= now]:
                self._let_go(client)

    def _welcome(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # It went before we came, or descriptors are short: then the others must end first.
            time.sleep(0.01)
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._let_go(next(iter(self._clients.values())))
        connection.setblocking(False)
        client = self._clients[connection] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _let_go(self, client: _Client) -> None:
        del self._clients[client.connection]
        self._selector.unregister(client.connection)
        client.connection.close()

    def _go_on(self, client: _Client) -> None:
        """Reads or writes what goes without waiting."""
        try:
            if client.answer is None:
                heard = client.connection.recv(REQUEST_BYTES_MAX)
                client.request += heard
                if not heard or len(client.request) > REQUEST_BYTES_MAX:
                    self._let_go(client)
                    return
                if b"\r\n\r\n" not in client.request:
                    return
                client.answer = memoryview(self._answer(client.request))
                self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
            client.answer = client.answer[client.connection.send(client.answer) :]
            if not client.answer:
                self._let_go(client)
        except BlockingIOError:
            return
        except Exception:
            # It went away, or a bus that ends could not be shown: the next one is served all the same.
            self._let_go(client)

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method != b"GET" or path != b"/metrics":
            return b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        found = [shown() for shown in list(self.buses.values())]
        body = text_of([one for one in found if one is not None]).encode()
        kind = b"text/plain; version=0.0.4; charset=utf-8"
        head = b"HTTP/1.0 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (kind, len(body))
        return head + body


_lock = threading.Lock()
_servers: dict[int, _Server] = {}


def _forget() -> None:
    """In a child made by fork: the address is the parent's."""
    global _lock
    _lock = threading.Lock()
    for server in _servers.values():
        with contextlib.suppress(OSError):
            server.forget()
    _servers.clear()


os.register_at_fork(after_in_child=_forget)


def show(port: int, key: int, shown: Callable[[], Shown | None]) -> None:
    """Shows a bus at a port. Raises OSError where another program has it."""
    with _lock:
        server = _servers.get(port)
        if server is None:
            server = _servers[port] = _Server(port)
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
        server.close()
