"""File changes: watched directories in, one event for each burst of changes out.

Directories are watched, not files: a rename over a file, a file that does not exist yet and a
swapped symbolic link are all changes of a directory. The directories on the way there are watched
for what happens to themselves: one that is moved away, removed or opened to another user changes
which file is seen, and by whom. Those on file systems that may hang are not watched: they would
tell of no change that was made elsewhere (inotify(7)). Not here: what a change means.
"""

import collections
import ctypes
import errno
import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import inotifyevents, mailbox, sights

# A chain of links longer than this is not followed.
MAX_LINKS = 8
# Links here are the system's own (/var/run) and do not change.
FIXED = frozenset({"/", "/var"})
# Directories that go away while they are about to be watched: look again so often.
MAX_RETRIES = 3
# linux/inotify.h.
_ATTRIB, _CLOSE_WRITE, _MOVED, _CREATE, _DELETE = 0x4, 0x8, 0xC0, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _OVERFLOW = 0x400, 0x800, 0x2000, 0x4000
_ONLYDIR, _MASK_ADD = 0x1000000, 0x20000000
_SELF = _ATTRIB | _DELETE_SELF | _MOVE_SELF
# Not IN_MODIFY: whoever still writes will close the file, and who does not is seen by the clock.
_ENTRIES = _CLOSE_WRITE | _MOVED | _CREATE | _DELETE
_READ_BYTES = 65536


def open_instance(library: Any) -> int:
    """Open inotify by watchdog's functions of the C library; negative as inotify_init(2)."""
    descriptor: int = library.inotify_init()
    if descriptor >= 0:
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
    return descriptor


class _Place(NamedTuple):
    """A directory, and the name that matters in it; empty: only the directory itself does."""

    directory: str
    name: str = ""


class FileWatcher:
    """Posts what `changed` gives when one of the files may have changed.

    One inotify instance for all directories (watchdog's own observer takes one for each, and the
    kernel gives a user 128), read by the thread that waits at the inbox.
    """

    def __init__(
        self, inbox: mailbox.Mailbox[Any], changed: Callable[[], object], seen: sights.Sights
    ) -> None:
        """Start with nothing watched."""
        self._inbox = inbox
        self._changed = changed
        self._seen = seen
        self._fingerprint = seen.fingerprint
        self._library: Any = None
        self._descriptor: int | None = None
        self._names: dict[int, frozenset[str]] = {}  # that matter, by number of the watch
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
            for directory, name in _places(path, self._seen):
                wanted.setdefault(directory, set()).add(name)
        self._marks = marks
        self._has_vanished = False
        self.last_error = ""
        if self._descriptor is None and not self._open():
            return False
        before, self._names = self._names, {}
        for directory, names in wanted.items():
            self._watch(directory, names - {""})
        for number in before.keys() - self._names.keys():
            # EINVAL: the directory is gone, and the watch with it.
            self._library.inotify_rm_watch(self._descriptor, number)
        # A directory of which only itself matters has nothing to be read again for.
        return any(names and not before.get(number) for number, names in self._names.items())

    def _open(self) -> bool:
        # Loaded at the first use: that takes 10 ms, which joining does not wait for.
        self._library = self._library or importlib.import_module("watchdog.observers.inotify_c")
        descriptor = open_instance(self._library)
        if descriptor < 0:
            self.last_error = _instance_error(ctypes.get_errno())
            return False
        self._descriptor = descriptor
        self._inbox.watch(descriptor, self._read)
        return True

    def _watch(self, directory: str, names: set[str]) -> None:
        """Watch a directory for these names; the same one by two paths has one watch."""
        mask = _SELF | _ONLYDIR | (_ENTRIES if names else 0) | _MASK_ADD
        path = os.fsencode(directory)
        number = self._library.inotify_add_watch(self._descriptor, path, mask)
        if number < 0:
            code = ctypes.get_errno()
            self._has_vanished |= code == errno.ENOENT
            self.last_error = _watch_error(directory, code)
            return
        self._names[number] = self._names.get(number, frozenset()) | names

    def _read(self) -> object | None:
        assert self._descriptor is not None
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        # All of them are looked at: some change what is watched.
        told = [
            self._matters(each.watch, each.mask, each.name) for each in inotifyevents.parse(data)
        ]
        return self._changed() if any(told) else None

    def _matters(self, number: int, mask: int, name: str) -> bool:
        if mask & _OVERFLOW:
            return True
        names = self._names.get(number)
        if names is None:
            return False
        return name in names if name else bool(mask & (_SELF | _UNMOUNT))

    def stop(self) -> None:
        """Watch nothing."""
        if self._descriptor is not None:
            self._inbox.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        self._names = {}


def _instance_error(code: int) -> str:
    if code == errno.EMFILE:
        limit = "fs.inotify.max_user_instances"
        return f"root has no inotify instance left: {_raise(limit)}"
    if code == errno.ENFILE:
        return "this machine has no file descriptor left: raise sysctl fs.file-max"
    return f"no inotify instance: {os.strerror(code)}"


def _watch_error(directory: str, code: int) -> str:
    if code == errno.ENOSPC:
        limit = "fs.inotify.max_user_watches"
        return f"cannot watch {directory}, root has no inotify watch left: {_raise(limit)}"
    return f"cannot watch {directory}: {os.strerror(code)}"


def _raise(limit: str) -> str:
    """What to do about a limit of sysctl(8) that is reached."""
    try:
        with open(f"/proc/sys/{limit.replace('.', '/')}", encoding="ascii") as lines:
            value = int(lines.read())
    except (OSError, ValueError):
        return f"raise {limit} with sysctl -w, and in /etc/sysctl.d to keep it"
    larger = max(2 * value, 512)
    return f"sysctl -w {limit}={larger} (now {value}), and in /etc/sysctl.d to keep it"


def _places(path: str, seen: sights.Sights) -> list[_Place]:
    """The directories to watch for one file, each with the name that matters in it.

    Besides the one in which it lies, these are the ones in which a symbolic link on the way lies;
    of every other one on the way only what happens to itself matters.
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
        if seen.mounts.may_hang(entry, follows_link=False):
            # Of a directory that is left to others only the entries are watched, if at all.
            is_entry = len(left) == 1 and seen.is_entry(os.path.join(entry, left[0]))
            is_entry = is_entry and os.path.isdir(entry)
            places.append(_Place(entry, left[0]) if is_entry else _Place(here, name))
            break
        target = _target(entry) if links < MAX_LINKS else None
        if target is not None:
            links += 1
            if here not in FIXED:
                places.append(_Place(here, name))
            here = "/" if target.startswith("/") else here
            left.extendleft(reversed(target.split("/")))
        elif left and os.path.isdir(entry):
            here = entry
            places.append(_Place(here))
        else:
            places.append(_Place(here, name))
            break
    return places


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None  # no link, or nothing there
