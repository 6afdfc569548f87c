"""Processes and what they used: wall time from exec to exit, and CPU as the kernel accounts it.

A process started here belongs to the network namespace of the calling thread. Its CPU is that of
wait4(2): its own and that of every child that it has waited for, user and system together.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
PYTHON = "/usr/bin/python3"
NFT = "/usr/sbin/nft"
# setpriv(1) with the privileges of a proxy: Envoy is started so.
SETPRIV = "/usr/bin/setpriv"
_SAID_LIMIT = 1000


class NotMeasured(Exception):
    """A measurement could not be made; the text says why."""


@dataclass(frozen=True)
class Cost:
    """What one process took, in ms."""

    wall_ms: float
    cpu_ms: float


def now_ms() -> float:
    """A monotonic clock in ms."""
    return time.perf_counter_ns() / 1e6


def spawn(
    argv: Sequence[str], env: Mapping[str, str] | None = None, *, output: int | None = None
) -> int:
    """Start a program and return its pid; `output` takes stdout and stderr, else nobody does."""
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    for number in (1, 2):
        if output is None:
            actions.append((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0))
        else:
            actions.append((os.POSIX_SPAWN_DUP2, output, number))
    # A group of its own: Ctrl-C reaches us alone, and we end it in order.
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env if env is not None else ENVIRONMENT),
        file_actions=actions,
        setpgroup=0,
    )


def collect(pid: int) -> tuple[int, float]:
    """Wait for a child of ours; returns its exit status (negative: a signal) and its CPU in ms."""
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), (usage.ru_utime + usage.ru_stime) * 1000.0


def kill(pid: int) -> float:
    """SIGKILL a child of ours and return the CPU in ms that it had used."""
    os.kill(pid, signal.SIGKILL)
    return collect(pid)[1]


class Said:
    """What a program says: `descriptor` is its output. A context manager."""

    def __init__(self) -> None:
        # Programs may open their output again by its name, which a pipe of root's refuses them.
        self.descriptor = os.memfd_create("said", os.MFD_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def end(self) -> str:
        """Its last words so far."""
        begin = max(0, os.fstat(self.descriptor).st_size - _SAID_LIMIT)
        return os.pread(self.descriptor, _SAID_LIMIT, begin).decode(errors="replace").strip()


def run(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run a program to its end; raises NotMeasured with what it said if that is not status 0."""
    with Said() as said:
        began = now_ms()
        status, cpu_ms = collect(spawn(argv, env, output=said.descriptor))
        wall_ms = now_ms() - began
        if status != 0:
            raise NotMeasured(f"{' '.join(argv)[:80]}: status {status}: {said.end}")
        return Cost(wall_ms, cpu_ms)


def used_ms(pid: int) -> float:
    """The CPU in ms that a running process and the children it has waited for have used.

    Its own is exact: the clock of a process's CPU (clock_getcpuclockid(3) says how a pid makes
    one). Its children's is counted in ticks of 10 ms (proc(5), stat).
    """
    own = time.clock_gettime(~pid << 3 | 2) * 1000.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) * 1000.0 / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> tuple[float, float, float]:
    """RSS, PSS and USS of a process (proc(5), smaps_rollup); MB is 1000 kB."""
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = float(rest.split()[0]) / 1000.0
    own = found["Private_Clean"] + found["Private_Dirty"]
    return found["Rss"], found["Pss"], own


def voluntary_switches(pid: int) -> int:
    """How often the threads of a process gave up the CPU to wait for something (proc(5))."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total
