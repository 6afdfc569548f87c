"""What is to be captured on this host: as the files say, and as is known of the host by now.

Not here: whether it is in the kernel (`keeping`), and which packets show it (`proving`).
"""

from collections.abc import Callable, Sequence

from ..config import capture
from ..config import model as config
from ..lifecycle import redirection as states
from ..redirect import expectations, model, policy, probes, units
from . import standing, verdict


class Wanted:
    """The rules that are desired, and what they come from."""

    def __init__(
        self,
        state: standing.Standing,
        choose: Callable[[config.BackEnd], None],
        answers_queries: Callable[[], bool],
        find_destinations: Callable[[], tuple[config.Address, ...]],
    ) -> None:
        """Start with nothing desired.

        `choose` takes the back end that a configuration asks for. `answers_queries`: whether the
        proxy of this host may answer queries for names. `find_destinations`: what is captured
        besides what the files say.
        """
        self._state = state
        self._choose = choose
        self._answers_queries = answers_queries
        self._find_destinations = find_destinations
        # The last two that were joined, and what came of it.
        self._joined: tuple[object, config.CidrSet] = (None, config.CidrSet())
        self._given: config.Redirection | None = None  # as the files say
        self._settings: config.Redirection | None = None  # as they are known
        self._expectations: tuple[expectations.Expectation, ...] = ()
        self._expected_for: config.HostFacts | None = None
        self._version = 0
        self.facts: config.HostFacts | None = None
        self.closed: tuple[int, ...] = ()  # not captured, since that would open them
        self.units_refused = ""  # why rules for units are left out, or nothing
        self.rules = model.Ruleset()
        self.changes = 0  # how often these have become others

    def desire(self, settings: config.Redirection, facts: config.HostFacts) -> None:
        """Desire what these settings capture; nothing reaches the kernel yet."""
        self._given = settings
        self._choose(settings.back_end)
        settings = self.as_known(settings)
        self.closed = settings.inbound_closed
        desired = policy.build_ruleset(settings, facts)
        if settings != self._settings:
            self._settings = settings
            self._expected_for = None
            self.units_refused = ""
        self.facts = facts
        self._take(units.without_units(desired) if self.units_refused else desired)

    def _take(self, desired: model.Ruleset) -> None:
        if desired == self.rules:
            return
        is_of_units = units.without_units(desired) == units.without_units(self.rules)
        self.rules = desired
        self.changes += 1
        if is_of_units:
            self._state.value = states.amended(self._state.value)
        else:
            self._version += 1
            self._state.error = None
            self._state.value = states.desire(self._state.value, self._version)

    def leave_units_out(self, refusal: str) -> bool:
        """Desire no rules for units, which were refused; says whether that is a way out.

        Units that are to be left alone are captured then, as they are before their start is seen.
        Where some are to be captured alone there is none: nobody wants all of the host captured.
        """
        if self._settings is None or self._settings.owners.units.include:
            return False
        desired = units.without_units(self.rules)
        if desired == self.rules:
            return False
        self.units_refused = refusal
        self._take(desired)
        return True

    def try_units_again(self) -> None:
        """Desire rules for units although they were refused: something may have changed."""
        if self.units_refused and self._given is not None and self.facts is not None:
            self.units_refused = ""
            self.desire(self._given, self.facts)

    def as_known(self, settings: config.Redirection) -> config.Redirection:
        """Give these settings with what packets have found out, and what the proxy can do."""
        closed = set(self.closed) & settings.inbound.named if settings.keeps_closed else ()
        dns = settings.dns if self._answers_queries() else config.Dns()
        return settings._replace(
            outbound=self._join(settings.outbound), inbound_closed=tuple(sorted(closed)), dns=dns
        )

    def _join(self, outbound: config.CidrSet) -> config.CidrSet:
        """What the files say, and where services are."""
        found = self._find_destinations()
        if not found or outbound.is_all:
            return outbound
        if self._joined[0] != (outbound, found):
            ends = {(v, *each) for v in (4, 6) for each in outbound.of_version(v)}
            ends |= {(each.version, int(each), int(each)) for each in found}
            self._joined = (outbound, found), config.CidrSet.of_ends(ends)
        return self._joined[1]

    def take_facts(self, facts: config.HostFacts) -> None:
        """Desire what the settings mean on a host that looks so now."""
        if self._given is not None and facts != self.facts:
            self.desire(self._given, facts)

    def look_again(self) -> None:
        """Desire something else, if the proxy is another one, or services are elsewhere."""
        if self._given is None or self.facts is None:
            return
        if self.as_known(self._given) != self._settings:
            self.desire(self._given, self.facts)

    def leave_closed(self, findings: Sequence[expectations.Finding]) -> bool:
        """Capture nothing that this would open, and what the firewall lets in by now again.

        Says whether that is other ports than before.
        """
        assert self._settings is not None and self._given is not None and self.facts is not None
        if not self._settings.keeps_closed:
            return False
        found = verdict.find_closed(findings, self.closed, self._settings)
        if found == self.closed:
            return False
        self.closed = found
        # The machine may have changed since the packets were sent.
        self.desire(self._given, self.facts)
        return True

    def build_expectations(self) -> tuple[expectations.Expectation, ...]:
        """What packets are to show.

        Those of before, if nothing has changed: of ten thousand networks they take 75 ms.
        """
        assert self._settings is not None and self.facts is not None
        facts = self.facts
        if not config.find_own_unit(facts):
            facts = facts._replace(control_groups=())  # no packet of ours comes from these
        if facts != self._expected_for:
            self._expectations = probes.build_expectations(self._settings, facts)
            self._expected_for = facts
        return self._expectations

    def find_units(self) -> dict[str, dict[str, str]]:
        """Excluded and included units by name: where the group of each is now, or nothing."""
        named = self._settings.owners.units if self._settings is not None else config.Units()
        groups = self.facts.control_groups if self.facts is not None else ()
        there = {each.unit: each.path for each in groups}
        return {
            "excluded_units": {unit: there.get(unit, "") for unit in named.exclude},
            "included_units": {unit: there.get(unit, "") for unit in named.include},
        }

    @property
    def settings(self) -> config.Redirection | None:
        """The settings that the rules come from."""
        return self._settings

    @property
    def mends_firewalls(self) -> bool:
        """Whether rules of this host's firewall that drop what is captured are ours to mend."""
        return self._settings is not None and self._settings.opens_firewall

    @property
    def is_none(self) -> bool:
        """Whether nothing is redirected: applications speak to the proxy by themselves."""
        return self._settings is not None and self._settings.is_none

    @property
    def is_left_to_others(self) -> bool:
        """Whether the operator has said that rules of his own capture, or that none do."""
        return self._settings is not None and not self._settings.is_managed

    @property
    def remark(self) -> str:
        """Which units are not left alone and what does not come to the proxy, or nothing."""
        refused = f"units are not left alone: {self.units_refused}" if self.units_refused else ""
        lost = ""
        if self._settings is not None and self.facts is not None:
            lost = capture.lost_by_bridges(self._settings, self.facts)
        return "; ".join(filter(None, (refused, lost, self._remark_of_names)))

    @property
    def _remark_of_names(self) -> str:
        if self._given is not None and self._given.dns.is_captured and not self._answers_queries():
            return "queries for names are not captured: Envoy without a control plane answers none"
        if self._settings is None or self.facts is None:
            return ""
        return capture.past_the_rules(self._settings.dns, self.facts)
