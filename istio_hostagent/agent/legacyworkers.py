"""Workers that change legacy tables: one for each family, both at the same time.

Not here: which steps they take (`legacy`, `redirect.xtplan`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import (
    ApplyRejected,
    ChildFailed,
    HostAgentError,
    HostUnsupported,
    KernelBusy,
    describe,
)
from ..host import ports
from ..host.answers import xtables as answers
from ..redirect import xtables
from ..redirect.xtables import Family, XTable
from . import events

WORKER = "xtables"

Answer = Callable[[answers.Changed | HostAgentError], None]
# Starts a worker with a request; what it gives ends the worker without an answer.
Start = Callable[[Mapping[str, Any], Answer], Callable[[], None]]


class Change:
    """One change of the tables of all families, by workers at the same time."""

    def __init__(self, start: Start) -> None:
        """Start none yet."""
        self._start = start
        self._under_way: dict[Family, Callable[[], None]] = {}
        self._is_given_up = False

    def begin(
        self,
        steps: Mapping[Family, Sequence[XTable]],
        done: Callable[[HostAgentError | None], None],
    ) -> None:
        """Take these steps; `done` gets the first error once all have ended."""
        left = {family for family, each in steps.items() if each}
        errors: list[HostAgentError] = []
        if not left:
            done(None)
            return

        def ended(family: Family, answer: answers.Changed | HostAgentError) -> None:
            if self._is_given_up:
                return
            left.discard(family)
            self._under_way.pop(family, None)
            error = answer if isinstance(answer, HostAgentError) else _error_of(answer)
            if error is not None:
                errors.append(error)
            if not left:
                done(errors[0] if errors else None)

        for family in tuple(left):
            request = {
                "family": family.value,
                "steps": [xtables.to_json(table) for table in steps[family]],
            }
            end = self._start(request, functools.partial(ended, family))
            if family in left:
                self._under_way[family] = end

    def end(self) -> None:
        """End all workers, without an answer."""
        self._is_given_up = True
        for end in self._under_way.values():
            end()
        self._under_way.clear()


def later(processes: ports.Processes, inbox: ports.Inbox[events.Event]) -> Start:
    """Start workers whose answers come as events, in a later turn."""

    def start(request: Mapping[str, Any], done: Answer) -> Callable[[], None]:
        try:
            worker = processes.start_worker(WORKER, request, user=None)
        except OSError as error:
            done(ChildFailed(f"worker {WORKER}", f"cannot be started: {describe(error)}"))
            return lambda: None
        descriptor = worker.child.descriptor

        def read() -> events.Event:
            inbox.forget(descriptor)
            return events.RulesAnswered(lambda: done(_answer_of(worker)))

        def reap() -> None:
            inbox.forget(descriptor)
            worker.child.poll()

        def end() -> None:
            inbox.forget(descriptor)
            worker.finish()
            if worker.child.poll() is None:
                inbox.watch(descriptor, reap)

        inbox.watch(descriptor, read)
        return end

    return start


def _answer_of(worker: ports.Worker) -> answers.Changed | HostAgentError:
    try:
        found: answers.Changed = worker.result()
    except HostAgentError as error:
        return error
    return found


def _error_of(answer: answers.Changed) -> HostAgentError | None:
    error = answer.error
    if error is None:
        return None
    if error.code == ApplyRejected.code:
        return ApplyRejected(error.message, step=f"worker {WORKER}", errno=0)
    if error.code == HostUnsupported.code:
        return HostUnsupported(error.message, hint=error.hint)
    return KernelBusy(error.message, hint=error.hint)
