"""The table of the mesh's names, as istiod sends it by way of Envoy's socket, and each new one.

What was sent last stays while there is no stream; it is asked for again ever more seldom.
Not here: what is said (`names.discovery`), and what the table means (`names.table`).
"""

import socket
from collections.abc import Callable

from ..names import discovery
from . import eventpoll

FIRST_PAUSE_S, SAID_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0, 3.0
_READ_BYTES = 65536


class NameStream:
    """Keeps one stream open."""

    def __init__(
        self,
        poll: eventpoll.EventPoll,
        path: str,
        request: bytes,
        take: Callable[[bytes], None],
        say: Callable[[str], None],
    ) -> None:
        """`path`: Envoy's socket; `take` gets each table and may raise ValueError."""
        self._poll, self._path, self._request = poll, path, request
        self._take, self._say = take, say
        self._socket: socket.socket | None = None
        self._stream = discovery.Stream()
        self._unsent = b""
        self._pause_s = FIRST_PAUSE_S
        self._said = ""
        self._open()

    def _open(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._stream = discovery.Stream()
        try:
            self._socket.connect(self._path)
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        self._unsent = self._request
        self._poll.watch(self._socket.fileno(), self._move)
        self._move()

    def _move(self) -> None:
        assert self._socket is not None
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            while data := self._socket.recv(_READ_BYTES):
                self._received(data)
            self._lost("Envoy has closed it")
        except BlockingIOError:
            mask = eventpoll.READ | (eventpoll.WRITE if self._unsent else 0)
            self._poll.watch(self._socket.fileno(), self._move, mask)
        except OSError as error:
            self._lost(error.strerror or str(error))
        except ValueError as error:
            self._lost(str(error))

    def _received(self, data: bytes) -> None:
        tables, answer = self._stream.receive(data)
        for table in tables:
            self._take(table)
            self._pause_s, self._said = FIRST_PAUSE_S, ""
        assert self._socket is not None
        self._unsent += answer
        if self._unsent:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _lost(self, why: str) -> None:
        """Say why, once until there is a table again, and try again later."""
        if self._socket is not None:
            self._poll.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        # Envoy takes its time to be there.
        if why != self._said and self._pause_s >= SAID_PAUSE_S:
            self._said = why
            self._say(f"istiod does not tell the names of the mesh: {why}; trying again")
        self._poll.after(self._pause_s, self._open)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
