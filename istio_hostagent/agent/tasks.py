"""Processes that are started for one result, with a deadline each, off the deciding thread.

At most one of a name runs at a time. The callback that takes the result runs in the deciding
thread, when the loop sees the process end.
"""

from collections.abc import Callable
from typing import Any

from ..errors import ChildFailed, HostAgentError
from ..host import mailbox, ports, processes
from . import events

Done = Callable[[Any | HostAgentError], None]


class Tasks:
    """The running tasks, by name."""

    def __init__(self, inbox: mailbox.Mailbox[events.Event], clock: ports.Clock) -> None:
        """Start with none."""
        self._inbox = inbox
        self._clock = clock
        self._running: dict[str, tuple[processes.Run, float, Done]] = {}

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
        try:
            run: processes.Run = processes.Worker(module, request, user=user, channel=channel)
        except OSError as error:
            done(ChildFailed(f"worker {module}", f"cannot be started: {error}"))
            return
        self._add(name or module, run, timeout_s, done)

    def start_program(
        self, name: str, run: processes.Run, *, timeout_s: float, done: Done
    ) -> None:
        """Look after a program that was started for its output; `done` gets (status, output)."""
        self._add(name, run, timeout_s, done)

    def _add(self, name: str, run: processes.Run, timeout_s: float, done: Done) -> None:
        self._running[name] = (run, self._clock.monotonic() + timeout_s, done)
        ended = events.TaskEnded(name)
        self._inbox.watch(run.child.descriptor, lambda: ended)

    def deadline(self) -> float | None:
        """When the next task is to be given up (monotonic seconds)."""
        return min((deadline for _, deadline, _ in self._running.values()), default=None)

    def tick(self) -> None:
        """Give up the tasks whose time is over."""
        now = self._clock.monotonic()
        for name in [name for name, (_, due, _) in self._running.items() if due <= now]:
            if name in self._running:  # a result may be a reason to abandon another
                self._finish(name)

    def ended(self, name: str) -> None:
        """The process of a task has ended; one of this name may have been begun since."""
        if name in self._running and self._running[name][0].child.has_ended():
            self._finish(name)

    def _finish(self, name: str) -> None:
        """Take the result of an ended task, or end it, and hand the result on."""
        run, _, done = self._running.pop(name)
        self._inbox.forget(run.child.descriptor)
        if isinstance(run, processes.Worker):
            try:
                result = run.result()
            except HostAgentError as error:
                result = error
        else:
            status = run.child.poll()
            output = run.finish()
            result = (status, output)
        done(result)

    def abandon(self, name: str) -> None:
        """End a task, if it runs, without taking its result."""
        if name in self._running:
            run, _, _ = self._running.pop(name)
            self._inbox.forget(run.child.descriptor)
            run.finish()

    def cancel(self) -> None:
        """End every task without taking its result."""
        for name in list(self._running):
            self.abandon(name)
