"""The processes of one agent: workers, programs run for their output, and the proxy."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..supervise import specs
from . import leftover, mailbox, output, processes, procstate


class Program(NamedTuple):
    """A process that runs for long, and the pipe that takes what it writes."""

    child: processes.Child
    pipe: output.OutputPipe

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote; also after its end."""
        return self.pipe.tail()


class Processes:
    """The one door to other processes (`processes`), joined to an inbox."""

    def __init__(self, inbox: mailbox.Mailbox[Any], record: str) -> None:
        """`record` is the path where the proxy that runs is written down."""
        self._inbox = inbox
        self._leftover = leftover.Leftover(record)
        self._pipe: output.OutputPipe | None = None

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

    def start_program(self, spec: specs.ProcessSpec) -> Program:
        """Start a program that runs until it is told to end; raises OSError.

        The output of the one before is not read any more.
        """
        if self._pipe is not None:
            self._pipe.close()
        pipe = output.OutputPipe(self._inbox, spec.name, spec.user_uid, spec.user_gid)
        self._pipe = pipe
        try:
            child = processes.spawn(
                spec.argv,
                user=processes.User(spec.user_uid, spec.user_gid, is_net_admin=spec.is_net_admin),
                environment={**processes.BASE_ENVIRONMENT, **dict(spec.environment)},
                directory=spec.directory,
                stdout=pipe.write_end,
                stderr=pipe.write_end,
            )
        finally:
            pipe.handed_over()
        return Program(child, pipe)

    def find_held(self, pids: Iterable[int]) -> tuple[int, procstate.Hold]:
        """Give the first of these that is kept from running, and by what; 0 and NONE: none is."""
        return procstate.find_held(pids)

    def find_children(self, pid: int) -> tuple[int, ...]:
        """Give the pids of the children of a process, as far as they are known."""
        return procstate.find_children(pid)

    def record(self, pid: int) -> None:
        """Write down which process group is the proxy's; raises OSError."""
        self._leftover.record(pid)

    def end_leftover(self) -> int:
        """Kill what is left of the group written down last; says how many processes that was."""
        return self._leftover.kill()

    def kill_behind(self, leader: int) -> None:
        """Kill whoever is left of its group: it has ended, and its status is taken."""
        self._leftover.kill_behind(leader)

    def find_killed(self) -> tuple[int, ...]:
        """Give those of a leftover that have not ended yet."""
        return self._leftover.find_killed()

    def describe_stuck(self, pid: int) -> str:
        """Say in words that SIGKILL has not ended a process."""
        return processes.still_running(pid)
