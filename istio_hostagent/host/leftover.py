"""What an earlier agent left running: a proxy whose agent was killed, in units of its own or not.

The leader of a proxy's process group dies with its agent, but not what it had started itself
(pilot-agent's Envoy), and that keeps its ports. It is recognised by what was written down when the
proxy was started: the number of the process group, the leader's start time, the boot and the
network namespace; never by name or user. Of two that run side by side, one of which takes over
from the other, each is written down.
"""

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import control, files, procstate

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Recorded(NamedTuple):
    """A proxy in a unit of its own. `pid` is 0 if its main process is gone or was never known.

    `is_known`: it was known.
    """

    unit: str
    launched: Any
    pid: int = 0
    invocation: str = ""
    is_known: bool = True


class Leftover:
    """The process groups of a proxy as they are written down, and what of them was killed."""

    def __init__(self, path: str) -> None:
        """`path` is where they are written down."""
        self._path = path
        self._entries: list[dict[str, Any]] = []  # the one started last comes first
        self._killed: list[tuple[int, int]] = []  # pid and pidfd of each

    def record(self, pid: int, *, is_beside: bool = False) -> None:
        """Write down the process group that `pid` leads; raises OSError.

        `is_beside`: what was written down last runs on.
        """
        self._add({"group": pid, "started": procstate.find_birth(pid)}, is_beside=is_beside)

    def record_unit(self, unit: str, launched: Any, *, is_beside: bool = False) -> None:
        """Write down what is about to be started in a unit; raises OSError."""
        self._add({"unit": unit, "launched": launched}, is_beside=is_beside)

    def _add(self, entry: dict[str, Any], *, is_beside: bool) -> None:
        others = (each for each in self._entries if each.get("unit") != entry.get("unit", ""))
        self._entries = [entry, *(tuple(others)[:1] if is_beside else ())]
        self._write()

    def record_process(self, unit: str, pid: int, invocation: str) -> None:
        """Write down the main process of a unit; raises OSError.

        In the words of `record`: an agent of before there were units ends it.
        """
        for entry in self._entries:
            if entry.get("unit") == unit:
                added = {
                    "group": pid,
                    "started": procstate.find_birth(pid),
                    "invocation": invocation,
                }
                entry |= added
        self._write()

    def forget_unit(self, unit: str) -> None:
        """What ran in a unit has ended: of two the other one is left; raises OSError."""
        left = [entry for entry in self._entries if entry.get("unit") != unit]
        if left and left != self._entries:
            self._entries = left
            self._write()

    def _write(self) -> None:
        first, *others = self._entries
        value = {**first, "boot": _boot(), "namespace": namespace()}
        if others:
            value["other"] = others[0]
        files.write_atomically(self._path, json.dumps(value).encode())

    def find_units(self) -> tuple[Recorded, ...]:
        """What was written down last, where that was units of this boot and namespace."""
        self._entries = [
            {name: entry[name] for name in _NAMES if name in entry}
            for entry in _read(self._path)
            if isinstance(entry.get("unit"), str)
        ]
        return tuple(map(_recorded, self._entries))

    def kill(self) -> int:
        """Kill what is left of those groups; says how many processes that are.

        Nobody waits for their end (`find_killed`): until then they may hold their ports.
        """
        found = [process for entry in _read(self._path) for process in _find(entry)]
        self._kill(found)
        if not self._killed:
            with contextlib.suppress(OSError):
                files.remove(self._path)
        return len(found)

    def _kill(self, found: list[tuple[int, int]]) -> None:
        self._killed += found
        for _, descriptor in found:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def kill_behind(self, leader: int) -> None:
        """The leader has ended, and its status is taken: kill whoever of its group is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, 0)  # most leave nobody, and then no process is looked for
            entries = [each for each in _read(self._path) if each.get("group") == leader]
            self._kill([process for entry in entries for process in _find(entry)])

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


_NAMES = ("unit", "launched", "group", "started", "invocation")


def _recorded(entry: dict[str, Any]) -> Recorded:
    pid, started = entry.get("group", 0), entry.get("started", 0)
    is_there = pid and started and procstate.find_birth(pid) == started
    invocation = str(entry.get("invocation", ""))
    number = pid if is_there else 0
    return Recorded(entry["unit"], entry.get("launched"), number, invocation, bool(pid))


def _read(path: str) -> list[dict[str, Any]]:
    """What is written down; nothing if it is of another boot or network namespace."""
    try:
        value = json.loads(files.read_bounded(path))
        is_here = value["boot"] == _boot() and value["namespace"] == namespace()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if not is_here:
        return []
    other = value.get("other")
    return [value, *((other,) if isinstance(other, dict) else ())]


def _find(entry: dict[str, Any]) -> Iterator[tuple[int, int]]:
    try:
        group, started = int(entry["group"]), int(entry["started"])
    except (ValueError, KeyError, TypeError):
        return
    if procstate.find_birth(group) not in (0, started):
        return  # the number belongs to somebody else now
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptor = os.pidfd_open(int(name))
        except OSError:
            continue
        fields = procstate.read_stat(int(name))
        is_member = len(fields) > procstate.STARTED and int(fields[procstate.GROUP]) == group
        if is_member and int(fields[procstate.STARTED]) >= started and _is_in_namespace(int(name)):
            yield int(name), descriptor
        else:
            os.close(descriptor)


def _is_in_namespace(pid: int) -> bool:
    # By thread: of a process that was killed the first one may be gone, and with it its namespace.
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    for thread in threads:
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{pid}/task/{thread}/ns/net").st_ino == namespace()
    return False


def namespace() -> int:
    """The network namespace of this process."""
    return control.namespace_inode()


def _boot() -> str:
    with open(_BOOT_ID, encoding="ascii") as source:
        return source.read().strip()
