"""Processes that are started for one result, with a deadline each, off the deciding thread.

At most one of a name runs at a time: one that is started ends the one before. The callback that
takes the result runs in the deciding thread, when the loop sees the process end.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import ChildFailed, HostAgentError
from ..host import ports, processes
from . import events

Done = Callable[[Any | HostAgentError], None]


class _Task(NamedTuple):
    """A process, when it is given up (monotonic seconds), and what becomes of its result."""

    run: ports.Run
    due: float
    take: Callable[[], object]  # its result; raises HostAgentError
    done: Done


class Tasks:
    """The running tasks, by name."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        clock: ports.Clock,
        processes: ports.Processes,
    ) -> None:
        """Start with none."""
        self._inbox = inbox
        self._clock = clock
        self._processes = processes
        self._running: dict[str, _Task] = {}

    def is_running(self, name: str) -> bool:
        """Whether a task of this name has not ended yet."""
        return name in self._running

    def start_worker(
        self,
        module: str,
        request: object,
        *,
        user: processes.User | None,
        timeout_s: float,
        done: Done,
        name: str = "",
        channel: int | None = None,
    ) -> None:
        """Start a worker; `done` gets its answer, or the error that kept it from giving one.

        The task is called after the module unless it has a `name` of its own. `channel`: a
        descriptor that it inherits.
        """
        self.abandon(name or module)
        try:
            run = self._processes.start_worker(module, request, user=user, channel=channel)
        except OSError as error:
            done(ChildFailed(f"worker {module}", f"cannot be started: {error}"))
            return
        self._add(name or module, _Task(run, self._due(timeout_s), run.result, done))

    def start_program(
        self,
        name: str,
        argv: Sequence[str],
        *,
        user: processes.User,
        timeout_s: float,
        done: Done,
    ) -> None:
        """Start a program for its output; `done` gets (status, output). Raises OSError."""
        self.abandon(name)
        run = self._processes.start_run(argv, user=user)

        def take() -> tuple[int | None, bytes]:
            status = run.child.poll()
            return status, run.finish()

        self._add(name, _Task(run, self._due(timeout_s), take, done))

    def _due(self, timeout_s: float) -> float:
        return self._clock.monotonic() + timeout_s

    def _add(self, name: str, task: _Task) -> None:
        self._running[name] = task
        ended = events.TaskEnded(name)
        self._inbox.watch(task.run.child.descriptor, lambda: ended)

    def deadline(self) -> float | None:
        """When the next task is to be given up (monotonic seconds)."""
        return min((task.due for task in self._running.values()), default=None)

    def tick(self) -> None:
        """Give up the tasks whose time is over."""
        now = self._clock.monotonic()
        for name in [name for name, task in self._running.items() if task.due <= now]:
            if name in self._running:  # a result may be a reason to abandon another
                self._finish(name)

    def ended(self, name: str) -> None:
        """The process of a task has ended; one of this name may have been begun since."""
        if name in self._running and self._running[name].run.child.has_ended():
            self._finish(name)

    def _finish(self, name: str) -> None:
        """Take the result of an ended task, or end it, and hand the result on."""
        task = self._running.pop(name)
        self._inbox.forget(task.run.child.descriptor)
        try:
            result = task.take()
        except HostAgentError as error:
            result = error
        task.done(result)

    def abandon(self, name: str) -> None:
        """End a task, if it runs, without taking its result."""
        if name in self._running:
            run = self._running.pop(name).run
            self._inbox.forget(run.child.descriptor)
            run.finish()

    def cancel(self) -> None:
        """End every task without taking its result."""
        for name in list(self._running):
            self.abandon(name)
