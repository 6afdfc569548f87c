"""Runs a program of this host to its end: what it writes, or why it failed."""

import contextlib
import os
from collections.abc import Callable, Sequence

from ..errors import HostAgentError
from . import processes

_MAX_OUTPUT = 8 << 20


class _Run(processes.Run):
    """A program whose whole output is read."""

    def read(self, timeout_s: float) -> str:
        self.child.wait(timeout_s)
        return self._take(_MAX_OUTPUT).decode(errors="replace")


def run(
    argv: Sequence[str],
    text: str = "",
    *,
    timeout_s: float,
    failed: Callable[[str], HostAgentError],
) -> str:
    """Run a program and give what it writes; raises `failed` with the line that says why not."""
    with contextlib.ExitStack() as opened:
        descriptors = []
        for name in ("input", "errors"):
            descriptors.append(os.memfd_create(name, os.MFD_CLOEXEC))
            opened.callback(os.close, descriptors[-1])
        source, errors = descriptors
        os.write(source, text.encode())
        os.lseek(source, 0, os.SEEK_SET)
        name = os.path.basename(argv[0])
        try:
            started = _Run(argv, stdin=source, errors=errors)
        except OSError as error:
            raise failed(f"{name} cannot be started: {error.strerror}") from error
        output = started.read(timeout_s)
        status = started.child.wait(processes.STUCK_S)
        if status == 0:
            return output
        said = os.pread(errors, processes.MAX_ERRORS, 0).decode(errors="replace").splitlines()
        said = [line.strip() for line in said if "Error" in line or line.startswith(name)] or said
        text = said[0] if said else processes.outcome(status)
        line = "".join(each if each.isprintable() else "?" for each in text)
        raise failed(f"{name}: {line[: processes.MAX_LINE]}")
