"""inotify(7) by three functions of the C library, for a process that must stay small.

The agent has watchdog's functions for this (`watch`), which load 1.2 MB that nobody needs here.
Not here: what a change means.
"""

import ctypes
import os

from . import inotifyevents

# linux/inotify.h.
CLOSE_WRITE, MOVED_TO, CREATE, DELETE_SELF, MOVE_SELF = 0x8, 0x80, 0x100, 0x400, 0x800
OVERFLOW = 0x4000
_ONLYDIR, _CLOEXEC, _NONBLOCK = 0x1000000, os.O_CLOEXEC, os.O_NONBLOCK
_READ_BYTES = 65536


class Inotify:
    """One instance; the directories that are watched belong to it."""

    def __init__(self) -> None:
        """Open it; raises OSError."""
        self._library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._check(self._library.inotify_init1(_CLOEXEC | _NONBLOCK), "")

    def watch(self, directory: str, mask: int) -> int:
        """Watch a directory and give the number of the watch; raises OSError.

        Of a directory that is watched already the mask is replaced, and the number is the same.
        """
        path = os.fsencode(directory)
        number = self._library.inotify_add_watch(self.descriptor, path, mask | _ONLYDIR)
        return self._check(number, directory)

    def forget(self, watch: int) -> None:
        """Watch a directory no longer; one that is gone is forgotten already."""
        self._library.inotify_rm_watch(self.descriptor, watch)

    def read(self) -> list[inotifyevents.Event]:
        """Give what has happened, at once; nothing, if nothing has."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        return inotifyevents.parse(data)

    def _check(self, result: int, path: str) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return result
