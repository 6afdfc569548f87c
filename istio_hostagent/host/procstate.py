"""Whether a process is kept from running by somebody: stopped, traced or frozen (proc(5)).

Nothing here needs a privilege. A process that is gone counts as running: others tell of its end.
"""

import enum


class Hold(enum.Enum):
    """What keeps a process from running."""

    NONE = "nothing"
    STOPPED = "stopped by a signal"
    TRACED = "stopped by a debugger"
    FROZEN = "frozen by its cgroup"


def probe_hold(pid: int) -> Hold:
    """Look at a process and its cgroup (version 2)."""
    state = _state(pid)
    if state == "T":
        return Hold.STOPPED
    if state == "t":
        return Hold.TRACED
    return Hold.FROZEN if _is_frozen(pid) else Hold.NONE


def find_child(pid: int, name: str) -> int | None:
    """The pid of a direct child with this name in comm, if the kernel tells."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as source:
            children = [int(word) for word in source.read().split()]
    except OSError:
        return None
    return next((child for child in children if _name(child) == name), None)


def _name(pid: int) -> str:
    return _stat(pid).partition("(")[2].rpartition(")")[0]


def _state(pid: int) -> str:
    return _stat(pid).rpartition(")")[2].strip()[:1]


def _stat(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as source:
            return source.read()
    except OSError:
        return ""


def _is_frozen(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as source:
            paths = [line[3:].strip() for line in source if line.startswith("0::")]
        for path in paths:
            with open(f"/sys/fs/cgroup{path}/cgroup.events", encoding="ascii") as source:
                return "frozen 1" in source.read().splitlines()
    except OSError:
        return False
    return False
