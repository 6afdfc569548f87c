"""Whether an Envoy can take over from the one that runs, or has to be started in its place.

It can if their hot restart is of the same version, which only the programs themselves tell. What
cannot be told counts as no: an ordinary restart is always possible.
"""

import logging
from collections.abc import Callable

from ..supervise import child, specs
from . import fields, succession, supervisor

logger = logging.getLogger(__name__)

# Pairs of programs that are known; those compared first are forgotten.
MAX_KNOWN = 16
_Pair = tuple[tuple[int, ...], tuple[int, ...]]


class Upgrade:
    """Compares what runs with what is to run."""

    def __init__(
        self, successors: succession.Succession, supervised: supervisor.Supervisor
    ) -> None:
        """Nothing is compared yet."""
        self._successors = successors
        self._child = supervised
        self._known: dict[_Pair, str] = {}  # why not; empty: it can

    @property
    def kind_of_restart(self) -> str:
        """How the next change of what runs comes about."""
        launch = self._child.launched
        return "hot" if launch is not None and launch.shutdown_s else "ordinary"

    def compare(self, task: str, spec: specs.ProcessSpec, done: Callable[[], None]) -> None:
        """Find out about what is to run as `spec` says; `task`: for whom, one at a time."""
        pair, launch = self._pair(spec), self._child.launched
        if launch is None or pair is None or pair in self._known or pair[0] == pair[1]:
            done()
            return

        def compared(why: str) -> None:
            self._known[pair] = why
            if not why:
                self._known[pair[::-1]] = ""  # going back is not compared: it has worked
            while len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
            done()

        self._successors.compare(task, launch, spec.argv[0], compared)

    def forget(self, task: str) -> None:
        """Whoever has asked is not interested any more."""
        self._successors.forget_comparison(task)

    def _pair(self, spec: specs.ProcessSpec) -> _Pair | None:
        """What runs and what is to, where one may take over from the other by all else."""
        launch = self._child.launched
        if launch is None or not specs.may_succeed(launch, spec):
            return None
        return launch.program, spec.program

    def may_succeed(self, spec: specs.ProcessSpec) -> bool:
        """Whether it takes over now; says what is against it where only its program is."""
        pair = self._pair(spec)
        if pair is None or self._child.state is not child.State.READY:
            return False
        why = "" if pair[0] == pair[1] else self._known.get(pair, "they were not compared")
        if not self._child.may_succeed(spec):
            why = "connections of the one before are still drained"
        if why:
            logger.warning(
                "Envoy is ended and started again: another one cannot take over",
                extra=fields.of(DETAIL=why),
            )
        return not why
