"""What proc(5) tells of a process: who keeps it from running, when it was started, where it is.

Nothing here needs a privilege. A process that is gone counts as running: others tell of its end.
"""

import enum
import os
from collections.abc import Iterable

# Fields of `read_stat`: process group, start in clock ticks since boot.
GROUP, STARTED = 2, 19


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


def read_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name; none if the process is not to be seen."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def find_birth(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 if it is not to be seen."""
    found = read_stat(pid)
    return int(found[STARTED]) if len(found) > STARTED else 0


def find_control_group(pid: int) -> str:
    """The path of its cgroup (version 2), `/` for the root; empty if there is none."""
    groups = _read(f"/proc/{pid}/cgroup").splitlines()
    return next((group[3:] for group in groups if group.startswith("0::")), "")


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
    path = find_control_group(pid)
    return "frozen 1" in _read(f"/sys/fs/cgroup{path}/cgroup.events").splitlines()
