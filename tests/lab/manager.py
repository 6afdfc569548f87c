"""A service manager as small as can be: it keeps descriptors over restarts, as systemd does.

    with Manager() as manager:
        host.manager = manager
        host.start()

See sd_notify(3) (FDSTORE, FDSTOREREMOVE) and sd_listen_fds(3). Who starts, kills and stops the
agent is the test; `stop` of a Host is what a restart does, and `end` what follows a stop.
"""

import array
import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

# It moves the descriptors that it inherits to where a service expects them, and becomes it.
_WRAPPER = """
import os, sys
names = os.environ["LISTEN_FDNAMES"].split(":")
found = [os.dup2(int(number), 200 + place) for place, number in enumerate(sys.argv[1].split(","))]
for place, number in enumerate(found):
    os.dup2(number, 3 + place)
    os.close(number)
os.closerange(3 + len(found), 200)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), str(len(found))
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """A context manager: leaving it closes what is kept."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hatest-manager-"))
        self._path = self._directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._lock = threading.Lock()
        self._kept: list[tuple[str, int]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Manager":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"END", str(self._path))
        self._thread.join(10)
        self._socket.close()
        self.end()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def names(self) -> list[str]:
        """Under which names something is kept."""
        with self._lock:
            return [name for name, _ in self._kept]

    def environment(self) -> dict[str, str]:
        """What the service is told."""
        told = {"NOTIFY_SOCKET": str(self._path), "FDSTORE": "16"}
        return told | ({"LISTEN_FDNAMES": ":".join(self.names)} if self._kept else {})

    def descriptors(self) -> tuple[int, ...]:
        """What the service inherits."""
        with self._lock:
            return tuple(descriptor for _, descriptor in self._kept)

    def wrap(self, argv: Sequence[str], python: str) -> list[str]:
        """The command that hands over what is kept."""
        numbers = ",".join(map(str, self.descriptors()))
        return [python, "-c", _WRAPPER, numbers, *argv] if numbers else list(argv)

    def end(self) -> None:
        """Close everything that is kept, the rules first: the service was stopped."""
        with self._lock:
            kept, self._kept = sorted(self._kept, key=lambda each: each[0] != "nft"), []
        for _, descriptor in kept:
            os.close(descriptor)

    def _serve(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(
                1 << 16, socket.CMSG_SPACE(64 * array.array("i").itemsize)
            )
            if data == b"END":
                return
            descriptors = array.array("i")
            for _level, _kind, content in ancillary:
                descriptors.frombytes(content)
            self._take(dict(line.split("=", 1) for line in data.decode().split("\n")), descriptors)

    def _take(self, told: dict[str, str], descriptors: Sequence[int]) -> None:
        name = told.get("FDNAME", "stored")
        with self._lock:
            if told.get("FDSTOREREMOVE") == "1":
                gone = [each for each in self._kept if each[0] == name]
                self._kept = [each for each in self._kept if each not in gone]
                for _, descriptor in gone:
                    os.close(descriptor)
            for descriptor in descriptors:
                if told.get("FDSTORE") == "1" and not self._has(descriptor):
                    self._kept.append((name, descriptor))
                else:
                    with contextlib.suppress(OSError):
                        os.close(descriptor)

    def _has(self, descriptor: int) -> bool:
        def file_of(number: int) -> tuple[int, int]:
            found = os.fstat(number)
            return found.st_dev, found.st_ino

        return any(file_of(descriptor) == file_of(kept) for _, kept in self._kept)
