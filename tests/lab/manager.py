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

# What no service sends.
_END, _CATCH_UP = b"END", b"CATCH UP"


class Manager:
    """A context manager: leaving it closes what is kept."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="hatest-manager-"))
        self._path = self._directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._lock = threading.Lock()
        self._kept: list[tuple[str, int]] = []
        self._has_caught_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Manager":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._send(_END)
        self._thread.join(10)
        self._socket.close()
        self.end()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def names(self) -> list[str]:
        """Under which names something is kept."""
        with self._lock:
            return [name for name, _ in self._kept]

    def hand_over(
        self, argv: Sequence[str], python: str
    ) -> tuple[list[str], dict[str, str], tuple[int, ...]]:
        """The command that hands over what is kept, what it is told, and what it inherits."""
        self._catch_up()
        told = {"NOTIFY_SOCKET": str(self._path), "FDSTORE": "16"}
        with self._lock:
            kept = list(self._kept)
        if not kept:
            return list(argv), told, ()
        told["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)
        numbers = tuple(descriptor for _, descriptor in kept)
        return [python, "-c", _WRAPPER, ",".join(map(str, numbers)), *argv], told, numbers

    def _catch_up(self) -> None:
        """Wait until all that was sent before is read, also by a service that is dead now."""
        self._has_caught_up.clear()
        self._send(_CATCH_UP)
        assert self._has_caught_up.wait(60)

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, str(self._path))

    def end(self) -> None:
        """Close everything that is kept, the rules first: the service was stopped."""
        if self._thread.is_alive():
            self._catch_up()
        with self._lock:
            kept, self._kept = sorted(self._kept, key=lambda each: each[0] != "nft"), []
        for _, descriptor in kept:
            os.close(descriptor)

    def _serve(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(
                1 << 16, socket.CMSG_SPACE(64 * array.array("i").itemsize)
            )
            if data == _END:
                return
            if data == _CATCH_UP:
                self._has_caught_up.set()
                continue
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
