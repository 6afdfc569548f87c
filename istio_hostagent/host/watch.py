"""File changes: watched directories in, one call for each burst of changes out.

Directories are watched, not files: a rename over a file, a file that does not exist yet and a
swapped symbolic link are all changes of a directory. Those on file systems that may hang are not:
they would tell of no change that was made elsewhere (inotify(7)). Not here: what a change means.
"""

import collections
import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from . import mounts, sights

# watchdog (2.2 and 6.0) remembers every name in a directory that a file was moved away from, as
# long as the directory is watched: 300 bytes for each configuration that is renamed into place.
# After so many moves the directory is watched anew, when the caller follows the next time.
MAX_MOVES = 100
# Changes that matter; `opened` and `closed_no_write` come from our own reading.
KINDS = frozenset({"created", "modified", "moved", "deleted", "closed"})


# A chain of links longer than this is not followed.
MAX_LINKS = 8
# Directories that go away while they are about to be watched: look again so often.
MAX_RETRIES = 3
# Links here are the system's own (/var/run) and do not change.
FIXED = frozenset({"/", "/var"})


class _Handler:
    def __init__(self, directory: str, changed: Callable[[], None]) -> None:
        self.identity = _identity(directory)
        self.names: frozenset[str] = frozenset()
        self.moves = 0
        self._directory = directory
        self._changed = changed

    def dispatch(self, event: Any) -> None:
        """Take one event from watchdog; it calls nothing else of a handler."""
        if event.event_type not in KINDS:
            return
        if event.event_type in ("moved", "deleted"):  # moved out of the directory is deleted
            self.moves += 1
            if self.moves == MAX_MOVES:
                self._changed()  # whoever is told follows again
                return
        paths = (event.src_path, getattr(event, "dest_path", "") or "")
        for path in map(os.fsdecode, paths):
            is_gone = event.event_type == "deleted" and path == self._directory
            if is_gone or os.path.basename(path) in self.names:
                self._changed()
                return


class FileWatcher:
    """Calls `changed`, from a thread of its own, when one of the files may have changed."""

    def __init__(self, changed: Callable[[], None], seen: sights.Sights) -> None:
        """Start with nothing watched."""
        self._changed = changed
        self._mounts = seen.mounts
        self._fingerprint = seen.fingerprint
        self._observer: Any = None
        self._watches: dict[str, tuple[Any, _Handler]] = {}
        self._marks: dict[str, object] = {}
        self.last_error = ""  # why some directory is not watched (inotify limits), or nothing
        self._has_vanished = False  # a directory went away between finding and watching it

    def mark(self) -> None:
        """Remember how the files look: call it before they are read."""
        self._marks = {path: self._fingerprint(path) for path in self._marks}

    def is_stale(self) -> bool:
        """Whether a file has changed since `mark`, for changes that no event tells."""
        return any(self._fingerprint(path) != mark for path, mark in self._marks.items())

    def follow(self, paths: Iterable[str]) -> bool:
        """Watch these files from now on and no others.

        Where a directory is missing, its nearest existing ancestor is watched for the next
        component of the path: call again after each change. True if a directory is new among the
        watched ones: what changed in it before was not seen, so read again.
        """
        paths = tuple(paths)
        is_new = self._follow(paths)
        for _ in range(MAX_RETRIES):
            if not self._has_vanished:
                break
            is_new |= self._follow(paths)
        return is_new

    def _follow(self, paths: tuple[str, ...]) -> bool:
        wanted: dict[str, set[str]] = {}
        marks = {}
        for path in paths:
            marks[path] = self._marks.get(path) or self._fingerprint(path)
            for directory, name in _places(path, self._mounts):
                wanted.setdefault(directory, set()).add(name)
        self._marks = marks
        if self._observer is None:
            self._observer = _load_observer()
            self._observer.start()
        for directory, (watch, handler) in list(self._watches.items()):
            # A directory of this name may be another one than before.
            is_same = handler.identity == _identity(directory)
            if directory not in wanted or not is_same or handler.moves >= MAX_MOVES:
                self._observer.unschedule(watch)
                del self._watches[directory]
        self.last_error = ""
        self._has_vanished = False
        return any([self._watch(directory, names) for directory, names in wanted.items()])

    def _watch(self, directory: str, names: set[str]) -> bool:
        """Watch a directory for these names; True if it was not watched before."""
        if directory in self._watches:
            self._watches[directory][1].names = frozenset(names)
            return False
        handler = _Handler(directory, self._changed)
        handler.names = frozenset(names)
        try:
            watch = self._observer.schedule(handler, directory, recursive=False)
        except OSError as error:
            self._has_vanished |= isinstance(error, FileNotFoundError)
            self.last_error = f"cannot watch {directory}: {error.strerror}"
            return False
        self._watches[directory] = (watch, handler)
        return True

    def stop(self) -> None:
        """Watch nothing; waits for the threads to end."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._watches = {}


def _load_observer() -> Any:
    """watchdog is loaded at the first use: before that a host has better uses for 10 ms."""
    return importlib.import_module("watchdog.observers").Observer()


def _identity(directory: str) -> tuple[int, int] | None:
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _places(path: str, points: mounts.Mounts) -> list[tuple[str, str]]:
    """The directories to watch for one file, each with the name that matters in it.

    Besides the one in which it lies, these are the ones in which a symbolic link on the way lies.
    """
    places = []
    here = "/"
    links = 0
    left = collections.deque(path.split("/"))
    while left:
        name = left.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        entry = os.path.join(here, name)
        if points.may_hang(entry, follows_link=False):
            places.append((here, name))
            break
        target = _target(entry) if links < MAX_LINKS else None
        if target is not None:
            links += 1
            if here not in FIXED:
                places.append((here, name))
            here = "/" if target.startswith("/") else here
            left.extendleft(reversed(target.split("/")))
        elif left and os.path.isdir(entry):
            here = entry
        else:
            places.append((here, name))
            break
    return places


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None  # no link, or nothing there
