"""The control socket and the lock of one network namespace (design invariant 10).

Both carry the inode of the namespace in their names and lie in one fixed directory, so that
several agents in several namespaces of one machine never meet; the name of an agent beside others
(`instances`) is part of them, too. One JSON line each way. Only root and whose agent it is may
connect: the socket's mode says so and the peer's credentials are looked at as well.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..errors import AgentUnreachable, NotPermitted
from . import instances, mailbox

Event = TypeVar("Event")

DIRECTORY = "/run/istio-hostagent"
MAX_LINE = 1 << 20
# More clients than this that have not finished their line: the oldest is cut off.
MAX_CLIENTS = 64
_LEAST_ROOM = 65536
_SO_SNDBUFFORCE = 32  # linux: asm-generic/socket.h; needs CAP_NET_ADMIN, as the rules do
# Between two looks for an agent that is still starting, or for a lock.
MIN_PAUSE_S = 0.05


def namespace_inode() -> int:
    """The inode of the network namespace this process is in (namespaces(7))."""
    return os.stat("/proc/self/ns/net").st_ino


def path_of(kind: str) -> str:
    """The path of this namespace's `sock` or `lock`; raises NotPermitted."""
    name = instances.own()
    directory = instances.control_directory() if instances.is_users() else DIRECTORY
    names = (str(namespace_inode()), *([name] if name else ()), kind)
    return os.path.join(directory, ".".join(names))


def has(kind: str) -> bool:
    """Whether there is a file of this kind."""
    return os.path.exists(path_of(kind))


class Lock:
    """A lock of this network namespace (flock(2)).

    Whoever holds the one called `lock` may change the rules here.
    """

    def __init__(self, kind: str = "lock") -> None:
        """Open the lock file without taking the lock; raises NotPermitted."""
        path = path_of(kind)
        try:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(path, flags, 0o600)
        except PermissionError as error:
            hint = f"with {instances.KEY}=NAME a user may have an agent of their own"
            raise NotPermitted(f"cannot open {path}: run as root", hint=hint) from error

    def take(self, *, within_s: float = 0.0, is_shared: bool = False) -> bool:
        """Take it if nobody has it, or gives it back so soon; says whether we have it now.

        `is_shared`: beside others who took it so.
        """
        mode = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        end = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(self._descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(MIN_PAUSE_S, left))
            else:
                return True

    def wait(self) -> None:
        """Take it once nobody else has it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def write(self, text: bytes) -> None:
        """Say something to whoever finds it taken."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def read(self) -> bytes:
        """What the last holder said."""
        return os.pread(self._descriptor, 4096, 0)

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


class Caller:
    """One connected client: a request that has come in whole, waiting for its one answer."""

    def __init__(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Keep the connection until it is answered."""
        self._connection = connection
        self.request = request

    def answer(self, value: dict[str, Any]) -> None:
        """Send one line and hang up; a client that has gone away is no error.

        The kernel takes the line as a whole, and nobody waits for the client to read it.
        """
        line = json.dumps(value).encode() + b"\n"
        # Twice: what manages a buffer counts as well (socket(7)).
        room = 2 * len(line) + _LEAST_ROOM
        with contextlib.suppress(PermissionError):
            self._connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, room)
        with contextlib.suppress(OSError):
            self._connection.sendall(line)
        self._connection.close()

    def hang_up(self) -> None:
        """Close without an answer."""
        self._connection.close()


class ControlServer(Generic[Event]):
    """The listening end. It never blocks: a client that sends half a line waits, not the agent."""

    def __init__(self, inbox: mailbox.Mailbox[Event], make: Callable[[Caller], Event]) -> None:
        """Listen in this namespace; call only while holding its `Lock`. Raises OSError."""
        self._inbox = inbox
        self._make = make
        self._partial: dict[int, tuple[socket.socket, bytearray]] = {}
        path = path_of("sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # left by an agent that was killed: we hold the lock, nobody listens
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen(MAX_CLIENTS)
        self._path = path
        inbox.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        if len(self._partial) >= MAX_CLIENTS:
            self._forget(next(iter(self._partial))).close()
        with contextlib.suppress(OSError):  # it has gone away, or descriptors are short
            connection, _ = self._listener.accept()
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            _, uid, _ = struct.unpack("=III", credentials)
            if uid not in (0, os.geteuid()):
                connection.close()
                return
            connection.setblocking(False)
            descriptor = connection.fileno()
            self._partial[descriptor] = (connection, bytearray())
            self._inbox.watch(descriptor, lambda: self._read(descriptor))

    def _forget(self, descriptor: int) -> socket.socket:
        self._inbox.forget(descriptor)
        return self._partial.pop(descriptor)[0]

    def _read(self, descriptor: int) -> Event | None:
        if descriptor not in self._partial:
            return None  # cut off in the same turn
        connection, line = self._partial[descriptor]
        try:
            part = connection.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        line += part
        if part and b"\n" not in line and len(line) < MAX_LINE:
            return None
        self._forget(descriptor)
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            connection.close()
            return None
        return self._make(Caller(connection, request))

    def close(self) -> None:
        """Stop listening and remove the socket; clients that still wait are cut off."""
        for connection, _ in self._partial.values():
            self._inbox.forget(connection.fileno())
            connection.close()
        self._inbox.forget(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def ask_when_there(request: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
    """Like `ask`, and wait for an agent to appear or to come back; None if none did in time."""
    end = time.monotonic() + timeout_s
    while (left := end - time.monotonic()) > 0:
        try:
            answer = ask(request, left)
        except AgentUnreachable:
            answer = None  # it ended meanwhile, or the time is over
        if answer is not None:
            return answer
        time.sleep(min(MIN_PAUSE_S, left))
    return None


def ask(request: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
    """Ask the agent of this network namespace; None if none runs here.

    Raises AgentUnreachable if one runs and does not answer within `timeout_s` seconds, and
    NotPermitted if we are not root.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            connection.connect(path_of("sock"))
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = bytearray()
            while part := connection.recv(65536):
                line += part
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as error:
            raise NotPermitted("only root may talk to the agent") from error
        except TimeoutError as error:
            message = f"the agent did not answer within {timeout_s:g} s"
            raise AgentUnreachable(message) from error
        except BlockingIOError as error:
            # How a unix socket says that too many wait to be let in (connect(2), EAGAIN).
            raise AgentUnreachable("the agent is busy with too many others") from error
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise
            line = bytearray()
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise AgentUnreachable("the agent ended before it answered") from error
    return dict(answer)
