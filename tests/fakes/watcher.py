"""A watcher of files in memory. It hears what is written through `changed`, unless it is deaf."""

import os
from collections.abc import Callable, Iterable

from tests.fakes.files import Disk


class FakeWatcher:
    """Like the real one it looks at names in directories, and remembers how files looked."""

    def __init__(self, disk: Disk, tell: Callable[[], None]) -> None:
        self._disk = disk
        self._tell = tell
        self._marks: dict[str, int | None] = {}
        self._directories: set[str] = set()
        self.is_deaf = False
        self.last_error = ""

    def changed(self, path: str) -> None:
        """A file was written, replaced or removed."""
        if path in self._marks and not self.is_deaf:
            self._tell()

    def mark(self) -> None:
        self._marks = {path: self._disk.fingerprint(path) for path in self._marks}

    def is_stale(self) -> bool:
        return any(self._disk.fingerprint(path) != mark for path, mark in self._marks.items())

    def follow(self, paths: Iterable[str]) -> bool:
        marks = {}
        for path in paths:
            marks[path] = self._marks.get(path) or self._disk.fingerprint(path)
        self._marks = marks
        before, self._directories = self._directories, set(map(os.path.dirname, marks))
        return not self._directories <= before

    def stop(self) -> None:
        self._marks, self._directories = {}, set()
