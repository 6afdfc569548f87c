"""The predecessor part of the agent: takes over from the service of another Istio agent.

A worker tells systemd and holds connections; when is decided in `lifecycle`. What it has left of
rules is another matter (`takeover`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..config import model
from ..errors import HostAgentError, NotTakenOver
from ..lifecycle import predecessor as states
from ..lifecycle.steps import Step
from . import events, fields, part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..host import ports
    from ..host.answers import predecessor as answers
    from ..lifecycle.life import Life
    from ..lifecycle.situation import Now
    from . import tasks

    # What went wrong, for how many seconds connections were held, and whether some still are.
    Ended = Callable[[str, float, bool], None]

logger = logging.getLogger(__name__)

WORKER = "predecessor"
# In these tables its rules and ours have the same names, and its clean-up would take ours out.
_LEGACY = (
    "the rules of this host are in legacy tables, where one cannot take the other's place; stop it"
    " (systemctl stop istio), and this host joins"
)
# Beside the drain time it waits for the end, and for what cleans up.
PREPARE_S = 10.0
TAKE_OVER_S = 40.0
LET_IN_S = 30.0
GIVE_BACK_S = 45.0
_HELD = (states.State.HELD, states.State.STUCK, states.State.RETURNING)


class PredecessorPart(part.Part):
    """Knows whether there is one, and replaces it."""

    def __init__(
        self,
        known: ports.Predecessors,
        work: tasks.Tasks,
        clock: ports.Clock,
        rules: ports.PacketRules,
    ) -> None:
        """Look; an earlier agent that has ended on the way has left connections held."""
        self._known = known
        self._work = work
        self._clock = clock
        self._rules = rules
        self._config: model.Config | None = None
        # Nothing is to be held any more, and it could not be said so: when that is tried again.
        self._let_in_at: float | None = None
        self._return_error = ""
        self.held_s: float | None = None
        is_held = known.is_held()
        self.units = known.find_running()
        self.value = states.begin(is_held=is_held, is_running=bool(self.units))
        if is_held:
            self.units = known.find_recorded() or self.units or known.units[:1]

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """To replace it. It is given back by `performer`, which frees its ports before."""
        return {
            Step.PREPARE: part.silently(self.prepare),
            Step.TAKE_OVER: part.silently(self.take_over),
            Step.LET_IN: part.silently(self.let_in),
        }

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take where captured connections arrive."""
        self._config = config

    def handle(self, event: events.Event) -> None:
        """With each turn it is looked whether it runs; with each reading it may be tried again."""
        match event:
            case events.TimePassed():
                self._look()
            case events.Reloading():
                self.value = states.retry(self.value)

    def deadline(self) -> float | None:
        """When connections are to be let in that still wait."""
        return self._let_in_at

    def _look(self) -> None:
        if self._let_in_at is not None and self._clock.monotonic() >= self._let_in_at:
            self._let_in_at = None
            self._start("let_in", LET_IN_S, self._returned)
        if self.value.state in (states.State.NONE, states.State.RUNNING):
            self.units = self._known.find_running()
            self.value = states.seen(self.value, is_running=bool(self.units))
            if self._rules.is_polled:
                self.value = states.left_alone(self.value, _LEGACY)

    def prepare(self) -> None:
        """Before rules of ours go in, hold what they would lead where it does not listen."""
        self.value = states.preparing(self.value)
        self._start("prepare", PREPARE_S, self._prepared)

    def take_over(self) -> None:
        """Stop it, with new connections held from shortly before its end on."""
        logger.info("taking over from %s", self._names)
        self.value = states.stopping(self.value)
        drain_s = self._config.proxy.drain_s if self._config else 0.0
        self._start("take_over", TAKE_OVER_S + drain_s, self._stopped)

    def let_in(self) -> None:
        """Our proxy serves: hold new connections no longer."""
        self.value = states.opening(self.value)
        self._start("let_in", LET_IN_S, self._opened)

    def give_back(self) -> None:
        """This host does not join: what served before is started again."""
        logger.warning("not taken over; started again: %s", self._names)
        self.value = states.returning(self.value)
        self._start("give_back", GIVE_BACK_S, self._returned)

    @property
    def _names(self) -> str:
        return " and ".join(self.units)

    def _start(self, act: str, timeout_s: float, then: Ended) -> None:
        # What was begun by an earlier agent is ended before any file was read.
        settings = self._config.redirection if self._config else model.Redirection()
        mark = settings.transparent.mark if settings.transparent is not None else None
        request = {
            "act": act,
            "units": list(self.units),
            "ports": [
                settings.outbound_capture_port,
                settings.inbound_capture_port,
                *((settings.dns.port,) if settings.dns.is_captured else ()),
            ],
            "mark": mark,
            "drain_s": self._config.proxy.drain_s if self._config else 0.0,
        }

        def done(answer: answers.Answer | HostAgentError) -> None:
            error = answer.text if isinstance(answer, HostAgentError) else ""
            if isinstance(answer, HostAgentError):
                then(error, 0.0, self._known.is_held())
            else:
                error = answer.error.message if answer.error is not None else ""
                then(error, answer.held_s, answer.is_held)

        self._work.start_worker(WORKER, request, user=None, timeout_s=timeout_s, done=done)

    def _prepared(self, error: str, _held_s: float, is_held: bool) -> None:
        now = self._clock.monotonic()
        self.value = states.prepared(self.value, now, error, is_held=is_held)
        if error:
            extra = fields.of(CODE=NotTakenOver.code, DETAIL=error)
            logger.error("not taken over: %s", self._names, extra=extra)

    def _stopped(self, error: str, _held_s: float, _is_held: bool) -> None:
        self.value = states.stopped(self.value, self._clock.monotonic(), error)
        if error:
            extra = fields.of(CODE=NotTakenOver.code, DETAIL=error)
            logger.error("%s could not be stopped", self._names, extra=extra)

    def _opened(self, error: str, held_s: float, is_held: bool) -> None:
        is_given_back = self.value.is_given_back
        failure = error if is_held else ""
        self.value = states.opened(self.value, self._clock.monotonic(), failure)
        extra = fields.of(CODE=NotTakenOver.code, DETAIL=error)
        if failure:
            logger.error("new connections are still held", extra=extra)
            return
        self.held_s = held_s
        if error:
            logger.warning("not known to systemd as a name of ours: %s", self._names, extra=extra)
        if is_given_back:
            return
        logger.info(
            "took over from %s; new connections waited for %.1f s at most",
            self._names,
            held_s,
            extra=fields.of(SECONDS=round(held_s, 3)),
        )

    def _returned(self, error: str, held_s: float, is_held: bool) -> None:
        self._return_error = error = self._return_error or error  # the first one says why
        if error:
            extra = fields.of(CODE=NotTakenOver.code, DETAIL=error)
            logger.error("not there again: %s", self._names, extra=extra)
        if is_held and error:
            # Nobody else lets connections in, and our rules stay until somebody has.
            self._let_in_at = self._clock.monotonic() + states.PAUSE_S
            return
        self.held_s, self._return_error = held_s, ""
        is_running = bool(self._known.find_running())
        self.value = states.returned(self.value, error, is_running=is_running, is_held=is_held)

    def obstacle(self, life: Life) -> str:
        """Why it was not replaced."""
        error = self._return_error or self.value.last_error
        if not (error or self.value.has_failed):
            return ""
        error = error or life.attempt.last_error
        if self.value.state in _HELD:
            return (
                f"new connections wait while another agent is replaced: {error}; it is tried again"
            )
        is_running = self.value.state in (states.State.RUNNING, states.State.BACK)
        again = "it runs; " if is_running else ""
        return (
            f"not taken over from another agent: {error} ({again}`istio-hostagent reload` tries"
            " once more)"
        )

    def code(self, _life: Life) -> str:
        """It is there still."""
        return NotTakenOver.code

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        return {
            "state": self.value.state.value,
            "units": list(self.units),
            "held_s": None if self.held_s is None else round(self.held_s, 3),
            "last_error": self.value.last_error,
        }
