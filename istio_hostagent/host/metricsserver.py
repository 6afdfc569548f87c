"""Answer scrapes of one page at a listening socket, for a process that must stay small.

HTTP/1.1 as far as a scraper needs it: the first line of a request is looked at, the rest is read
and forgotten, and each connection gets one answer. Whoever is slow is cut off, so that nobody
keeps others waiting. Not here: what the page says.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable

_MOST_REQUEST = 8192
_MOST_CLIENTS = 32
# A scraper on this machine sends its request at once.
_PATIENCE_S = 2.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATHS = (b"/metrics", b"/")


class MetricsServer:
    """One listener, and those who are connected."""

    def __init__(
        self, listener: socket.socket, render: Callable[[], str], *, idle_s: float
    ) -> None:
        """Serve what `render` gives; end when nobody has come for `idle_s` seconds."""
        listener.setblocking(False)
        self._listener = listener
        self._render = render
        self._idle_s = idle_s
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        # Each with what it has sent, and when it is cut off (monotonic seconds).
        self._clients: dict[int, tuple[socket.socket, bytearray, float]] = {}

    def serve(self) -> None:
        """Answer until nobody comes any more."""
        quiet_at = time.monotonic() + self._idle_s
        while True:
            now = time.monotonic()
            due_at = min([quiet_at, *(at for _, _, at in self._clients.values())])
            for descriptor, _ in self._poll.poll(max(due_at - now, 0.0) * 1000):
                if descriptor == self._listener.fileno():
                    quiet_at = time.monotonic() + self._idle_s
                    self._accept()
                else:
                    self._read(descriptor)
            now = time.monotonic()
            for descriptor in [each for each, held in self._clients.items() if held[2] <= now]:
                self._forget(descriptor)
            if now >= quiet_at and not self._clients:
                return

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it has gone away again
        if len(self._clients) >= _MOST_CLIENTS:
            self._forget(next(iter(self._clients)))
        client.setblocking(False)
        self._clients[client.fileno()] = client, bytearray(), time.monotonic() + _PATIENCE_S
        self._poll.register(client, select.POLLIN)

    def _forget(self, descriptor: int) -> None:
        client, _, _ = self._clients.pop(descriptor)
        self._poll.unregister(descriptor)
        client.close()

    def _read(self, descriptor: int) -> None:
        if descriptor not in self._clients:
            return  # cut off in the same round
        client, request, _ = self._clients[descriptor]
        try:
            part = client.recv(_MOST_REQUEST)
        except OSError:
            part = b""
        request += part
        if b"\r\n\r\n" in request or b"\n\n" in request:
            # The kernel takes the page as a whole, or the client, who may be gone, gets none.
            with contextlib.suppress(OSError):
                client.sendall(self._answer(bytes(request)))
        elif part and len(request) < _MOST_REQUEST:
            return
        self._forget(descriptor)

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.split(b"\n", 1)[0].partition(b" ")
        path = rest.split(b" ")[0].split(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _pack("405 Method Not Allowed", "only GET\n", has_body=True)
        if path not in _PATHS:
            return _pack("404 Not Found", "see /metrics\n", has_body=method == b"GET")
        return _pack("200 OK", self._render(), has_body=method == b"GET")


def _pack(status: str, text: str, *, has_body: bool) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
