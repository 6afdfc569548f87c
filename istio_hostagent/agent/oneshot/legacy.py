"""Legacy tables for one verb: loaded only where there are some, or where they are chosen."""

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ChildFailed, HostAgentError, describe
from ...host import processes, xtkernel
from .. import legacy, legacyworkers

# With 10 000 networks a worker takes 5 s, and it may wait for the lock of xtables.
_TIME_S = 30.0


def make() -> legacy.LegacyRules:
    """Give rules whose changes are over when they have been asked for."""
    return legacy.LegacyRules(xtkernel.LegacyTables(), _work)


def _work(request: Mapping[str, Any], done: legacyworkers.Answer) -> Callable[[], None]:
    """Let a worker change tables, and wait for it."""
    answer: Any
    try:
        answer = processes.Worker(legacyworkers.WORKER, request, user=None).run(_TIME_S)
    except OSError as error:
        answer = ChildFailed(
            f"worker {legacyworkers.WORKER}", f"cannot be started: {describe(error)}"
        )
    except HostAgentError as error:
        answer = error
    done(answer)
    return lambda: None
