"""The table of the mesh's names that istiod has sent last, on disk: for a start while it is away.

    names of the mesh for WHOM       one line: another cluster, or namespace, has others
    a message of istiod's            as it came

Written by the resolver, as istio-proxy, and read by nobody else. A table that cannot be kept, or
read, is no error: istiod tells it again.
"""

from collections.abc import Callable

from ..names import discovery
from . import eventpoll, files

# A mesh may change all the time, and each table is written as a whole.
PAUSE_S = 10.0


class KeptNames:
    """One file."""

    def __init__(
        self, path: str, whose: str, poll: eventpoll.EventPoll, say: Callable[[str], None]
    ) -> None:
        """`whose`: of which mesh, as who, in one line."""
        self._path, self._poll, self._say = path, poll, say
        self._head = f"names of the mesh for {whose!r}\n".encode()
        self._message: bytes | None = None  # to be written
        self._is_pausing = False
        self._has_failed = False

    def read(self) -> bytes | None:
        """The message that was kept for them, if there is one."""
        try:
            data = files.read_bounded(self._path, len(self._head) + discovery.MAX_BYTES)
        except OSError:
            return None
        return data.removeprefix(self._head) if data.startswith(self._head) else None

    def take(self, message: bytes) -> None:
        """Keep this one, now or soon."""
        self._message = message
        if not self._is_pausing:
            self._write()

    def _write(self) -> None:
        self._is_pausing = False
        message, self._message = self._message, None
        if message is None:
            return
        self._is_pausing = True
        self._poll.after(PAUSE_S, self._write)
        if self.read() == message:
            return
        try:
            files.write_atomically(self._path, self._head + message)
        except OSError as error:
            if not self._has_failed:
                self._say(f"the names of the mesh are not kept for a restart: {error.strerror}")
            self._has_failed = True
        else:
            self._has_failed = False
