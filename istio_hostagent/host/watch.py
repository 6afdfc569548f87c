"""File changes: watched directories in, one call for each burst of changes out.

Directories are watched, not files: a rename over a file, a file that does not exist yet and a
swapped symbolic link are all changes of a directory. Not here: what a change means.
"""

import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

# Changes that matter; `opened` and `closed_no_write` come from our own reading.
KINDS = frozenset({"created", "modified", "moved", "deleted", "closed"})


class _Handler:
    def __init__(self, changed: Callable[[], None]) -> None:
        self.names: frozenset[str] = frozenset()
        self._changed = changed

    def dispatch(self, event: Any) -> None:
        """Take one event from watchdog; it calls nothing else of a handler."""
        if event.event_type not in KINDS:
            return
        paths = (event.src_path, getattr(event, "dest_path", "") or "")
        if any(os.path.basename(os.fsdecode(path)) in self.names for path in paths):
            self._changed()


class FileWatcher:
    """Calls `changed`, from a thread of its own, when one of the files may have changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Start with nothing watched."""
        self._changed = changed
        self._observer: Any = None
        self._watches: dict[str, tuple[Any, _Handler]] = {}

    def follow(self, paths: Iterable[str]) -> bool:
        """Watch these files from now on and no others; raises OSError (inotify limits).

        Where a directory is missing, its nearest existing ancestor is watched for the next
        component of the path: call again after each change. True if a directory is new among the
        watched ones: what changed in it before was not seen, so read again.
        """
        wanted: dict[str, set[str]] = {}
        for path in paths:
            for directory, name in _places(path):
                wanted.setdefault(directory, set()).add(name)
        if self._observer is None:
            # Loaded at the first use: before that a host has better uses for 10 ms.
            self._observer = importlib.import_module("watchdog.observers").Observer()
            self._observer.start()
        for directory in self._watches.keys() - wanted.keys():
            self._observer.unschedule(self._watches.pop(directory)[0])
        is_new = False
        for directory, names in wanted.items():
            if directory not in self._watches:
                handler = _Handler(self._changed)
                watch = self._observer.schedule(handler, directory, recursive=False)
                self._watches[directory] = (watch, handler)
                is_new = True
            self._watches[directory][1].names = frozenset(names)
        return is_new

    def stop(self) -> None:
        """Watch nothing; waits for the threads to end."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._watches = {}


def _places(path: str) -> list[tuple[str, str]]:
    """The directories to watch for one file, each with the name that matters in it."""
    places = []
    path = os.path.abspath(path)
    for _ in range(8):  # a chain of links longer than this is not followed for watching
        directory, name = os.path.split(path)
        while not os.path.isdir(directory):
            directory, name = os.path.split(directory)
        places.append((directory, name))
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return places
