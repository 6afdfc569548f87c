"""What the agents say, line by line as they say it, each with its time.

Their output goes to files, so that they live on when the demo is gone; the kernel tells of each
write (inotify(7)), and times are those of the moment a line was seen.
"""

import ctypes
import json
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_IN_MODIFY = 0x2
_FIELD = re.compile(r'\b([A-Z][A-Z_]+)=("(?:\\.|[^"\\])*"|\S*)')
_PROXY = "envoy: "


@dataclass(frozen=True)
class Line:
    """One line of the log of host `label`, seen at `at` (monotonic seconds)."""

    label: str
    at: float
    text: str

    @property
    def message(self) -> str:
        """The sentence, without level and fields."""
        found = _FIELD.search(self.text)
        sentence = self.text[: found.start()] if found else self.text
        return sentence.partition(": ")[2].strip()

    @property
    def fields(self) -> dict[str, str]:
        """What stands behind the sentence as NAME=value."""
        return {name: value.strip('"') for name, value in _FIELD.findall(self.text)}

    @property
    def access(self) -> dict[str, Any]:
        """The line of the proxy's access log that this is; empty if it is none."""
        if not self.text.startswith(_PROXY + "{"):
            return {}
        try:
            return dict(json.loads(self.text.removeprefix(_PROXY)))
        except ValueError:
            return {}


class Journal:
    """Follows files from now on. A context manager."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._news = threading.Condition()
        self._files: dict[str, tuple[IO[bytes], bytes]] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        self._add_watch = libc.inotify_add_watch
        self._descriptor: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._ends = socket.socketpair()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Journal":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ends[1].send(b"x")
        self._thread.join()
        for file, _ in self._files.values():
            file.close()
        for end in self._ends:
            end.close()
        os.close(self._descriptor)

    def follow(self, label: str, path: Path) -> None:
        """Take in what is written to `path` (made if absent) under this label."""
        path.touch()
        with self._news:
            # Closed by __exit__.
            self._files[label] = (path.open("rb"), b"")
        if self._add_watch(self._descriptor, os.fsencode(path), _IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))

    def mark(self) -> int:
        """Where the journal ends now: what comes later has this number or a higher one."""
        with self._news:
            return len(self._lines)

    def wait_for(
        self,
        what: str,
        is_it: Callable[[Line], bool],
        *,
        since: int,
        timeout_s: float = 60.0,
        on_line: Callable[[Line], None] | None = None,
    ) -> Line:
        """Return the first line from mark `since` on that fits, waiting for it.

        `on_line` is called for every line up to it, in order. Raises TimeoutError naming `what`.
        """
        end = time.monotonic() + timeout_s
        number = since
        while True:
            with self._news:
                there = self._news.wait_for(
                    lambda: len(self._lines) > number,  # noqa: B023 - called before it changes
                    max(0.0, end - time.monotonic()),
                )
                if not there:
                    raise TimeoutError(f"not seen within {timeout_s:g} s: {what}")
                line = self._lines[number]
            number += 1
            if on_line is not None:
                on_line(line)
            if is_it(line):
                return line

    def said(self, label: str, message: str, *, since: int, timeout_s: float = 60.0) -> Line:
        """Return the line in which host `label` says exactly this; see `wait_for`."""
        return self.wait_for(
            f"host {label} says: {message}",
            lambda line: line.label == label and line.message == message,
            since=since,
            timeout_s=timeout_s,
        )

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            selector.register(self._ends[0], selectors.EVENT_READ)
            while all(key.fileobj is not self._ends[0] for key, _ in selector.select()):
                os.read(self._descriptor, 1 << 16)
                self._take()

    def _take(self) -> None:
        with self._news:
            now = time.monotonic()
            for label, (file, partial) in self._files.items():
                *lines, rest = (partial + file.read()).split(b"\n")
                self._files[label] = (file, rest)
                self._lines += [Line(label, now, line.decode(errors="replace")) for line in lines]
            self._news.notify_all()
