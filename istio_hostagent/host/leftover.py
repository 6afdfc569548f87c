"""What an earlier agent left running: a proxy whose agent was killed without a service manager.

The leader of a proxy's process group dies with its agent, but not what it had started itself
(pilot-agent's Envoy), and that keeps its ports. It is recognised by what was written down when the
proxy was started: the number of the process group, the leader's start time, the boot and the
network namespace; never by name or user.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator

from . import control, files

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_END_TIME_S = 5.0


def record(path: str, pid: int) -> None:
    """Write down the process group that `pid` leads; raises OSError."""
    value = {"group": pid, "started": _start_time(pid), "boot": _boot(), "namespace": _namespace()}
    files.write_atomically(path, json.dumps(value).encode())


def end(path: str) -> int:
    """Kill what is left of the group that was written down; says how many processes that were."""
    found = list(_find(path))
    for descriptor in found:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    deadline = time.monotonic() + _END_TIME_S
    for descriptor in found:
        select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))
        os.close(descriptor)
    with contextlib.suppress(OSError):
        files.remove(path)
    return len(found)


def _find(path: str) -> Iterator[int]:
    """A pidfd of each process of the group."""
    try:
        value = json.loads(files.read_bounded(path))
        group, started = int(value["group"]), int(value["started"])
        is_here = value["boot"] == _boot() and value["namespace"] == _namespace()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if not is_here or _start_time(group) not in (0, started):
        return  # another boot, or the number belongs to somebody else now
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptor = os.pidfd_open(int(name))
        except OSError:
            continue
        fields = _stat(int(name))
        is_member = len(fields) > _STARTED and int(fields[_GROUP]) == group
        if is_member and int(fields[_STARTED]) >= started and _is_in_namespace(int(name)):
            yield descriptor
        else:
            os.close(descriptor)


# Fields of /proc/PID/stat behind the name (proc(5)): process group, start in clock ticks.
_GROUP, _STARTED = 2, 19


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as source:
            return source.read().rpartition(")")[2].split()
    except OSError:
        return []


def _start_time(pid: int) -> int:
    """In clock ticks since boot; 0 if there is no such process."""
    found = _stat(pid)
    return int(found[_STARTED]) if len(found) > _STARTED else 0


def _is_in_namespace(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == _namespace()
    except OSError:
        return False


def _namespace() -> int:
    return control.namespace_inode()


def _boot() -> str:
    with open(_BOOT_ID, encoding="ascii") as source:
        return source.read().strip()
