"""What a worker opens and the agent uses, handed over one way (unix(7), SCM_RIGHTS).

Not here: what that is, and what for. What is handed over and never taken is closed by the kernel.
"""

import array
import io
import os
import socket
import stat
from collections.abc import Sequence

# The worker's end, beside standard streams and the package (processes.PACKAGE_DESCRIPTOR).
DESCRIPTOR = 4
# The kernel takes at most 253 in one message (SCM_MAX_FD).
_AT_ONCE = 200


class Handover:
    """The agent's end, and until the worker has it the worker's too."""

    def __init__(self) -> None:
        """Make both ends; raises OSError."""
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    def fileno(self) -> int:
        """The worker's end, to be inherited."""
        return self._theirs.fileno()

    def started(self) -> None:
        """The worker has its end now, or will never have it."""
        self._theirs.close()

    def take(self) -> list[socket.socket | io.FileIO]:
        """Give all that has come, once the worker has ended, and close our end."""
        descriptors = array.array("i")
        room = socket.CMSG_SPACE(_AT_ONCE * descriptors.itemsize)
        with self._ours:
            while True:
                try:
                    data, ancillary, _, _ = self._ours.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
                except BlockingIOError:
                    break
                for level, kind, content in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        whole = len(content) - len(content) % descriptors.itemsize
                        descriptors.frombytes(content[:whole])
                if not data:
                    break
        return list(map(_wrap, descriptors))


def _wrap(descriptor: int) -> socket.socket | io.FileIO:
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return socket.socket(fileno=descriptor)
    return io.FileIO(descriptor, "r+b")


def give(sockets: Sequence[socket.socket | io.FileIO]) -> None:
    """Hand these over, from within the worker; raises OSError."""
    with socket.socket(fileno=DESCRIPTOR) as channel:
        for start in range(0, len(sockets), _AT_ONCE):
            part = [each.fileno() for each in sockets[start : start + _AT_ONCE]]
            socket.send_fds(channel, [b"."], part)
