"""The processes of one agent: workers, programs run for their output, and the proxy.

The proxy is a child of the agent's, or has a unit of its own where there are such (`proxyunit`).
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..supervise import specs
from . import leftover, mailbox, output, processes, procstate, sharedmemory

if TYPE_CHECKING:
    from . import proxyunit, unitchild

_UNANSWERED = "has a unit that the service manager has not ended yet (`systemctl list-jobs`)"


class Program(NamedTuple):
    """A process that runs for long, and the pipe that takes what it writes."""

    child: processes.Child
    pipe: output.OutputPipe
    unit: str = ""

    def let_go(self) -> None:
        """It ends with this process: there is nothing to leave."""

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote; also after its end."""
        return self.pipe.tail()

    def marked(self) -> tuple[str, ...]:
        """Return the first of those lines that have what its specification remembers."""
        return self.pipe.marked()


class Processes:
    """The one door to other processes (`processes`), joined to an inbox."""

    def __init__(
        self,
        inbox: mailbox.Mailbox[Any],
        record: str,
        make_units: "Callable[..., proxyunit.Units] | None" = None,
        units_of_servers: Mapping[str, str] | None = None,
    ) -> None:
        """`record` is the path where the proxy that runs is written down.

        `make_units`: a proxy that may have a unit of its own gets one of these, and so do the
        servers of which `units_of_servers` has a unit; each of them is written down beside it.
        """
        self._inbox = inbox
        self._leftover = leftover.Leftover(record)
        self._units = make_units(self._leftover) if make_units is not None else None
        self._servers: dict[str, proxyunit.Units] = {}
        if make_units is not None:
            for module, unit in (units_of_servers or {}).items():
                noted = leftover.Leftover(f"{record}.{module}")
                self._servers[module] = make_units(noted, unit)
        self._pipes: list[output.OutputPipe] = []

    def start_worker(
        self,
        module: str,
        request: object,
        *,
        user: processes.User | None,
        channel: int | None = None,
    ) -> processes.Worker:
        """Start a worker with its request; raises OSError. `channel`: what it inherits."""
        return processes.Worker(module, request, user=user, channel=channel)

    def start_run(self, argv: Sequence[str], *, user: processes.User) -> processes.Run:
        """Start a program for its output, standard error with it; raises OSError."""
        return processes.Run(argv, user=user, has_errors=True)

    def start_program(self, spec: specs.ProcessSpec) -> "Program | proxyunit.UnitProgram":
        """Start a program that runs until it is told to end; raises OSError.

        The output of those before is not read any more, but for one that it takes over from.
        """
        before = self._pipes[-1:] if spec.epoch else []
        for each in self._pipes:
            if each not in before:
                each.close()
        self._pipes = before
        if self._units is not None and spec.has_unit:
            return self._units.start(spec)
        pipe = output.OutputPipe(
            self._inbox, spec.name, spec.user_uid, spec.user_gid, spec.remembered
        )
        self._pipes.append(pipe)
        try:
            child = processes.spawn(
                spec.argv,
                user=processes.User(spec.user_uid, spec.user_gid, is_net_admin=spec.is_net_admin),
                environment={**processes.BASE_ENVIRONMENT, **dict(spec.environment)},
                directory=spec.working_directory,
                stdout=pipe.write_end,
                stderr=pipe.write_end,
            )
        finally:
            pipe.handed_over()
        return Program(child, pipe)

    def start_server(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        user: processes.User,
        may_have_unit: bool = False,
    ) -> "processes.Child | unitchild.UnitChild":
        """Start a process of ours that serves until it is told to end; raises OSError.

        What it says goes where our own log goes, or its unit's.
        """
        units = self._servers.get(module) if may_have_unit else None
        if units is None:
            return processes.start_server(module, arguments, user=user)
        made = importlib.import_module(".proxyunit", __package__)
        program: proxyunit.UnitProgram = units.start(made.server_spec(module, arguments, user))
        return program.child

    def find_server(self, module: str) -> "tuple[tuple[str, ...], unitchild.UnitChild] | None":
        """Find a server that an earlier agent has started in a unit; None: nothing."""
        units = self._servers.get(module)
        found = units.find() if units is not None else ()
        if not found:
            return None
        spec, program = found[0]
        made = importlib.import_module(".proxyunit", __package__)
        arguments: tuple[str, ...] = made.server_arguments(spec)
        return arguments, program.child

    def find_base_id(self, spec: specs.ProcessSpec) -> int:
        """Give the number by which an Envoy and those that take over from it know each other."""
        return sharedmemory.find_base_id(spec.directory, spec.user_uid)

    def remove_memory(self, spec: specs.ProcessSpec) -> None:
        """Remove what an Envoy that was launched so, and has ended, had in common with others."""
        with contextlib.suppress(OSError):
            sharedmemory.remove(spec.base_id, spec.user_uid)

    def find_programs(self) -> "tuple[tuple[specs.ProcessSpec, proxyunit.UnitProgram], ...]":
        """Find what an earlier agent has started in units, the last one first; raises OSError."""
        return self._units.find() if self._units is not None else ()

    def find_held(self, pids: Iterable[int]) -> tuple[int, procstate.Hold]:
        """Give the first of these that is kept from running, and by what; 0 and NONE: none is."""
        return procstate.find_held(pids)

    def find_children(self, pid: int) -> tuple[int, ...]:
        """Give the pids of the children of a process, as far as they are known."""
        return procstate.find_children(pid)

    def record(self, pid: int, *, is_beside: bool) -> None:
        """Write down a process group of the proxy's; `is_beside`: the one before runs on.

        Raises OSError.
        """
        self._leftover.record(pid, is_beside=is_beside)

    def end_leftover(self) -> int:
        """Kill what is left of the groups written down last; says how many processes that was.

        Not what `find_programs` finds.
        """
        if self._units is not None and self._leftover.find_units():
            return 0
        return self._leftover.kill()

    def kill_behind(self, leader: int) -> None:
        """Kill whoever is left of its group: it has ended, and its status is taken."""
        self._leftover.kill_behind(leader)

    def find_killed(self) -> tuple[int, ...]:
        """Give those of a leftover that have not ended yet."""
        return self._leftover.find_killed()

    def describe_stuck(self, pid: int) -> str:
        """Say in words that SIGKILL has not ended a process; 0: one of the service manager's."""
        return processes.still_running(pid) if pid else _UNANSWERED
