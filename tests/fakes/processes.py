"""Processes in memory: what they do, and when they end, is told by `Behaviour`."""

import errno
import itertools
import json
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from istio_hostagent.errors import ChildFailed
from istio_hostagent.host import processes, procstate
from istio_hostagent.host.answers import checks, formats
from istio_hostagent.supervise import specs
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox, new_descriptor

UNIT = "istio-proxy@0.service"
UNITS = (UNIT, "istio-proxy@1.service")
Ended = tuple[int, bytes]  # exit status (negative: a signal), output


@dataclass(frozen=True)
class Plan:
    """After so many seconds a process ends with what `end` gives then; None: never by itself."""

    after_s: float | None
    end: Callable[[], Ended] = lambda: (0, b"")


class Behaviour(Protocol):
    """What programs do on a host. Each may raise OSError: it cannot be started."""

    def worker(self, module: str, request: Any) -> Plan: ...

    def once(self, argv: Sequence[str]) -> Plan: ...

    def server(self, module: str, arguments: Sequence[str]) -> Plan: ...

    def program(self, child: "FakeChild", spec: specs.ProcessSpec) -> Plan: ...


class FakeChild:
    """A process. It ends at once when it is killed, and soon after SIGTERM if it listens."""

    def __init__(self, pid: int, inbox: FakeInbox, clock: FakeClock) -> None:
        self.pid = pid
        self.descriptor = new_descriptor()
        self._inbox = inbox
        self._clock = clock
        self.status: int | None = None
        self.output = b""
        self.is_taken = False
        self.is_kept = False  # whoever has started it may end without it
        self.hold = procstate.Hold.NONE
        self.hears = True  # SIGTERM
        self.end_s = 0.1  # so long it takes to end after SIGTERM
        self.told_at: float | None = None  # when it was told to end (monotonic seconds)
        self.ended_at: float | None = None

    def finish(self, status: int, output: bytes = b"") -> None:
        """It ends."""
        if self.status is None:
            self.status = status
            self.ended_at = self._clock.monotonic()
            self.output += output
            self._inbox.ready(self.descriptor)

    def move(self, inbox: FakeInbox) -> None:
        """Somebody else looks after it."""
        self._inbox = inbox

    def poll(self) -> int | None:
        if self.status is not None:
            self.is_taken = True
            self._inbox.quiet(self.descriptor)
        return self.status

    def has_ended(self) -> bool:
        return self.status is not None

    def await_end(self, timeout_s: float) -> None:
        end = self._clock.monotonic() + timeout_s
        while self.status is None and self._clock.monotonic() < end:
            self._clock.step(end)

    def signal(self, number: int) -> None:
        if self.status is not None:
            return
        if number == signal.SIGTERM:
            self.told_at = self.told_at or self._clock.monotonic()
        if number == signal.SIGKILL:
            self.finish(-signal.SIGKILL)
        elif number == signal.SIGSTOP:
            self.hold = procstate.Hold.STOPPED
        elif number == signal.SIGCONT and self.hold is procstate.Hold.STOPPED:
            self.hold = procstate.Hold.NONE
        elif number == signal.SIGTERM and self.hears and self.hold is procstate.Hold.NONE:
            self._clock.later(
                self.end_s, lambda: self.finish(-signal.SIGTERM), is_lasting=self.is_kept
            )

    def signal_group(self, number: int) -> None:
        if not self.is_taken:
            self.signal(number)

    def end_group(self) -> None:
        self.signal_group(signal.SIGKILL)

    def end(self, timeout_s: float) -> int:
        self.signal(signal.SIGTERM)
        self.await_end(timeout_s)
        self.signal(signal.SIGKILL)
        status = self.poll()
        assert status is not None
        return status


class FakeRun:
    """A process run for its output; a worker if it has a module."""

    def __init__(self, child: FakeChild, module: str = "", request: object = None) -> None:
        self.child = child
        self._module = module
        self._request = request

    def finish(self) -> bytes:
        if self.child.poll() is None:
            self.child.end(0.0)
        return self.child.output

    def result(self) -> Any:
        status = self.child.poll()
        data = self.finish()
        name = f"worker {self._module}"
        if status != 0:
            raise ChildFailed(name, processes.outcome(status))
        try:
            return formats.read(formats.find(self._module), data, self._request)
        except checks.Wrong as error:
            raise ChildFailed(name, f"gave a wrong answer: {error}") from error


class FakeProgram:
    """A process that runs for long."""

    def __init__(self, child: FakeChild, mark: str, unit: str = "") -> None:
        self.child = child
        self.unit = unit
        self._mark = mark

    def let_go(self) -> None:
        """It goes on."""

    def tail(self) -> tuple[str, ...]:
        return tuple(self.child.output.decode().splitlines()[-20:])

    def marked(self) -> tuple[str, ...]:
        lines = self.child.output.decode().splitlines()
        return tuple(line for line in lines if self._mark and self._mark in line)


class FakeUnits:
    """What runs in units of a service manager, and outlives who asked for it."""

    def __init__(self) -> None:
        self.running: list[tuple[specs.ProcessSpec, FakeChild]] = []  # the last one first
        self.servers: dict[str, tuple[tuple[str, ...], FakeChild]] = {}


