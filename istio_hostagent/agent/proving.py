"""What packets show of the rules that are in, and what that comes to.

Not here: sending them (`prober`), what an outcome says of one expectation (`proof`), and what the
findings of one proof come to (`verdict`).
"""

import logging
from collections.abc import Callable

from ..config import model as config
from ..errors import HostAgentError, StillDrifted
from ..host import garbage, ports
from ..lifecycle import redirection as states
from ..redirect import expectations
from . import doubts, fields, leftovers, openings, prober, proof, standing, verdict, wanted

logger = logging.getLogger(__name__)

# What packets disprove is believed so much later: whoever changed our rules under them is told of
# by then, and the rules go in again instead.
VERDICT_S = 0.02


class Proving:
    """The proofs of one agent, one at a time."""

    def __init__(
        self,
        packets: prober.Prober,
        clock: ports.Clock,
        state: standing.Standing,
        desired: wanted.Wanted,
        others: leftovers.Leftovers,
        changes: doubts.Doubts,
        firewall: openings.Openings,
    ) -> None:
        """Start with nothing proven."""
        self._packets = packets
        self._clock = clock
        self._state = state
        self._desired = desired
        self._others = others
        self._changes = changes
        self._firewall = firewall
        self._disproof: StillDrifted | None = None  # what packets have shown, and nobody believes
        self._disproved_at = 0.0
        self.findings: tuple[expectations.Finding, ...] = ()
        self.proven_at: float | None = (
            None  # when packets have shown something last (unix seconds)
        )

    def prove(self) -> None:
        """Send the probe packets; what they show arrives now or later, in `_proved`."""
        facts = self._desired.facts
        assert facts is not None
        self._state.value = states.proof_begun(self._state.value)
        self._changes.answer()
        made = self._desired.build_expectations()
        # Whatever made the proof necessary may be a script of Istio's, or a firewall that was
        # loaded anew.
        self._others.take_over(
            lambda _: self._refresh_openings(lambda: self._send(made, facts)),
            is_left_to_others=self._desired.is_left_to_others,
        )

    def _refresh_openings(self, then: Callable[[], None]) -> None:
        settings = self._desired.settings
        assert settings is not None
        if self._desired.is_left_to_others:
            self._firewall.take_out()
            then()
        else:
            self._firewall.refresh(settings, then)

    def _send(self, made: tuple[expectations.Expectation, ...], facts: config.HostFacts) -> None:
        if not self._is_about_these:
            # Taken out or changed meanwhile: packets would show nothing of these rules.
            now = self._clock.monotonic()
            self._state.value = states.proof_ended(self._state.value, states.Proof.NOTHING, now)
            return
        if self._desired.is_none:
            self._need_nothing()
            return
        self._packets.prove(made, facts, lambda found: self._proved(made, facts, found))

    def _need_nothing(self) -> None:
        """Nothing is redirected: there is nothing that a packet could show."""
        was_shown, now = self._state.value.is_shown, self._clock.monotonic()
        self.findings = ()
        self._state.value = states.proof_ended(self._state.value, states.Proof.NEEDLESS, now)
        if not was_shown:
            logger.info("nothing is redirected: applications speak to the proxy by themselves")

    def _proved(
        self,
        made: tuple[expectations.Expectation, ...],
        facts: config.HostFacts,
        found: prober.Outcomes | HostAgentError,
    ) -> None:
        garbage.give_back()
        now = self._clock.monotonic()
        if isinstance(found, HostAgentError):
            self._not_proven(found, now)
            return
        findings = proof.evaluate(made, found)
        if self._is_about_these:
            self.findings = findings
        if (disproof := verdict.find_disproof(findings)) is not None:
            self._disproof, self._disproved_at = disproof, now
            return
        settings = self._desired.settings
        assert settings is not None

        def opened(has_changed: bool) -> None:
            if has_changed:
                self._send(made, facts)
            else:
                self._shown(findings, facts)

        if not (self._is_about_these and self._firewall.open(settings, findings, opened)):
            self._shown(findings, facts)

    def _shown(self, findings: tuple[expectations.Finding, ...], facts: config.HostFacts) -> None:
        """Packets have shown what they could, and disproved nothing."""
        now = self._clock.monotonic()
        was_shown, is_about_these = self._state.value.is_shown, self._is_about_these
        dropped = verdict.find_not_reached(
            findings, self._firewall.refused, is_ours=self._desired.mends_firewalls
        )
        text = dropped.text if dropped is not None else ""
        shown = verdict.sum_up(findings, facts)
        if shown is states.Proof.NOTHING:
            text = verdict.find_untestable(findings)
        self._state.value = states.proof_ended(self._state.value, shown, now, text)
        if is_about_these:
            if dropped is not None and str(self._state.error) != str(dropped):
                logger.error("not reached: %s", dropped, extra=fields.of(CODE=dropped.code))
            self._state.error = dropped
            self._changes.suspects = ()
            if self._desired.leave_closed(findings):
                self._tell_of_closed()
        if is_about_these and shown is not states.Proof.NOTHING:
            self.proven_at = self._clock.now()
        if self._state.value.is_shown and not was_shown:
            met = proof.having(findings, expectations.State.MET)
            is_tested = self._state.value.rules is not states.Rules.UNTESTED
            how = "proven with packets" if is_tested else "read back, not testable by packets here"
            logger.info("redirection %s", how, extra=fields.of(COUNT=len(met)))

    def _tell_of_closed(self) -> None:
        closed = self._desired.closed
        if closed:
            logger.warning(
                "ports that the firewall of this host closes are not captured",
                extra=fields.of(DETAIL=list(closed)),
            )
        else:
            logger.info("the firewall of this host closes none of the ports; all are captured")

    @property
    def _is_about_these(self) -> bool:
        """Whether packets under way were sent through the rules that are in now."""
        value = self._state.value
        return not value.is_overtaken and value.rules is not states.Rules.OUT

    @property
    def due_at(self) -> float | None:
        """When packets that disprove are believed (monotonic seconds)."""
        return self._disproved_at + VERDICT_S if self._disproof is not None else None

    def conclude(self) -> None:
        """Believe what packets have disproved, unless our rules were changed under them."""
        now = self._clock.monotonic()
        if self._disproof is None or now < self._disproved_at + VERDICT_S:
            return
        error, self._disproof = self._disproof, None
        self._not_proven(error, now)

    def _not_proven(self, error: HostAgentError, now: float) -> None:
        is_about_these = self._is_about_these
        is_disproved = isinstance(error, StillDrifted)
        self._state.value = states.proof_failed(
            self._state.value, error.text, now, is_disproved=is_disproved
        )
        if is_about_these:
            self._state.error = error
            extra = fields.of(CODE="not-proven", CULPRIT=", ".join(self._changes.suspects))
            logger.error("redirection not proven: %s", error, extra=extra)
