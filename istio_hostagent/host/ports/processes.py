"""What the agent may ask of other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...supervise import specs
    from .. import procstate
    from ..processes import User


class Child(Protocol):
    """A process that was started here. It dies with this process, unless it has a unit."""

    @property
    def pid(self) -> int:
        """Its number, and that of the process group it leads; 0: it has none yet, or no more."""

    @property
    def descriptor(self) -> int:
        """Readable once it has ended."""

    def poll(self) -> int | None:
        """Take the exit status (negative: the signal that ended it); None while it runs."""

    def has_ended(self) -> bool:
        """Whether it has ended, without taking its status."""

    def await_end(self, timeout_s: float) -> None:
        """Wait for the end, at most so many seconds, without taking the status."""

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""

    def signal_group(self, number: int) -> None:
        """Send a signal to its whole group, as long as its status was not taken."""

    def end_group(self) -> None:
        """SIGKILL to its whole group, as long as its status was not taken."""

    def end(self, timeout_s: float) -> int | None:
        """SIGTERM, after `timeout_s` seconds SIGKILL; returns the exit status.

        None: it still runs a second after that, in a wait that no signal ends.
        """


class Run(Protocol):
    """A process whose whole output is wanted at its end."""

    @property
    def child(self) -> Child:
        """The process."""

    def finish(self) -> bytes:
        """Kill it if it still runs, and return the end of what it wrote, fit to be printed.

        Nobody waits for its end.
        """


class Worker(Run, Protocol):
    """A process of ours that answers one request."""

    def result(self) -> Any:
        """Return its answer, a value of `answers`; raises ChildFailed, also if it still runs."""


class Program(Protocol):
    """A process that runs for long, its output passed on."""

    @property
    def child(self) -> Child:
        """The process."""

    @property
    def unit(self) -> str:
        """The unit that it has of its own, in which it outlives this process; empty: none."""

    def let_go(self) -> None:
        """Look after it no more: one that has a unit goes on."""

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote; also after its end."""

    def marked(self) -> tuple[str, ...]:
        """Return the first of those lines that have what its specification remembers."""


class Processes(Protocol):
    """The one door to other processes."""

    def start_worker(
        self, module: str, request: object, *, user: User | None, channel: int | None = None
    ) -> Worker:
        """Start a worker with its request; raises OSError. `channel`: what it inherits."""

    def start_run(self, argv: Sequence[str], *, user: User) -> Run:
        """Start a program for its output, standard error with it; raises OSError."""

    def start_program(self, spec: specs.ProcessSpec) -> Program:
        """Start a program that runs until it is told to end; raises OSError.

        Where the service manager has units for it, and it may have one, it gets that. With an
        `epoch` above 0 the one that was started last runs on beside it.
        """

    def find_base_id(self, spec: specs.ProcessSpec) -> int:
        """Give the number by which an Envoy and those that take over from it know each other."""

    def remove_memory(self, spec: specs.ProcessSpec) -> None:
        """Remove what an Envoy that was launched so, and has ended, had in common with others."""

    def find_programs(self) -> tuple[tuple[specs.ProcessSpec, Program], ...]:
        """Find what an earlier agent has started in units, with what it was started with.

        The one that was started last comes first. They may be ending already; raises OSError.
        """

    def start_server(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        user: User,
        may_have_unit: bool = False,
    ) -> Child:
        """Start a process of ours that serves until it is told to end; raises OSError.

        `may_have_unit`: where the service manager has one for it, it gets that, and goes on
        without whoever has started it.
        """

    def find_server(self, module: str) -> tuple[tuple[str, ...], Child] | None:
        """Find a server that an earlier agent has started in a unit, with its arguments.

        It may be ending already. None: there is nothing; raises OSError.
        """

    def find_held(self, pids: Iterable[int]) -> tuple[int, procstate.Hold]:
        """Give the first of these that is kept from running, and by what; 0 and NONE: none is."""

    def find_children(self, pid: int) -> tuple[int, ...]:
        """Give the pids of the children of a process, as far as they are known."""

    def record(self, pid: int, *, is_beside: bool) -> None:
        """Write down a process group of the proxy's; `is_beside`: the one before runs on.

        Raises OSError.
        """

    def end_leftover(self) -> int:
        """Kill what is left of the groups written down last; says how many processes that was.

        Nobody waits for their end. Not what `find_programs` finds.
        """

    def kill_behind(self, leader: int) -> None:
        """Kill whoever is left of its group: it has ended, and its status is taken."""

    def find_killed(self) -> tuple[int, ...]:
        """Give those killed by the two before that have not ended yet."""

    def describe_stuck(self, pid: int) -> str:
        """Say in words that SIGKILL has not ended a process; 0: one of the service manager's."""
