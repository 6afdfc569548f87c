"""Whether a process is kept from running by somebody: stopped, traced or frozen (proc(5)).

Nothing here needs a privilege. A process that is gone counts as running: others tell of its end.
"""

import enum
import os
from collections.abc import Iterable

# The field of /proc/PID/stat behind the name that says when it was started.
_STARTED = 19


class Hold(enum.Enum):
    """What keeps a process from running."""

    NONE = "nothing"
    STOPPED = "stopped by a signal"
    TRACED = "stopped by a debugger"
    FROZEN = "frozen by its cgroup"


def probe_hold(pid: int) -> Hold:
    """Look at a process and its cgroup (version 2)."""
    state = _state(f"/proc/{pid}")
    if state == "T":
        return Hold.STOPPED
    if state == "t":
        return Hold.TRACED
    return Hold.FROZEN if _is_frozen(pid) else Hold.NONE


def find_held(pids: Iterable[int]) -> tuple[int, Hold]:
    """The first of these that is kept from running, and by what; 0 and NONE if none is."""
    holds = ((pid, probe_hold(pid)) for pid in pids)
    return next(((pid, hold) for pid, hold in holds if hold is not Hold.NONE), (0, Hold.NONE))


def find_children(pid: int) -> tuple[int, ...]:
    """The pids of the children of a process, if the kernel tells.

    The kernel lists them by the thread that started each, in Go that is any.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ()
    lists = (_read(f"/proc/{pid}/task/{thread}/children") for thread in threads)
    return tuple(int(word) for each in lists for word in each.split())


def probe_rest(pid: int) -> str:
    """The letter for what keeps a killed process there: D where no signal reaches (proc(5)).

    Empty: it is gone. Its first thread may be gone before the others.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ""
    states = {_state(f"/proc/{pid}/task/{thread}") for thread in threads}
    return min(states - {"Z", "X", ""}, default="Z")


def find_birth(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 if it is not to be seen."""
    found = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(found[_STARTED]) if len(found) > _STARTED else 0


def _state(place: str) -> str:
    return _read(f"{place}/stat").rpartition(")")[2].strip()[:1]


def _read(path: str) -> str:
    """The text of a file; empty if the process or thread is gone."""
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return source.read()
    except OSError:
        return ""


def _is_frozen(pid: int) -> bool:
    groups = _read(f"/proc/{pid}/cgroup").splitlines()
    path = next((group[3:] for group in groups if group.startswith("0::")), "")
    return "frozen 1" in _read(f"/sys/fs/cgroup{path}/cgroup.events").splitlines()
