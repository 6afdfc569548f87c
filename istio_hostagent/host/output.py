"""The standard output of a long-lived child: passed on to our own log, the last lines kept."""

import collections
import fcntl
import os
from typing import Any

from . import errorstream, mailbox

TAIL_LINES = 20
MAX_LINE = 65536
# Of lines that are marked: so many, in about so many reads, and the begin of each.
MARKED_LINES, MARKED_BYTES = 64, 1024


class OutputPipe:
    """One pipe from a child; `write_end` is given to it and closed here after the spawn.

    Envoy opens /dev/stdout again by name for its access log: the pipe must belong to its user
    (pipefs checks the mode like any file system), and it must block, as programs expect of it.
    """

    def __init__(
        self, inbox: mailbox.Mailbox[Any], name: str, uid: int, gid: int, mark: str = ""
    ) -> None:
        """Make the pipe; raises OSError. Lines with `mark` are kept for longer."""
        self._mark = mark.encode()
        self._marked: list[bytes] = []
        self._inbox = inbox
        self._prefix = f"{name}: ".encode()
        self._partial = b""
        self._tail: collections.deque[bytes] = collections.deque(maxlen=TAIL_LINES)
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.fchown(self.write_end, uid, gid)
        fcntl.fcntl(self.write_end, fcntl.F_SETFL, 0)
        inbox.watch(self._read_end, self._drain)

    def handed_over(self) -> None:
        """The child has it now (or will never be): close our copy of the write end."""
        os.close(self.write_end)

    def _drain(self) -> None:
        try:
            part = os.read(self._read_end, 65536)
        except BlockingIOError:
            return
        if not part:
            self.close()
            return
        lines = (self._partial + part).split(b"\n")
        self._partial = lines.pop()[-MAX_LINE:]
        self._tail.extend(lines)
        if self._mark and len(self._marked) < MARKED_LINES:
            self._marked += [line[:MARKED_BYTES] for line in lines if self._mark in line]
        if lines:
            passed = b"".join(self._prefix + line + b"\n" for line in lines)
            errorstream.shared().write_bytes(passed)

    def tail(self) -> tuple[str, ...]:
        """Return the last lines, after taking what has not been read yet."""
        if self._read_end >= 0:
            self._drain()
        return tuple(line.decode(errors="replace") for line in self._tail)

    def marked(self) -> tuple[str, ...]:
        """Return the first lines that had the mark."""
        return tuple(line.decode(errors="replace") for line in self._marked)

    def close(self) -> None:
        """Stop reading; may be called twice."""
        if self._read_end >= 0:
            self._inbox.forget(self._read_end)
            os.close(self._read_end)
            self._read_end = -1
