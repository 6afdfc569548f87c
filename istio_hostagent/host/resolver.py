"""Answers queries for names: of the mesh by itself, of the world by this host's name servers.

UDP and TCP, on loopback alone. A query that is not for a name of the mesh goes on as it is, by the
same protocol, under another number and from a port of its own, and so comes back only what was
asked for. The servers of resolv.conf(5) are asked in turn; the file is read anew once it changes.
Before istiod has told the names for the first time nothing is known, so every query fails: what
is of the mesh would else be taken for a name of the world.
Not here: messages (`names.messages`), and whose queries come here (`redirect.names`).
"""

import contextlib
import os
import socket
from collections.abc import Callable

from ..names import messages, table
from . import eventpoll, resolvconf

_PORT = 53
# A server that has not answered for so long is given up.
PATIENCE_S = 2.0
# Queries that wait for a server, and connections of those who ask.
MAX_FORWARDED, MAX_CLIENTS = 256, 64
IDLE_S = 30.0
MAX_UNREAD = 1 << 18
_READ_BYTES = 65535
# With these another server is asked, as the C library does (RFC 1035, 4.1.1: SERVFAIL, NOTIMP,
# REFUSED).
_RCODE, _FAILURES = 15, (2, 4, 5)
_AT_ONCE = 64
_SELF = (bytes((127, 0, 0, 1)),)

Reply = Callable[[bytes], None]


class Resolver:
    """One resolver on sockets that are bound."""

    def __init__(self, poll: eventpoll.EventPoll, path: str = resolvconf.PATH) -> None:
        """`path`: the file that names this host's name servers."""
        self._poll, self._path = poll, path
        self._table: table.Table | None = None
        self._servers: tuple[str, ...] = ()
        self._read_at: object = None  # what the file was when it was read
        self._forwarded: dict[_Forward, None] = {}  # the oldest first
        self._clients: set[_Client] = set()

    def take(self, names: table.Table) -> None:
        """From now on these are the names of the mesh."""
        self._table = names

    def serve(self, bound: socket.socket) -> None:
        """Answer what arrives at a bound socket; one of TCP listens."""
        bound.setblocking(False)
        is_stream = bound.type == socket.SOCK_STREAM
        act = self._accept if is_stream else self._receive
        self._poll.watch(bound.fileno(), lambda: act(bound))

    def _receive(self, bound: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_AT_ONCE):
                try:
                    data, peer = bound.recvfrom(_READ_BYTES)
                except ConnectionError:
                    continue  # who asked before is gone
                self.ask(data, _replier(bound, peer), is_stream=False)

    def _accept(self, bound: socket.socket) -> None:
        try:
            made, _ = bound.accept()
        except OSError:
            return  # gone again already
        if len(self._clients) >= MAX_CLIENTS:
            made.close()
            return
        self._clients.add(_Client(self._poll, made, self.ask, self._clients.discard))

    def ask(self, data: bytes, reply: Reply, *, is_stream: bool) -> None:
        """Answer a query, at once or later."""
        try:
            query = messages.Query(data, is_stream=is_stream)
        except ValueError:
            _fail(data, reply)
            return
        if self._table is None:
            _fail(data, reply)
            return
        if query.name == messages.OWN_NAME:
            reply(messages.render_answer(query, _SELF if query.kind == messages.A else ()))
            return
        found = self._table.find(query.name, query.kind)
        if found is None:
            self._forward(data, query, reply, is_stream=is_stream)
            return
        # Each answer in another order spreads the load (RFC 1794).
        start = os.urandom(1)[0] % len(found) if found else 0
        reply(messages.render_answer(query, found[start:] + found[:start]))

    def _forward(
        self, data: bytes, query: messages.Query, reply: Reply, *, is_stream: bool
    ) -> None:
        def done(answer: bytes) -> None:
            self._forwarded.pop(made, None)
            if answer:
                reply(messages.renumbered(answer, query.number))
            else:
                _fail(data, reply)

        made = _Forward(self._poll, self._find_servers(), query.question, done, is_stream)
        if len(self._forwarded) >= MAX_FORWARDED:
            # Whoever has waited longest: servers that are silent must not fail what others answer.
            next(iter(self._forwarded)).fail()
        self._forwarded[made] = None
        made.ask(data)

    def _find_servers(self) -> tuple[str, ...]:
        try:
            status = os.stat(self._path)
            seen: object = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            return self._servers
        if seen != self._read_at:
            found = tuple(str(each) for each in resolvconf.read_name_servers(self._path))
            # While it is being written it may name none.
            self._servers, self._read_at = found or self._servers, seen
        return self._servers


