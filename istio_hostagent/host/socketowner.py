"""Which process has a socket, told by its inode (proc(5)).

The right to look into a process is that of its own user: root without CAP_SYS_PTRACE acts as that
user for a moment. Of a process with more capabilities than ours nothing is seen.
"""

import os
from collections.abc import Iterator

from . import users


def find_process(inode: int) -> tuple[int, str]:
    """Give pid and name of a process that has this socket; 0 and "" if none is seen."""
    target = f"socket:[{inode}]"
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if target in _descriptors(pid):
            return pid, _read(pid, "comm").strip()
    return 0, ""


def _descriptors(pid: int) -> set[str]:
    try:
        return set(_links(pid))
    except PermissionError:
        pass
    except OSError:
        return set()  # it has ended
    try:
        with users.acting_as(*_identity(pid)):
            return set(_links(pid))
    except (OSError, LookupError, ValueError):
        return set()


def _links(pid: int) -> Iterator[str]:
    directory = f"/proc/{pid}/fd"
    for name in os.listdir(directory):
        try:
            yield os.readlink(f"{directory}/{name}")
        except FileNotFoundError:
            continue  # closed at this moment


def _identity(pid: int) -> tuple[int, int]:
    """Effective uid and gid of a process; raises LookupError, ValueError."""
    lines = _read(pid, "status").splitlines()
    found = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    return int(found["Uid"][1]), int(found["Gid"][1])


def _read(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as source:
            return source.read()
    except OSError:
        return ""
