"""Standard error for a process that must not wait for whoever reads it.

The journal may be stopped, and a pipe may have a reader that is busy: what does not fit is left
out, and how much that was is said before the next line that fits. Children have the same standard
error and expect it to block, so the descriptor itself stays as it is.
"""

import contextlib
import functools
import os
import select
import socket
import stat


class ErrorStream:
    """Writes lines whole or, where nobody reads them, not at all."""

    def __init__(self, descriptor: int) -> None:
        """Write where `descriptor` leads to."""
        self._descriptor = os.dup(descriptor)
        self._socket: socket.socket | None = None
        self._rest = b""  # of what did not fit as a whole
        self._lost = 0
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=self._descriptor)
        elif stat.S_ISFIFO(mode):
            # Opened anew it does not block for us alone (pipe(7): O_NONBLOCK of an open file).
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # somebody else's: `select` has to do
                opened = os.open(f"/proc/self/fd/{descriptor}", flags)
                os.close(self._descriptor)
                self._descriptor = opened

    def close(self) -> None:
        """Let go of it; standard error itself stays open."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)

    def write(self, text: str) -> None:
        """Write text, as `logging` does."""
        self.write_bytes(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing is kept back."""

    def write_bytes(self, data: bytes) -> None:
        """Write whole lines; nothing is raised for whoever reads them no more."""
        if self._rest:
            self._rest = self._rest[self._send(self._rest) :]
        if self._rest:
            self._lost += data.count(b"\n")
            return
        if self._lost:
            data = b"<4>%d lines are missing here: nobody read them\n" % self._lost + data
        sent = self._send(data)
        if sent:
            self._rest = data[sent:]
            self._lost = 0
        else:
            self._lost += data.count(b"\n") - bool(self._lost)

    def _send(self, data: bytes) -> int:
        """Give how much was taken; what is not because nobody is there counts as taken."""
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            if not select.select([], [self._descriptor], [], 0.0)[1]:
                return 0
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)


@functools.cache
def shared() -> ErrorStream:
    """The one of this process."""
    return ErrorStream(2)
