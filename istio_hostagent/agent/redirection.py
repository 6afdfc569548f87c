"""The redirection part of the agent: performs on the kernel what `lifecycle.redirection` keeps.

It alone changes the kernel while the agent runs, also for the verbs.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import capture
from ..config import model as config
from ..errors import ApplyRejected, HostAgentError, KernelBusy, NotTakenOver, StillDrifted
from ..host import changes as committed
from ..host import garbage, ports
from ..lifecycle import redirection as states
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..lifecycle.steps import Step
from ..redirect import drift, expectations, model, plan, policy, probes, staleness
from ..redirect import takeover as others
from . import events, fields, part, prober, proof, takeover, verdict

logger = logging.getLogger(__name__)

# Of those who have changed rules since the last good proof, so many are named if it breaks.
MAX_SUSPECTS = 4
# Our rules are read back this often, whatever the kernel tells: events can be lost.
READ_BACK_S = 3600.0
# Tables of whose changes nobody tells are compared this often. Where that takes long, more seldom:
# for at most a hundredth of the time.
POLL_S = 1.0
POLL_SHARE = 0.01
# What packets disprove is believed so much later: whoever changed our rules under them is told of
# by then, and the rules go in again instead.
VERDICT_S = 0.02


# Whoever changes legacy tables is told of by nobody.
BY_LEGACY_TOOLS = committed.LOST._replace(process_name="somebody with iptables-legacy")

# What was changed, or why nothing was.
Changed = Callable[[plan.Changes | HostAgentError], None]


class RedirectionPart(part.Part):
    """Keeps the kernel's rules equal to the configuration and knows whether packets agree.

    One thing is asked of the rules at a time (`value.pending`); what is answered after it was
    given up, or after something else was asked, is not taken.
    """

    def __init__(
        self,
        rules: ports.PacketRules,
        packets: prober.Prober,
        clock: ports.Clock,
        legacy_rules: Callable[[], object],
        answers_queries: Callable[[], bool],
        others: takeover.Takeover,
    ) -> None:
        """Start with nothing desired and nothing known.

        `answers_queries`: whether the proxy of this host may answer queries for names.
        """
        self._rules = rules
        self._asked = 0  # how often something was asked of the rules
        self._then: Changed | None = None  # who waits for the change that is under way
        self._touched: tuple[committed.Change, ...] = ()  # since something was asked
        self._packets = packets
        self._clock = clock
        self._legacy_rules = legacy_rules
        self._answers_queries = answers_queries
        self._others = others
        self.leftover = ""  # what Istio's scripts have left and nobody could take out
        self.taken_over: list[str] = []
        self._legacy_seen: object = None  # when packets were last sent
        self._facts: config.HostFacts | None = None
        self._given: config.Redirection | None = None  # as the files say
        self._settings: config.Redirection | None = None  # as they are known
        self._expectations: tuple[expectations.Expectation, ...] = ()
        self._expected_for: config.HostFacts | None = None
        self._closed: tuple[int, ...] = ()  # not captured, since that would open them
        self._version = 0
        self._culprits = ""
        self._suspects: tuple[str, ...] = ()
        self._disproof: StillDrifted | None = None  # what packets have shown, and nobody believes
        self._disproved_at = 0.0
        self._staleness = staleness.Staleness()
        self.value = states.Redirection()
        self.desired = model.Ruleset()
        self.error: HostAgentError | None = None  # behind `value.last_error`
        self.findings: tuple[expectations.Finding, ...] = ()
        self._read_back_at = clock.monotonic() + READ_BACK_S
        self._poll_at = 0.0
        self.looks = 0
        self.repaired = 0

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """Everything that changes the kernel or tries what it does."""
        return {
            Step.APPLY: part.silently(self.apply),
            Step.PROVE: part.silently(self.prove),
            Step.WITHDRAW: part.silently(self.withdraw),
            Step.ABANDON: part.silently(self.abandon),
        }

    def configure(self, config: config.Config, facts: config.HostFacts) -> None:
        """Desire what this configuration captures; nothing reaches the kernel yet."""
        self._desire(config.redirection, facts)

    def _desire(self, settings: config.Redirection, facts: config.HostFacts) -> None:
        self._given = settings
        self._rules.choose(settings.back_end)
        settings = self.as_known(settings)
        self._closed = settings.inbound_closed
        desired = policy.build_ruleset(settings, facts)
        self._settings = settings
        self._facts = facts
        self._expected_for = None
        if desired != self.desired:
            self.desired = desired
            self._version += 1
            self.error = None
            self.value = states.desire(self.value, self._version)

    def as_known(self, settings: config.Redirection) -> config.Redirection:
        """Give these settings with what packets have found out, and what the proxy can do."""
        closed = set(self._closed) & settings.inbound.named if settings.keeps_closed else ()
        dns = settings.dns if self._answers_queries() else config.Dns()
        return settings._replace(inbound_closed=tuple(sorted(closed)), dns=dns)

    def handle(self, event: events.Event) -> None:
        """Look at the rules, where somebody may have changed them."""
        match event:
            case events.KernelChanged(changes):
                self.check(changes)
            case events.RulesAnswered(take):
                take()
            case events.MachineSeen(facts, moves_packets):
                if self._given is not None and facts != self._facts:
                    self._desire(self._given, facts)
                self.look_at_addresses()
                if moves_packets:
                    self.doubt()
            case events.Reloading(is_asked):
                if is_asked and self.value.last_error:
                    self.retry()
                self._look_at_proxy()
                self.look_at_addresses()
            case events.Heartbeat():
                self._look_at_proxy()
                self.look_at_addresses()
                self._look_at_legacy_rules()
                if self.leftover:
                    self.doubt()  # the next proof begins with another try
                if self._clock.monotonic() >= self._read_back_at:
                    self._read_back_at = self._clock.monotonic() + READ_BACK_S
                    self.read_back()
            case events.TimePassed():
                now = self._clock.monotonic()
                if self._disproof is not None and now >= self._disproved_at + VERDICT_S:
                    self._judge()
                if self._is_polling and now >= self._poll_at:
                    self._poll()

    def _look_at_proxy(self) -> None:
        """Desire something else, if another proxy than before is to be started here."""
        if self._given is None or self._facts is None:
            return
        if self.as_known(self._given) != self._settings:
            self._desire(self._given, self._facts)

    def deadline(self) -> float | None:
        """When packets that disprove are believed, or tables are compared (monotonic seconds)."""
        judge_at = self._disproved_at + VERDICT_S if self._disproof is not None else None
        poll_at = self._poll_at if self._is_polling else None
        return min((at for at in (judge_at, poll_at) if at is not None), default=None)

    @property
    def _is_polling(self) -> bool:
        is_in = self.value.rules is not states.Rules.OUT and self.value.is_known
        return self._rules.is_polled and is_in

    def _poll(self) -> None:
        """Look at tables of whose changes nobody tells; whoever was faster is not known."""
        begun = self._clock.monotonic()
        try:
            has_changed = self._rules.has_changed()
        except HostAgentError as error:
            logger.debug("not compared: %s", error)
            has_changed = True  # a look says what is wrong
        now = self._clock.monotonic()
        self._poll_at = now + max(POLL_S, (now - begun) / POLL_SHARE)
        if has_changed:
            self._look((BY_LEGACY_TOOLS,))
            if self.value.rules is not states.Rules.OUT:
                self.doubt()  # somebody else's rules, which may come before ours

    def retry(self) -> None:
        """Something has changed: what failed may be tried at once."""
        self.value = states.retry(self.value)

    @property
    def last_error(self) -> str:
        """What is wrong with the rules and what to do about it, or nothing."""
        if self.value.last_error:
            return self.error.text if self.error is not None else self.value.last_error
        if self._clock.monotonic() >= self.value.fight_until_at:
            return ""
        return (
            f"{self._culprits} keeps changing the rules; they are put back ever more slowly"
            f" (stop what runs it, or let it leave the tables inet {model.MAIN_TABLE} and"
            f" {model.GUARD_TABLE} alone)"
        )

    def obstacle(self, _life: Life) -> str:
        """What is wrong with the rules."""
        return f"redirection: {self.last_error}" if self.last_error else ""

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        unkept = (each for each in self.findings if each.state is not expectations.State.MET)
        untested = verdict.find_untested(self.findings, self._facts) if self._facts else ()
        return {
            "state": self.value.rules.value,
            "back_end": self._rules.place,
            "managed": not self._is_left_to_others,
            "last_error": self.last_error,
            "looks": self.looks,
            "repaired": self.repaired,
            "findings": [str(finding) for finding in unkept],
            "untested": len(untested),
            "not_captured": list(self._closed),
            "taken_over": list(self.taken_over),
            "left_by_istio": self.leftover,
        }

    def _ask(self, pending: states.Pending) -> int:
        """Something is asked of the rules now; gives its number."""
        self.value = states.asked(self.value, pending, self._clock.monotonic())
        self._touched = ()
        self._asked += 1
        return self._asked

    def apply(self, then: Changed | None = None) -> None:
        """Bring the kernel to what is desired and read it back; `then` is told what came of it."""
        self._then = then
        number = self._ask(states.Pending.INSTALLING)
        self._rules.install(self.desired, lambda found: self._applied(number, found))

    def _applied(self, number: int, found: plan.Changes | HostAgentError) -> None:
        if number != self._asked:
            return
        if isinstance(found, HostAgentError):
            self._failed(found)
            self._tell(found)
        else:
            # Ours capture from here on: what Istio's scripts have left may go.
            self._take_over(lambda taken: self._replaced(number, found, taken))

    def _replaced(self, number: int, found: plan.Changes, taken: tuple[str, ...]) -> None:
        if number != self._asked:
            return
        self.error = None
        has_changed = found.is_any or bool(taken)
        self.value = states.applied(self.value, has_changed=has_changed)
        if found.is_any:
            logger.info("redirection installed and read back")
        self._look_again()
        if self.leftover:
            self._tell(NotTakenOver(self.leftover))
        else:
            lines = itertools.chain(found.lines, map(others.render, taken))
            self._tell(plan.Changes(has_changed, lines))

    def _take_over(self, then: Callable[[tuple[str, ...]], None]) -> None:
        """Take out what Istio's scripts have left, and say what that was.

        Not where the operator has said that rules of his own capture: these may be they.
        """
        if self._is_left_to_others:
            self.leftover = ""
            then(())
            return
        self._others.take_over(lambda outcome: self._taken_over(outcome, then))

    def _taken_over(
        self, outcome: others.Outcome, then: Callable[[tuple[str, ...]], None]
    ) -> None:
        self.taken_over += [text for text in outcome.taken if text not in self.taken_over]
        if outcome.taken:
            logger.warning(
                "rules that Istio's scripts have left were taken out: ours are there instead",
                extra=fields.of(DETAIL=", ".join(outcome.taken)),
            )
        if outcome.problem and outcome.problem != self.leftover:
            logger.error("not taken over: %s", outcome.problem)
        self.leftover = outcome.problem
        then(outcome.taken)

    def _tell(self, found: plan.Changes | HostAgentError) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(found)

    def abandon(self) -> None:
        """What was asked last is not answered: count it as failed, and take no answer any more."""
        self._asked += 1
        self._rules.abandon()
        error = KernelBusy("the packet rules gave no answer in time")
        self._failed(error)
        self._tell(error)

    def _failed(self, error: HostAgentError) -> None:
        self.error = error
        before = self.value
        self.value = states.apply_failed(self.value, error.text, self._clock.monotonic())
        if self.value.failures & (self.value.failures - 1) == 0 or before.last_error != error.text:
            detail = error.step if isinstance(error, ApplyRejected) else ""
            logger.error(
                "redirection not installed: %s",
                error,
                extra=fields.of(
                    CODE=error.code,
                    DETAIL=detail,
                    HINT=error.hint,
                    FAILURES=self.value.failures,
                ),
            )

    def prove(self) -> None:
        """Send the probe packets; what they show arrives now or later, in `_proved`."""
        assert self._facts is not None
        self.value = states.proof_begun(self.value)
        self._staleness.proved(self._clock.monotonic())
        self._legacy_seen = self._legacy_rules()
        facts = self._facts
        made = self._build_expectations(facts)
        # Whatever made the proof necessary may be a script of Istio's.
        self._take_over(lambda _: self._send(made, facts))

    def _send(self, made: tuple[expectations.Expectation, ...], facts: config.HostFacts) -> None:
        self._packets.prove(made, facts, lambda found: self._proved(made, facts, found))

    def _build_expectations(self, facts: config.HostFacts) -> tuple[expectations.Expectation, ...]:
        """Those of before, if nothing has changed: of ten thousand networks they take 75 ms."""
        assert self._settings is not None
        if facts != self._expected_for:
            self._expectations = probes.build_expectations(self._settings, facts)
            self._expected_for = facts
        return self._expectations

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
        was_shown, is_about_these = self.value.is_shown, self._is_about_these
        dropped = verdict.find_not_reached(findings)
        text = dropped.text if dropped is not None else ""
        self.value = states.proof_ended(self.value, verdict.sum_up(findings, facts), now, text)
        if is_about_these:
            if dropped is not None and str(self.error) != str(dropped):
                logger.error("not reached: %s", dropped, extra=fields.of(CODE=dropped.code))
            self.error = dropped
            self._suspects = ()
            self._leave_closed(findings)
        if self.value.is_shown and not was_shown:
            kept = proof.having(findings, expectations.State.MET)
            is_tested = self.value.rules is not states.Rules.UNTESTED
            how = "proven with packets" if is_tested else "read back, not testable by packets here"
            logger.info("redirection %s", how, extra=fields.of(COUNT=len(kept)))

    def _leave_closed(self, findings: Sequence[expectations.Finding]) -> None:
        """Capture nothing that this would open, and what the firewall lets in by now again."""
        assert self._settings is not None and self._given is not None and self._facts is not None
        if not self._settings.keeps_closed:
            return
        found = verdict.find_closed(findings, self._closed, self._settings)
        if found == self._closed:
            return
        self._closed = found
        if found:
            logger.warning(
                "ports that the firewall of this host closes are not captured",
                extra=fields.of(DETAIL=list(found)),
            )
        else:
            logger.info("the firewall of this host closes none of the ports; all are captured")
        # The machine may have changed since the packets were sent.
        self._desire(self._given, self._facts)

    @property
    def remark(self) -> str:
        """What is as it must be and not as one might expect, or nothing."""
        return "; ".join(filter(None, (self._rules.remark, self._remark_of_rules)))

    @property
    def _remark_of_rules(self) -> str:
        if self._is_left_to_others:
            return "redirection: up to rules of your own, not tested (ISTIO_CUSTOM_IP_TABLES)"
        if self.leftover:
            return self.leftover
        if self._given is not None and self._given.dns.is_captured and not self._answers_queries():
            return "queries for names are not captured: only pilot-agent answers them"
        closed = verdict.describe_closed(self.findings, self._closed)
        return "; ".join(filter(None, (self._names_remark, closed)))

    @property
    def _names_remark(self) -> str:
        """What queries for names do not come to."""
        if self._settings is None or self._facts is None:
            return ""
        return capture.past_the_rules(self._settings.dns, self._facts)

    @property
    def _is_left_to_others(self) -> bool:
        return self._settings is not None and not self._settings.is_managed

    @property
    def _is_about_these(self) -> bool:
        """Whether packets under way were sent through the rules that are in now."""
        return not self.value.is_overtaken and self.value.rules is not states.Rules.OUT

    def _judge(self) -> None:
        """Believe what packets have disproved, unless our rules were changed under them."""
        assert self._disproof is not None
        error, self._disproof = self._disproof, None
        self._not_proven(error, self._clock.monotonic())

    def _not_proven(self, error: HostAgentError, now: float) -> None:
        is_about_these = self._is_about_these
        is_disproved = isinstance(error, StillDrifted)
        self.value = states.proof_failed(self.value, error.text, now, is_disproved=is_disproved)
        if is_about_these:
            self.error = error
            extra = fields.of(CODE="not-proven", CULPRIT=", ".join(self._suspects))
            logger.error("redirection not proven: %s", error, extra=extra)

    def notice(self, changes: tuple[committed.Change, ...]) -> bool:
        """Take note of what others changed; says whether something is due sooner for it.

        Whether a rule of theirs comes before ours now is for packets to say, sooner or later.
        """
        if self.value.rules is states.Rules.OUT:
            # Rules that are being put in may have been touched since they were read back.
            return self.value.is_changing and any(change.is_ours for change in changes)
        if not changes:
            return False
        now = self._clock.monotonic()
        due_at = self._staleness.due_at
        for change in changes:
            is_structure = change.is_ours or change.is_structure
            kind = staleness.Kind.STRUCTURE if is_structure else staleness.Kind.CONTENT
            self._staleness.changed(kind, now)
            if not self.value.is_open:
                self._staleness.changed(staleness.Kind.CURE, now)
            if is_structure or not self._suspects:
                known = [name for name in self._suspects if name != change.culprit]
                self._suspects = (*known, change.culprit)[-MAX_SUSPECTS:]
        self.value = states.doubted(self.value, self._staleness.due_at)
        return self._staleness.due_at < due_at or any(change.is_ours for change in changes)

    def doubt(self) -> None:
        """The network of this host has changed: packets may go other ways now."""
        if self.value.rules is not states.Rules.OUT:
            kind = staleness.Kind.STRUCTURE if self.value.is_open else staleness.Kind.CURE
            self._staleness.changed(kind, self._clock.monotonic())
            self.value = states.doubted(self.value, self._staleness.due_at)

    def _look_at_legacy_rules(self) -> None:
        """See whether somebody used iptables-legacy since the last packets: nobody tells."""
        if self.value.rules is states.Rules.OUT or self._legacy_seen is None:
            return
        seen = self._legacy_rules()
        if seen != self._legacy_seen:
            self._legacy_seen = seen
            self._suspects = (*self._suspects, "somebody with iptables-legacy")[-MAX_SUSPECTS:]
            self.doubt()

    def check(self, changes: tuple[committed.Change, ...]) -> None:
        """Look at our part if somebody touched it."""
        touching = tuple(change for change in changes if change.is_ours)
        if not self.value.is_known:
            # What is under way may have read the rules before.
            self._touched = (*self._touched, *touching)[-MAX_SUSPECTS:]
        elif touching:
            self._look(touching)

    def read_back(self) -> None:
        """Look at our part although nobody said that it was touched."""
        self._look((committed.LOST,))

    def _look_again(self) -> None:
        if self._touched:
            self._look(self._touched)

    def _look(self, changes: tuple[committed.Change, ...]) -> None:
        """Read our rules back; what differs is put right at the next step."""
        value = self.value
        if value.rules is states.Rules.OUT or not value.is_known:
            return
        self.looks += 1
        number = self._ask(states.Pending.LOOKING)
        self._rules.compare(self.desired, lambda found: self._looked(number, changes, found))

    def _looked(
        self,
        number: int,
        changes: tuple[committed.Change, ...],
        found: tuple[model.Drift, ...] | HostAgentError,
    ) -> None:
        if number != self._asked:
            return
        if isinstance(found, HostAgentError):
            self._failed(found)
        elif self.value.is_pending_overtaken or not found:
            self.value = states.looked(self.value)
            self._look_again()
        else:
            self._drifted(changes, found)

    def _drifted(
        self, changes: tuple[committed.Change, ...], drifts: tuple[model.Drift, ...]
    ) -> None:
        is_of_guard = drift.is_of_guard_alone(drifts)
        if is_of_guard and self.value.is_guard_out:
            self.value = states.looked(self.value)  # it waits to be put back already
            return
        # Each run of a tool is another process: who fights us is known by the name.
        names = {change.process_name or "somebody" for change in changes}
        self._culprits = ", ".join(sorted(names))
        culprits = ", ".join(sorted({change.culprit for change in changes}))
        logger.warning(
            "rules changed by somebody else; putting them back",
            extra=fields.of(CULPRIT=culprits, DETAIL=str(drifts[0]), COUNT=len(drifts)),
        )
        self.repaired += 1
        now = self._clock.monotonic()
        self.value = states.drifted(self.value, now, is_of_guard=is_of_guard)

    def look_at_addresses(self) -> None:
        """See whether our addresses and routes are still there; nobody tells whose has gone."""
        if self.value.rules is states.Rules.OUT or self.value.is_changing:
            return
        desired = self.desired.loopback_addresses
        try:
            is_whole = self._rules.observe_addresses(desired) == desired
            if self.desired.routing:
                is_whole &= set(self._rules.observe_routing()) == set(self.desired.routing)
        except KernelBusy:
            return  # the next heartbeat looks again
        if not is_whole:
            self._look((committed.LOST,))

    def withdraw(self) -> None:
        """Take out everything that is ours."""
        number = self._ask(states.Pending.REMOVING)
        self._rules.install(model.Ruleset(), lambda found: self._withdrawn(number, found))

    def _withdrawn(self, number: int, found: plan.Changes | HostAgentError) -> None:
        if number != self._asked:
            return
        if isinstance(found, HostAgentError):
            self._failed(found)
        else:
            self.value = states.withdrawn(self.value)