def _replier(bound: socket.socket, peer: tuple[object, ...]) -> Reply:
    def reply(answer: bytes) -> None:
        # Whoever asks waits no more, or has no room: as if it had got lost.
        with contextlib.suppress(OSError):
            bound.sendto(answer, peer)

    return reply


def _fail(data: bytes, reply: Reply) -> None:
    if failure := messages.render_failure(data):
        reply(failure)


class _Forward:
    """One query that goes on to the servers of this host, one after the other."""

    def __init__(
        self,
        poll: eventpoll.EventPoll,
        servers: tuple[str, ...],
        question: bytes,
        done: Reply,
        is_stream: bool,
    ) -> None:
        self._poll, self._servers, self._question = poll, list(servers), question
        self._done, self._is_stream = done, is_stream
        self._socket: socket.socket | None = None
        self._number, self._data = 0, b""
        self._unsent, self._received = b"", b""
        self._tries = 0

    def ask(self, data: bytes) -> None:
        """Ask the next server, or give up: `done` gets nothing then."""
        self._data = data
        self._close()
        while self._servers:
            try:
                self._begin(self._servers.pop(0))
                return
            except OSError:
                self._close()  # no way there
        self._done(b"")

    def fail(self) -> None:
        """Give up now."""
        self._close()
        self._done(b"")

    def _begin(self, server: str) -> None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        kind = socket.SOCK_STREAM if self._is_stream else socket.SOCK_DGRAM
        self._socket = made = socket.socket(family, kind)
        made.setblocking(False)
        self._number = int.from_bytes(os.urandom(2), "big")
        asked = messages.renumbered(self._data, self._number)
        self._unsent = len(asked).to_bytes(2, "big") + asked if self._is_stream else asked
        self._received = b""
        with contextlib.suppress(BlockingIOError):
            made.connect((server, _PORT))
        self._tries += 1
        tries = self._tries
        self._poll.watch(made.fileno(), self._move, eventpoll.READ | eventpoll.WRITE)
        self._poll.after(PATIENCE_S, lambda: self._give_up(tries))

    def _move(self) -> None:
        made = self._socket
        assert made is not None
        try:
            if self._unsent:
                self._unsent = self._unsent[made.send(self._unsent) :]
                if self._unsent:
                    return
                self._poll.watch(made.fileno(), self._move)
            data = made.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.ask(self._data)
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        if self._is_stream:
            self._received += data
            size = int.from_bytes(self._received[:2], "big")
            if data and (len(self._received) < 2 or len(self._received) < size + 2):
                return
            data = self._received[2 : size + 2]
        if messages.is_answer(data, self._number, self._question):
            if data[3] & _RCODE in _FAILURES and self._servers:
                self.ask(self._data)
                return
            self._close()
            self._done(data)
        elif self._is_stream:
            self.ask(self._data)
        # Else somebody guesses: the answer may still come.

    def _give_up(self, tries: int) -> None:
        if self._socket is not None and tries == self._tries:
            self.ask(self._data)

    def _close(self) -> None:
        if self._socket is not None:
            self._poll.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None


class _Client:
    """One who asks by TCP, maybe several times."""

    def __init__(
        self,
        poll: eventpoll.EventPoll,
        made: socket.socket,
        ask: Callable[..., None],
        gone: Callable[["_Client"], None],
    ) -> None:
        self._poll, self._socket, self._ask, self._gone = poll, made, ask, gone
        self._received, self._unsent = b"", b""
        self._moves = 0
        made.setblocking(False)
        poll.watch(made.fileno(), self._move)
        poll.after(IDLE_S, lambda: self._look(0))

    def _look(self, moves: int) -> None:
        """End what has done nothing since."""
        if self._socket.fileno() < 0:
            return
        if self._moves == moves:
            self._close()
        else:
            moves = self._moves
            self._poll.after(IDLE_S, lambda: self._look(moves))

    def _move(self) -> None:
        self._moves += 1
        try:
            if self._unsent:
                self._send()
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._received += data
        while len(self._received) >= 2:
            size = int.from_bytes(self._received[:2], "big")
            if len(self._received) < size + 2:
                break
            query, self._received = self._received[2 : size + 2], self._received[size + 2 :]
            self._ask(query, self._reply, is_stream=True)

    def _reply(self, answer: bytes) -> None:
        if self._socket.fileno() < 0:
            return
        self._unsent += len(answer).to_bytes(2, "big") + answer
        try:
            self._send()
            if len(self._unsent) > MAX_UNREAD:
                self._close()
        except OSError:
            self._close()

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        mask = eventpoll.READ | (eventpoll.WRITE if self._unsent else 0)
        self._poll.watch(self._socket.fileno(), self._move, mask)

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            self._poll.forget(self._socket.fileno())
            self._socket.close()
            self._gone(self)
