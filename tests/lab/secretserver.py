"""The shipped secret server as a process of the proxy's user, with or without a socket handed over."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from istio_hostagent.workers import launch

from .waiting import eventually

PYTHON = "/usr/bin/python3"
LAUNCH = Path(launch.__file__)
# systemd passes the first descriptor as number 3, and names the process that it is for.
_ACTIVATED = 'exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" </dev/null'


class SecretServer:
    """One run of it."""

    def __init__(
        self,
        directory: Path,
        path: Path,
        uid: int,
        *,
        listener: socket.socket | None = None,
        open_files: int = 0,
    ) -> None:
        """With `listener`, a socket that listens at `path`, as systemd does it.

        `open_files`: its soft limit, the hard one is twice that; 0: those of this process.
        """
        self.path = path
        self._log = path.with_suffix(".log")
        self._log.touch()
        user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--pdeathsig=KILL"]
        program = [PYTHON, "-IS", str(LAUNCH), "secrets", str(directory)]
        argv: Sequence[str]
        if listener is None:
            argv = ["/usr/bin/setpriv", *user, *program, str(path)]
        else:
            argv = ["/usr/bin/setpriv", *user, "/bin/sh", "-c", _ACTIVATED, "sh", *program]
        if open_files:
            argv = ["/usr/bin/prlimit", f"--nofile={open_files}:{2 * open_files}", *argv]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=listener.fileno() if listener else subprocess.DEVNULL,
                stderr=log,
                env={"LC_ALL": "C"},
            )
        if listener is None:
            eventually(self._listens, f"the server listens: {self.log()}")

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.log()
        return self.path.is_socket()

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text()

    def wait_log(self, text: str, count: int = 1) -> None:
        eventually(lambda: self.log().count(text) >= count, f"{text!r} in the log: {self.log()}")

    def wait(self) -> int:
        return self._process.wait(30)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(30)

    def rollup(self, key: str) -> int:
        """A figure of /proc/PID/smaps_rollup, kB."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))

    def ticks(self) -> int:
        """Time on a processor so far: utime and stime of proc_pid_stat(5)."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])

    def core_limit(self) -> list[str]:
        """Soft and hard."""
        lines = Path(f"/proc/{self.pid}/limits").read_text().splitlines()
        return next(line.split()[4:6] for line in lines if line.startswith("Max core file"))


def listen(path: Path, uid: int) -> socket.socket:
    """A socket as the socket unit makes it."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    os.chown(path, uid, uid)
    path.chmod(0o600)
    made.listen(128)
    return made


def run_as(uid: int, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines of Python as another user."""
    user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    program = [sys.executable if uid == 0 else PYTHON, "-c", code, *arguments]
    argv = ["/usr/bin/setpriv", *user, *program]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)
