"""Processes that are started for one result, with a deadline each, off the deciding thread.

At most one of a name runs at a time: one that is started ends the one before. The callback that
takes the result runs in the deciding thread, when the loop sees the process end. One that is given
up is killed, and nobody waits for its end: a worker of the same name starts behind it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import ChildFailed, HostAgentError, describe
from ..host import ports, processes
from . import events, part

Done = Callable[[Any | HostAgentError], None]


class _Task(NamedTuple):
    """A process, when it is given up (monotonic seconds), and what becomes of its result."""

    run: ports.Run
    due: float
    take: Callable[[], object]  # its result; raises HostAgentError
    done: Done


class _Waiting(NamedTuple):
    """A worker that starts when the one before it has ended, or is given up."""

    start: Callable[[], None]
    due: float
    done: Done


class Tasks(part.Part):
    """The running tasks, by name."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        clock: ports.Clock,
        processes: ports.Processes,
        tell: Callable[[str, Sequence[str]], None] = lambda _name, _lines: None,
    ) -> None:
        """Start with none. `tell` gets the last words of a task that has failed."""
        self._tell = tell
        self._inbox = inbox
        self._clock = clock
        self._processes = processes
        self._running: dict[str, _Task] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._killed: dict[str, list[tuple[ports.Child, float]]] = {}  # and when

    def is_running(self, name: str) -> bool:
        """Whether a task of this name is under way."""
        return name in self._running or name in self._waiting

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
        name = name or module
        self.abandon(name)

        def start() -> None:
            try:
                run = self._processes.start_worker(module, request, user=user, channel=channel)
            except OSError as error:
                done(ChildFailed(f"worker {module}", f"cannot be started: {describe(error)}"))
                return
            self._add(name, _Task(run, self._due(timeout_s), run.result, done))

        if name not in self._killed or channel is not None:
            start()  # its end of a channel is there only now
            return
        # Both at once might work on the same files.
        killed_at = min(at for _, at in self._killed[name])
        self._waiting[name] = _Waiting(start, killed_at + processes.STUCK_S, done)

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
            has_ended = run.child.has_ended()
            run.child.end_group()  # what it has started itself ends with it
            status = run.child.poll() if has_ended else None
            return status, run.finish()

        self._add(name, _Task(run, self._due(timeout_s), take, done))

    def _due(self, timeout_s: float) -> float:
        return self._clock.monotonic() + timeout_s

    def _add(self, name: str, task: _Task) -> None:
        self._running[name] = task
        self._watch(name, task.run.child)

    def _watch(self, name: str, child: ports.Child) -> None:
        ended = events.TaskEnded(name)
        self._inbox.watch(child.descriptor, lambda: ended)

    def handle(self, event: events.Event) -> None:
        """Take the results of those that have ended, and give up those whose time is over."""
        match event:
            case events.TaskEnded(name):
                self.ended(name)
            case events.TimePassed():
                self.tick()

    def deadline(self) -> float | None:
        """When the next task is to be given up (monotonic seconds)."""
        moments = [task.due for task in self._running.values()]
        moments += [task.due for task in self._waiting.values()]
        return min(moments, default=None)

    def tick(self) -> None:
        """Give up the tasks whose time is over."""
        now = self._clock.monotonic()
        for name in [name for name, task in self._running.items() if task.due <= now]:
            if name in self._running:  # a result may be a reason to abandon another
                self._finish(name)
        for name in [name for name, task in self._waiting.items() if task.due <= now]:
            if name in self._waiting:
                stuck, _ = self._killed[name][0]
                reason = f"the one before {self._processes.describe_stuck(stuck.pid)}"
                error = ChildFailed(f"worker {name}", f"cannot be started: {reason}")
                self._waiting.pop(name).done(error)

    def ended(self, name: str) -> None:
        """The process of a task has ended; one of this name may have been begun since."""
        self._bury(name)
        if name in self._running and self._running[name].run.child.has_ended():
            self._finish(name)

    def _finish(self, name: str) -> None:
        """Take the result of an ended task, or kill it, and hand the result on."""
        task = self._running.pop(name)
        self._inbox.forget(task.run.child.descriptor)
        try:
            result = task.take()
        except HostAgentError as error:
            result = error
            if isinstance(error, ChildFailed):
                self._tell(name, error.tail)
        self._let_end(name, task.run.child)
        task.done(result)

    def abandon(self, name: str) -> None:
        """Kill a task, if it runs, without taking its result."""
        self._waiting.pop(name, None)
        if name in self._running:
            run = self._running.pop(name).run
            self._inbox.forget(run.child.descriptor)
            run.child.end_group()
            run.finish()
            self._let_end(name, run.child)

    def cancel(self) -> None:
        """Kill every task without taking its result."""
        for name in [*self._running, *self._waiting]:
            self.abandon(name)

    # -- those that were killed -----------------------------------------------------------------

    @property
    def stuck(self) -> tuple[str, ...]:
        """Those that have not ended although they were killed."""
        late_at = self._clock.monotonic() - processes.STUCK_S
        return tuple(
            f"{name} {self._processes.describe_stuck(child.pid)}"
            for name, killed in self._killed.items()
            for child, at in killed
            if at <= late_at
        )

    def _let_end(self, name: str, child: ports.Child) -> None:
        if child.poll() is None:
            self._killed.setdefault(name, []).append((child, self._clock.monotonic()))
            self._watch(name, child)

    def _bury(self, name: str) -> None:
        """Take the status of those that have ended, and start who waited for that."""
        if name not in self._killed:
            return
        left = []
        for child, at in self._killed[name]:
            if not child.has_ended():
                left.append((child, at))
                continue
            self._inbox.forget(child.descriptor)
            child.poll()
        if left:
            self._killed[name] = left
            return
        del self._killed[name]
        if name in self._waiting:
            self._waiting.pop(name).start()
