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
from collections.abc import Iterator

from . import control, files

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Leftover:
    """The process group of a proxy as it is written down, and what of it was killed."""

    def __init__(self, path: str) -> None:
        """`path` is where it is written down."""
        self._path = path
        self._killed: list[tuple[int, int]] = []  # pid and pidfd of each

    def record(self, pid: int) -> None:
        """Write down the process group that `pid` leads; raises OSError."""
        value = {
            "group": pid,
            "started": _start_time(pid),
            "boot": _boot(),
            "namespace": _namespace(),
        }
        files.write_atomically(self._path, json.dumps(value).encode())

    def kill(self) -> int:
        """Kill what is left of that group; says how many processes that are.

        Nobody waits for their end (`find_killed`): until then they may hold their ports.
        """
        self._killed += _find(self._path)
        if not self._killed:
            with contextlib.suppress(OSError):
                files.remove(self._path)
        for _, descriptor in self._killed:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return len(self._killed)

    def kill_behind(self, leader: int) -> None:
        """The leader has ended, and its status is taken: kill whoever of its group is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, 0)  # most leave nobody, and then no process is looked for
            self.kill()

    def find_killed(self) -> tuple[int, ...]:
        """Who was killed and has not ended yet."""
        left = []
        for pid, descriptor in self._killed:
            if select.select([descriptor], [], [], 0.0)[0]:
                os.close(descriptor)
            else:
                left.append((pid, descriptor))
        self._killed = left
        return tuple(pid for pid, _ in left)


def _find(path: str) -> Iterator[tuple[int, int]]:
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
            yield int(name), descriptor
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
    # By thread: of a process that was killed the first one may be gone, and with it its namespace.
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    for thread in threads:
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{pid}/task/{thread}/ns/net").st_ino == _namespace()
    return False


def _namespace() -> int:
    return control.namespace_inode()


def _boot() -> str:
    with open(_BOOT_ID, encoding="ascii") as source:
        return source.read().strip()
