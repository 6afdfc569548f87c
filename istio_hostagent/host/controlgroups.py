"""The tree of control groups (cgroup2): where the groups of excluded units are.

A group is known by its number, which is that of its directory: a unit that is started again has a
new one. A unit of the system's manager lies in slices, which lie in each other. What is below a
unit is not looked at: somebody else may have been given it, who could name a group as they like
(Delegate= in systemd.resource-control(5)). Not here: who tells of changes (`groupwatch`).
Sources: cgroups(7), proc(5); cg_escape() of systemd for the names of directories.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from ..config import model

_MOUNTS = "/proc/self/mountinfo"
_OWN = "/proc/self/cgroup"
SLICE = ".slice"


# So many others than included units are left alone; each is a rule that every connection meets.
MOST_OTHERS = 500


class Search(NamedTuple):
    """What was found, and the directories in which something may appear or go.

    `is_cut`: there are more groups to be left alone than are told.
    """

    groups: tuple[model.ControlGroup, ...] = ()
    directories: tuple[str, ...] = ()
    is_cut: bool = False


def find_root() -> str:
    """Give where the whole tree is mounted, or nothing."""
    try:
        with open(_MOUNTS, "rb") as lines:
            for line in lines:
                before, _, behind = line.partition(b" - ")
                if behind.split(b" ")[0] == b"cgroup2" and before.split(b" ")[3] == b"/":
                    return os.fsdecode(_unescape(before.split(b" ")[4]))
    except OSError:
        pass
    return ""


def _unescape(point: bytes) -> bytes:
    """Blanks and backslashes are written as three octal digits."""
    first, *others = point.split(b"\\")
    return first + b"".join(bytes([int(each[:3], 8)]) + each[3:] for each in others)


def find_own() -> str:
    """Give the group of this process, `/` for the root; nothing where there is no such tree."""
    if not find_root():
        return ""
    try:
        with open(_OWN, encoding="utf-8", errors="surrogateescape") as lines:
            return next((line[3:].rstrip("\n") for line in lines if line.startswith("0::/")), "")
    except OSError:
        return ""


def find(units: model.Units, own: str = "") -> tuple[model.ControlGroup, ...]:
    """Give the groups that make a difference now; `own`: as for `search`."""
    root = find_root() if units else ""
    return search(root, units, own).groups if root else ()


def search(root: str, units: model.Units, own: str = "") -> Search:
    """Look for all units below the mount point, and where some are included for all others.

    `own`: a group that is captured like an included one, but not named: what it sends says what
    becomes of these.
    """
    excluded, included = _look_for(root, units.exclude), _look_for(root, units.include)
    captured = tuple(each._replace(is_captured=True) for each in included.groups)
    others = _Others(root, units.include, own)
    if units.include:
        others.visit("", is_slice=True)
    groups = (*excluded.groups, *captured, *others.found[:MOST_OTHERS])
    directories = (*excluded.directories, *included.directories, *others.directories)
    is_cut = len(others.found) > MOST_OTHERS
    return Search(groups, tuple(dict.fromkeys(directories)), is_cut)


class _Others:
    """Looks for all groups that have none of some units, as high up in the tree as possible."""

    def __init__(self, root: str, units: Sequence[str], own: str) -> None:
        self._root = root
        self._names = {unit for unit in units if not unit.startswith("/")}
        self._paths = {unit for unit in units if unit.startswith("/")} | ({own} if own else set())
        self.found: list[model.ControlGroup] = []
        self.directories: list[str] = []

    def visit(self, here: str, *, is_slice: bool) -> None:
        """Look below a group; `is_slice`: units of the system's manager may be there.

        A slice may get a unit that does not run yet, so none is left alone as a whole.
        """
        self.directories.append(self._root + here)
        for name in _list(self._root + here):
            path = f"{here}/{name}"
            if path in self._paths or (is_slice and name_of(name) in self._names):
                continue
            is_below = is_slice and name.endswith(SLICE)
            has_path = any(each.startswith(f"{path}/") for each in self._paths)
            if has_path or (is_below and self._names):
                self.visit(path, is_slice=is_below)
            elif number := _number(self._root + path):
                self.found.append(model.ControlGroup("", path, number))


def _look_for(root: str, units: Sequence[str]) -> Search:
    """Find each of these units."""
    if not units:
        return Search()
    directories = {root: None}
    names = [unit for unit in units if not unit.startswith("/")]
    slices = list(_walk(root)) if names else []
    directories.update(dict.fromkeys(slices))
    found = []
    for unit in units:
        if unit.startswith("/"):
            path = unit
            directories.update(dict.fromkeys(_ways(root, unit)))
        else:
            path = _find_unit(root, slices, unit)
        if path and (number := _number(root + path)):
            found.append(model.ControlGroup(unit, path, number))
    return Search(tuple(found), tuple(directories))


def name_of(directory: str) -> str:
    """Give the unit whose group has a directory of this name."""
    return directory.removeprefix("_")


def numbers_on_the_way(path: str) -> tuple[int, ...]:
    """Give the numbers of a group and all above it, from below the root on; () if it is gone."""
    root = find_root()
    parts = path.strip("/").split("/")
    ways = ["/".join((root, *parts[: count + 1])) for count in range(len(parts))]
    found = tuple(map(_number, ways)) if root and path.strip("/") else ()
    return found if all(found) else ()


def _walk(directory: str) -> list[str]:
    """All slices at and below a directory, itself first; those that go away meanwhile are none."""
    found = [directory]
    for place in found:
        found += [f"{place}/{name}" for name in _list(place) if name.endswith(SLICE)]
    return found


def _list(directory: str) -> list[str]:
    """The names of groups in one; none if it is gone."""
    try:
        with os.scandir(directory) as entries:
            return sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _find_unit(root: str, slices: Sequence[str], unit: str) -> str:
    # A name that could be one of a control file has a line in front, and what has one, one more.
    spellings = (f"_{unit}",) if unit.startswith("_") else (unit, f"_{unit}")
    for place in slices:
        for name in spellings:
            if _number(f"{place}/{name}"):
                return f"{place}/{name}".removeprefix(root)
    return ""


def _ways(root: str, path: str) -> list[str]:
    """The directories on the way to a path that are there."""
    parts = path.strip("/").split("/")[:-1]
    ways = ["/".join((root, *parts[: count + 1])) for count in range(len(parts))]
    return [way for way in ways if _number(way)]


def _number(directory: str) -> int:
    """Give the number of a group, 0 if it is not there."""
    try:
        found = os.stat(directory)
    except (OSError, ValueError):
        return 0
    return found.st_ino