class FakeProcesses:
    """Everything that one agent has started, which ends with it, but for what has a unit."""

    def __init__(
        self,
        inbox: FakeInbox,
        clock: FakeClock,
        behaviour: Behaviour,
        step: Callable[[], None] = lambda: None,
        units: FakeUnits | None = None,
    ) -> None:
        """`step` is called before something is done; `units`: None: there is no manager."""
        self._units = units
        self._inbox = inbox
        self._clock = clock
        self._behaviour = behaviour
        self._step = step
        self._pids = itertools.count(100)
        self.children: list[FakeChild] = []
        self.leftover = 0  # processes of a killed agent's proxy
        self.recorded: int | None = None
        self.removed_memory: int | None = None

    def _start(self) -> FakeChild:
        self._step()
        return FakeChild(next(self._pids), self._inbox, self._clock)

    def _follow(self, child: FakeChild, plan: Plan) -> None:
        self.children = [each for each in self.children if each.status is None] + [child]
        if plan.after_s is not None:
            self._clock.later(
                plan.after_s, lambda: self._end(child, plan), is_lasting=child.is_kept
            )

    def _end(self, child: FakeChild, plan: Plan) -> None:
        if child.status is None:
            child.finish(*plan.end())

    def start_worker(
        self,
        module: str,
        request: object,
        *,
        user: processes.User | None,
        channel: int | None = None,
    ) -> FakeRun:
        child = self._start()
        request = json.loads(json.dumps(request))
        self._follow(child, self._behaviour.worker(module, request))
        return FakeRun(child, module, request)

    def start_run(self, argv: Sequence[str], *, user: processes.User) -> FakeRun:
        child = self._start()
        self._follow(child, self._behaviour.once(argv))
        return FakeRun(child)

    def start_program(self, spec: specs.ProcessSpec) -> FakeProgram:
        child = self._start()
        units = self._units if spec.has_unit else None
        child.is_kept = units is not None
        self._follow(child, self._behaviour.program(child, spec))
        if units is None:
            return FakeProgram(child, spec.remembered)
        before = [each for each in units.running if each[1].status is None][:1]
        units.running = [(spec, child), *(before if spec.epoch else ())]
        return FakeProgram(child, "", UNITS[spec.slot])

    def find_base_id(self, spec: specs.ProcessSpec) -> int:
        return 7

    def remove_memory(self, spec: specs.ProcessSpec) -> None:
        self.removed_memory = spec.base_id

    def find_programs(self) -> tuple[tuple[specs.ProcessSpec, FakeProgram], ...]:
        if self._units is None:
            return ()
        # Of two the one whose end somebody has seen is forgotten.
        left = [each for each in self._units.running if not each[1].is_taken]
        self._units.running = left or self._units.running[:1]
        return tuple(map(self._find, self._units.running))

    def _find(
        self, started: tuple[specs.ProcessSpec, FakeChild]
    ) -> tuple[specs.ProcessSpec, FakeProgram]:
        assert self._units is not None
        spec, child = started
        if child.status is not None:
            # What is left of it is ended, which takes a moment.
            self._units.running = [each for each in self._units.running if each is not started]
            left = FakeChild(0, self._inbox, self._clock)
            self._clock.later(0.1, lambda: left.finish(0))
            return spec, FakeProgram(left, "", UNITS[spec.slot])
        child.move(self._inbox)
        self.children.append(child)
        return spec, FakeProgram(child, "", UNITS[spec.slot])

    def start_server(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        user: processes.User,
        may_have_unit: bool = False,
    ) -> FakeChild:
        child = self._start()
        child.is_kept = may_have_unit and self._units is not None
        self._follow(child, self._behaviour.server(module, arguments))
        if child.is_kept:
            assert self._units is not None
            self._units.servers[module] = tuple(arguments), child
        return child

    def find_server(self, module: str) -> tuple[tuple[str, ...], FakeChild] | None:
        if self._units is None or module not in self._units.servers:
            return None
        arguments, child = self._units.servers.pop(module)
        if child.status is not None:
            return None
        child.move(self._inbox)
        self.children.append(child)
        self._units.servers[module] = arguments, child
        return arguments, child

    def find_held(self, pids: Iterable[int]) -> tuple[int, procstate.Hold]:
        holds = {each.pid: each.hold for each in self.children if each.status is None}
        held = [
            pid for pid in pids if holds.get(pid, procstate.Hold.NONE) is not procstate.Hold.NONE
        ]
        return (held[0], holds[held[0]]) if held else (0, procstate.Hold.NONE)

    def find_children(self, pid: int) -> tuple[int, ...]:
        return ()

    def record(self, pid: int, *, is_beside: bool) -> None:
        self._step()
        self.recorded = pid

    def end_leftover(self) -> int:
        self._step()
        ended, self.leftover = self.leftover, 0
        return ended

    def kill_behind(self, leader: int) -> None:
        self._step()

    def find_killed(self) -> tuple[int, ...]:
        return ()

    def describe_stuck(self, pid: int) -> str:
        return f"still runs after SIGKILL: pid {pid}, state D"

    def end_all(self) -> None:
        """Whoever started them is gone."""
        for child in self.children:
            if not child.is_kept:
                child.finish(-signal.SIGKILL)


def no_memory() -> OSError:
    """Why a process cannot be started."""
    return OSError(errno.ENOMEM, "Cannot allocate memory")
