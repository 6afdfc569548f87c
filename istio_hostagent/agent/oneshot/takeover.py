"""What Istio's scripts have left, for one verb that waits for it."""

from collections.abc import Iterator

from ...errors import ChildFailed, HostAgentError, NotTakenOver, describe
from ...host import glance, processes
from ...redirect import takeover
from .. import takeover as workers


def look() -> takeover.Outcome:
    """Find out what is there; raises KernelBusy, NotPermitted."""
    return _ask(removes=False, is_replaced=False)


def take_over_all(*, is_replaced: bool) -> Iterator[str]:
    """Take out what is there; gives the lines of the diff.

    `is_replaced`: only while rules of ours are there. Raises NotTakenOver if something
    is left, KernelBusy, NotPermitted.
    """
    outcome = _ask(removes=True, is_replaced=is_replaced)
    if outcome.problem:
        raise NotTakenOver(outcome.problem)
    return map(takeover.render, outcome.taken)


def _ask(*, removes: bool, is_replaced: bool) -> takeover.Outcome:
    started: list[processes.Worker | HostAgentError] = []
    for part in glance.glance():
        request = {"part": part.value, "removes": removes, "is_replaced": is_replaced}
        try:
            started.append(processes.Worker(workers.WORKER, request))
        except OSError as error:
            why = f"cannot be started: {describe(error)}"
            started.append(ChildFailed(f"worker {workers.WORKER}", why))
    return takeover.join(map(_finish, started))


def _finish(started: processes.Worker | HostAgentError) -> takeover.Outcome:
    if isinstance(started, HostAgentError):
        return workers.read(started)
    try:
        return workers.read(started.run(workers.TIMEOUT_S))
    except ChildFailed as error:
        return workers.read(error)
