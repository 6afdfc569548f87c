"""The redirection part of the agent: performs on the kernel what `lifecycle.redirection` keeps.

It alone changes the kernel while the agent runs, also for the verbs. Not here: what is captured
(`wanted`), how it gets into the kernel and stays there (`keeping`), and what packets show of it
(`proving`); this lets events reach them, and says how things stand.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..config import captured
from ..config import model as config
from ..errors import HostAgentError
from ..host import changes as committed
from ..host import ports
from ..lifecycle import redirection as states
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..lifecycle.steps import Step
from ..redirect import expectations, model
from . import (
    doubts,
    events,
    keeping,
    leftovers,
    openings,
    part,
    prober,
    proving,
    standing,
    takeover,
    verdict,
    wanted,
)


class RedirectionPart(part.Part):
    """Keeps the kernel's rules equal to the configuration and knows whether packets agree."""

    def __init__(
        self,
        rules: ports.PacketRules,
        packets: prober.Prober,
        clock: ports.Clock,
        legacy_rules: Callable[[], object],
        answers_queries: Callable[[], bool],
        find_destinations: Callable[[], tuple[config.Address, ...]],
        others: takeover.Takeover,
        firewall: openings.Openings,
    ) -> None:
        """Start with nothing desired and nothing known.

        `answers_queries`: whether the proxy of this host may answer queries for names.
        `find_destinations`: what is captured besides what the files say.
        """
        self._rules = rules
        self._clock = clock
        self._state = standing.Standing()
        self._leftovers = leftovers.Leftovers(others)
        self._wanted = wanted.Wanted(self._state, rules.choose, answers_queries, find_destinations)
        self._doubts = doubts.Doubts(self._state, clock, legacy_rules, self._wanted)
        self._firewall = firewall
        self._keeper = keeping.Keeper(
            rules, clock, self._state, self._wanted, self._leftovers, firewall, self._doubts
        )
        self._proving = proving.Proving(
            packets, clock, self._state, self._wanted, self._leftovers, self._doubts, firewall
        )

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """Everything that changes the kernel or tries what it does."""
        return {
            Step.APPLY: part.silently(self.apply),
            Step.PROVE: part.silently(self.prove),
            Step.WITHDRAW: part.silently(self._keeper.withdraw),
            Step.ABANDON: part.silently(self._keeper.abandon),
        }

    @property
    def value(self) -> states.Redirection:
        """How the rules stand."""
        return self._state.value

    @property
    def error(self) -> HostAgentError | None:
        """What is behind `value.last_error`."""
        return self._state.error

    @property
    def desired(self) -> model.Ruleset:
        """The rules that are to be in the kernel."""
        return self._wanted.rules

    @property
    def settled(self) -> int | None:
        """How often other rules were desired until now; None while these are on their way."""
        # What is refused is not on its way.
        is_on_its_way = self.value.is_partly_out and not self._keeper.behind
        is_moving = self.value.is_changing or is_on_its_way
        return None if is_moving else self._wanted.changes

    def configure(self, config: config.Config, facts: config.HostFacts) -> None:
        """Desire what this configuration captures; nothing reaches the kernel yet."""
        mended = self._wanted.mends_firewalls
        self._wanted.desire(config.redirection, facts)
        if self._wanted.mends_firewalls is not mended:
            self._doubts.doubt()  # the next proof begins with it

    def as_known(self, settings: config.Redirection) -> config.Redirection:
        """Give these settings with what packets have found out, and what the proxy can do."""
        return self._wanted.as_known(settings)

    def apply(self, then: keeping.Changed | None = None) -> None:
        """Bring the kernel to what is desired and read it back; `then` is told what came of it."""
        self._keeper.apply(then)

    def prove(self) -> None:
        """Send the probe packets; what they show arrives now or later."""
        self._proving.prove()

    @property
    def counts(self) -> tuple[float | None, int]:
        """What grows: when packets have shown the rules last, how often they were put right."""
        return self._proving.proven_at, self._keeper.repaired

    def was_shown(self) -> None:
        """Packets of somebody else's question have shown the rules that are in."""
        self._proving.proven_at = self._clock.now()

    def was_refuted(self) -> None:
        """Somebody else's question has found the rules, or what they do, to be otherwise."""
        self._doubts.refute()
        self._keeper.check((committed.LOST,))

    def notice(self, changes: tuple[committed.Change, ...]) -> bool:
        """Take note of what others changed; says whether something is due sooner for it."""
        return self._doubts.notice(changes)

    def handle(self, event: events.Event) -> None:
        """Look at the rules, where somebody may have changed them."""
        match event:
            case events.KernelChanged(changes):
                self._keeper.check(changes)
            case events.RulesAnswered(take):
                take()
            case events.DestinationsChanged():
                self._wanted.look_again()
            case events.MachineSeen(facts, moves_packets):
                self._wanted.take_facts(facts)
                self._keeper.look_at_addresses()
                if moves_packets:
                    self._doubts.doubt()
            case events.Reloading(is_asked):
                if is_asked and self.value.last_error:
                    # Something has changed: what failed may be tried at once.
                    self._state.value = states.retry(self.value)
                if is_asked:
                    self._wanted.try_units_again()
                self._wanted.look_again()
                self._keeper.look_at_addresses()
            case events.Heartbeat():
                self._wanted.look_again()
                self._keeper.look_at_addresses()
                self._doubts.look_at_legacy_rules()
                if self._leftovers.problem:
                    self._doubts.doubt()  # the next proof begins with another try
                if self._keeper.read_back_in_time():
                    self._wanted.try_units_again()
            case events.TimePassed():
                self._proving.conclude()
                if self._keeper.poll():
                    self._doubts.doubt()  # somebody else's rules, which may come before ours

    def deadline(self) -> float | None:
        """When packets that disprove are believed, or tables are compared (monotonic seconds)."""
        moments = (self._proving.due_at, self._keeper.poll_at)
        return min((at for at in moments if at is not None), default=None)

    @property
    def last_error(self) -> str:
        """What is wrong with the rules and what to do about it, or nothing."""
        if self.value.last_error:
            return self.error.text if self.error is not None else self.value.last_error
        if self._clock.monotonic() >= self.value.fight_until_at:
            return ""
        return (
            f"{self._keeper.culprits} keeps changing the rules; they are put back ever more slowly"
            f" (stop what runs it, or let it leave the tables inet {model.MAIN_TABLE} and"
            f" {model.GUARD_TABLE} alone)"
        )

    def obstacle(self, _life: Life) -> str:
        """What is wrong with the rules."""
        return f"redirection: {self.last_error}" if self.last_error else ""

    def code(self, _life: Life) -> str:
        """What the kernel or packets said, or that somebody fights us."""
        if not self.value.last_error:
            return "rules-contested"
        return self.error.code if self.error is not None else "not-proven"

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        findings, facts = self._proving.findings, self._wanted.facts
        unkept = (each for each in findings if each.state is not expectations.State.MET)
        untested = verdict.find_untested(findings, facts) if facts else ()
        return {
            "state": self.value.rules.value,
            "back_end": self._rules.place,
            "managed": not self._wanted.is_left_to_others or self._wanted.is_none,
            **captured.describe(self._wanted.settings),
            "proven_at": self._proving.proven_at,
            "last_error": self.last_error,
            "looks": self._keeper.looks,
            "repaired": self._keeper.repaired,
            "findings": [str(finding) for finding in unkept],
            "untested": len(untested),
            "not_captured": list(self._wanted.closed),
            **self._wanted.find_units(),
            "taken_over": list(self._leftovers.taken),
            "left_by_istio": self._leftovers.problem,
            "opened": list(self._firewall.opened),
        }

    @property
    def remark(self) -> str:
        """What is as it must be and not as one might expect, or nothing."""
        return "; ".join(filter(None, (self._rules.remark, self._remark_of_rules)))

    @property
    def _remark_of_rules(self) -> str:
        if self._wanted.is_none:
            return ""  # the report says it
        if self._wanted.is_left_to_others:
            return "redirection: up to rules of your own, not tested (ISTIO_CUSTOM_IP_TABLES)"
        if self._leftovers.problem:
            return self._leftovers.problem
        closed = verdict.describe_closed(self._proving.findings, self._wanted.closed)
        opened = verdict.describe_opened(self._firewall.opened)
        behind = f"not all rules are in: {self._keeper.behind}" if self._keeper.behind else ""
        return "; ".join(filter(None, (behind, self._wanted.remark, closed, opened)))
