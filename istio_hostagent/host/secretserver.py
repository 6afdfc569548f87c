"""The sockets of the secret server: who may connect, who is waited for, when it ends.

One thread, one epoll(7) instance, and no wake-up while nothing happens. Always: only root and the
user we run as are let in, told by the kernel (SO_PEERCRED, unix(7)); a client that does not read
is not read from either, and gets the newest secrets once it does; what a client does ends at most
its own connection. Not here: what is said to a client (`sds.connection`), and the files
(`secretfiles`).
"""

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from ..sds import connection, secrets
from . import secretfiles

# Envoy has one connection. With all of these taken one that asks for nothing makes room.
MAX_CLIENTS = 32
_BACKLOG = 128
_READ_BYTES = 65536
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
# Said once until the secrets change; what is above this number is not said at all.
_MAX_REMARKS = 64
# inotify(7) tells when these are over. After another failure files are read again so much later.
_TOLD = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EFBIG, errno.ELOOP)
RETRY_S = 5.0


class _Client:
    """One connection, and what its peer has not taken yet."""

    __slots__ = ("connection", "is_behind", "sock", "unsent")

    def __init__(self, sock: socket.socket, made: connection.Connection) -> None:
        self.sock, self.connection = sock, made
        self.unsent = b""
        self.is_behind = False  # there are new secrets since it was last written to

    def refill(self, held: secrets.Secrets) -> bool:
        """Take what is to be sent next, once all before is gone; whether there is anything."""
        if self.is_behind:
            self.is_behind = False
            self.connection.push(held)
        self.unsent = self.connection.take_output()
        return bool(self.unsent)


class SecretServer:
    """Serves until there is nobody to serve, or for ever."""

    def __init__(
        self,
        listener: socket.socket,
        files: secretfiles.SecretFiles,
        say: Callable[[str], None],
        *,
        idle_s: float | None,
    ) -> None:
        """`say` writes a line of the log; `idle_s`: wait so long for a client, None: for ever."""
        self._listener, self._files = listener, files
        self._held: secrets.Secrets = {}
        self._say, self._idle_s = say, idle_s
        self._uids = frozenset((0, os.geteuid()))
        self._clients: dict[int, _Client] = {}  # the first to come first
        self._remarks: set[str] = set()
        self._due: float | None = None
        self._is_behind = False  # files could not be read, and no change of them will be told
        self._shut_until: float | None = None  # for want of a descriptor nobody is let in
        self._poll = select.epoll()
        listener.setblocking(False)
        self._poll.register(listener, select.EPOLLIN)
        self._poll.register(files.descriptor, select.EPOLLIN)

    def serve(self) -> None:
        """Serve; returns once nobody has been there for `idle_s`."""
        self._read_files()
        while True:
            ready = self._poll.poll(self._timeout_s())
            if not ready and not self._moments:
                return
            for descriptor, mask in ready:
                self._handle(descriptor, mask)
            if self._shut_until is not None and time.monotonic() >= self._shut_until:
                self._open()
            if self._due is not None and time.monotonic() >= self._due:
                self._read_files()

    @property
    def _moments(self) -> list[float]:
        """When there is something to do without an event (monotonic seconds)."""
        return [each for each in (self._due, self._shut_until) if each is not None]

    def _timeout_s(self) -> float | None:
        if self._moments:
            return max(min(self._moments) - time.monotonic(), 0.0)
        return None if self._clients else self._idle_s

    def _handle(self, descriptor: int, mask: int) -> None:
        if descriptor == self._listener.fileno():
            self._accept()
        elif descriptor == self._files.descriptor:
            self._look()
        elif (client := self._clients.get(descriptor)) is not None:
            if mask & select.EPOLLIN and not client.unsent:
                self._receive(client)
            self._send(client)

    # -- files ----------------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._files.has_changed():
            return
        if self._files.is_swapped:
            self._read_files()
        elif self._due is None:
            self._due = time.monotonic() + secretfiles.QUIET_S

    def _read_files(self) -> None:
        """Give out what is on disk; a set that is not complete changes nothing."""
        self._due = None
        try:
            files = self._files.read()
        except OSError as error:
            place = error.filename or "files"
            self._remark(f"{place}: {error.strerror}; what was given out before stays")
            self._is_behind = error.errno not in _TOLD
            if self._is_behind and self._clients:
                self._due = time.monotonic() + RETRY_S
            return
        self._is_behind = False
        before, self._held = self._held, secrets.make(files.key, files.chain, files.root)
        if self._held == before:
            return
        self._remarks.clear()
        self._say(f"secrets given out anew, clients: {len(self._clients)}")
        for client in list(self._clients.values()):
            client.is_behind = True
            self._send(client)

    # -- clients --------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            # These two mean that the client has gone again.
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):
                self._remark(f"a client could not be let in: {error.strerror}")
                self._shut()
            return
        pid, uid = _peer(sock)
        if uid not in self._uids:
            self._remark(f"a client was refused: process {pid} of user {uid}")
            sock.close()
            return
        if len(self._clients) >= MAX_CLIENTS and not self._make_room():
            self._remark(f"a client was refused: process {pid}, {MAX_CLIENTS} others are served")
            sock.close()
            return
        sock.setblocking(False)
        made = connection.Connection(self._held, lambda text: self._remark(text, pid))
        client = _Client(sock, made)
        self._clients[sock.fileno()] = client
        self._poll.register(sock, select.EPOLLIN)
        if self._is_behind and self._due is None:
            self._due = time.monotonic()
        self._send(client)

    def _shut(self) -> None:
        """Let nobody in for a while: a client that waits makes the listener ready all the time."""
        self._poll.modify(self._listener, 0)
        self._shut_until = time.monotonic() + RETRY_S

    def _open(self) -> None:
        self._poll.modify(self._listener, select.EPOLLIN)
        self._shut_until = None

    def _make_room(self) -> bool:
        for client in self._clients.values():
            if client.connection.is_idle:
                self._drop(client)
                return True
        return False

    def _receive(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            client.connection.receive(data)
        else:
            self._drop(client)

    def _send(self, client: _Client) -> None:
        """Send what there is, as far as the client reads; then wait for what is possible next."""
        if client.sock.fileno() < 0:
            return
        try:
            while client.unsent or client.refill(self._held):
                client.unsent = client.unsent[client.sock.send(client.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            client.unsent, client.connection.is_over = b"", True
        if client.connection.is_over and not client.unsent:
            self._drop(client)
        else:
            wanted = select.EPOLLOUT if client.unsent else select.EPOLLIN
            self._poll.modify(client.sock, wanted)

    def _drop(self, client: _Client) -> None:
        if client.sock.fileno() >= 0:
            del self._clients[client.sock.fileno()]
            client.sock.close()  # which ends the look of epoll(7) at it, too
            if self._shut_until is not None:
                self._open()

    def _remark(self, text: str, pid: int = 0) -> None:
        line = f"{text} (process {pid})" if pid else text
        if line not in self._remarks and len(self._remarks) < _MAX_REMARKS:
            self._remarks.add(line)
            self._say(line)


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Pid and uid of whoever has connected, as the kernel kept them then."""
    size = _CREDENTIALS.size
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def listen(path: str) -> socket.socket:
    """Make a socket that only root and our user reach, in place of whatever had that name.

    It is never absent and never open to others: made aside, then renamed. Raises OSError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    aside = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    before = os.umask(0o177)
    try:
        listener.bind(aside)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    os.rename(aside, path)
    return listener
