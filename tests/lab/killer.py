"""Kills a worker of the agent at the moment at which it appears."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Self

from tests.lab import netns


class WorkerKiller:
    """Kills the first worker of one name that appears in a namespace, once."""

    def __init__(self, namespace: netns.Namespace, name: str) -> None:
        self._namespace = namespace
        self._name = name.encode()
        self.killed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # /proc is read here: to start `ip netns pids` takes longer than some workers live.
        inode = self._namespace.inode
        while not self._stop.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    is_it = self._name in words and any(b"launch.py" in word for word in words)
                    if is_it and os.stat(f"/proc/{pid}/ns/net").st_ino == inode:
                        os.kill(int(pid), signal.SIGKILL)
                        self.killed.set()
                        return
