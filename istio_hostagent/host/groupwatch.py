"""Follows the control groups of units: which there are, and an event when that may have changed.

A unit that starts or stops makes or removes a directory, of which inotify(7) tells at once.
Watched are the directories in which one of the units may appear, and in which slices may. Not
here: where a group is (`controlgroups`).
"""

import ctypes
import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from ..config import model
from . import controlgroups, inotifyevents, mailbox, watch

# linux/inotify.h.
_CREATE, _DELETE, _OVERFLOW, _ONLYDIR = 0x100, 0x200, 0x4000, 0x1000000
_READ_BYTES = 65536
# Slices that come up while they are about to be watched: look again so often.
_MAX_LOOKS = 5


class GroupWatcher:
    """Posts what `changed` gives when one of the units may have started or stopped."""

    def __init__(self, inbox: mailbox.Mailbox[Any], changed: Callable[[], object]) -> None:
        """Start with nothing followed, which takes no descriptor."""
        self._inbox = inbox
        self._changed = changed
        self._library: Any = None
        self._descriptor: int | None = None
        self._watched: set[int] = set()
        self._names: frozenset[str] = frozenset()  # of directories and units that matter
        self._has_names = False  # units, whose slice may be any
        self._is_any = False  # whatever starts or stops matters
        self.last_error = ""  # why changes are not told (inotify limits), or nothing

    def follow(self, units: model.Units, own: str = "") -> tuple[model.ControlGroup, ...]:
        """Give the groups that there are now, and follow what these units say and nothing else.

        What starts while this looks is told, too. To be called again after each event. `own`: as
        for `controlgroups.search`.
        """
        self.last_error = ""
        root = controlgroups.find_root() if units else ""
        if not root:
            self.stop()
            return ()
        self._names = frozenset(part for unit in units.exclude for part in unit.split("/") if part)
        self._has_names = any(not unit.startswith("/") for unit in units.exclude)
        self._is_any = bool(units.include)
        found = controlgroups.search(root, units, own)
        for _ in range(_MAX_LOOKS):
            if not self._watch(found.directories):
                break
            found = controlgroups.search(root, units, own)
        if found.is_cut:
            most = controlgroups.MOST_OTHERS
            self.last_error = f"more than {most} other units run: what is beyond is captured"
        return found.groups

    def look(self, units: model.Units, own: str = "") -> tuple[model.ControlGroup, ...]:
        """Give the groups that would make a difference now; who is followed stays so."""
        return controlgroups.find(units, own)

    def _watch(self, directories: Iterable[str]) -> bool:
        """Watch these and no others; whether one is new, in which something may be unseen."""
        if self._descriptor is None and not self._open():
            return False
        before, self._watched = self._watched, set()
        for directory in directories:
            path, mask = os.fsencode(directory), _CREATE | _DELETE | _ONLYDIR
            number = self._library.inotify_add_watch(self._descriptor, path, mask)
            if number >= 0:
                self._watched.add(number)
            elif os.path.isdir(directory):
                self.last_error = _explain(ctypes.get_errno())
        for number in before - self._watched:
            # EINVAL: the directory is gone, and the watch with it.
            self._library.inotify_rm_watch(self._descriptor, number)
        return bool(self._watched - before)

    def _open(self) -> bool:
        self._library = self._library or importlib.import_module("watchdog.observers.inotify_c")
        descriptor = watch.open_instance(self._library)
        if descriptor < 0:
            self.last_error = _explain(ctypes.get_errno())
            return False
        self._descriptor = descriptor
        self._inbox.watch(descriptor, self._read)
        return True

    def _read(self) -> object | None:
        assert self._descriptor is not None
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        # All of them are looked at: some change what is watched.
        told = [
            bool(each.mask & _OVERFLOW) or self._matters(each.name)
            for each in inotifyevents.parse(data)
        ]
        return self._changed() if any(told) else None

    def _matters(self, name: str) -> bool:
        if self._is_any or (self._has_names and name.endswith(controlgroups.SLICE)):
            return True
        return name in self._names or controlgroups.name_of(name) in self._names

    def stop(self) -> None:
        """Follow nothing."""
        if self._descriptor is not None:
            self._inbox.forget(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        self._watched = set()


def _explain(code: int) -> str:
    return f"starts of units are noticed late: {os.strerror(code)} (sysctl fs.inotify)"
