"""Who has changed packet rules since the last good proof, and when packets are to show again.

Not here: how soon after which change (`redirect.staleness`), sending packets (`proving`).
"""

from collections.abc import Callable

from ..host import changes as committed
from ..host import ports
from ..lifecycle import redirection as states
from ..redirect import staleness
from . import standing, wanted

# Of those who have changed rules since the last good proof, so many are named if it breaks.
MAX_SUSPECTS = 4
# Whoever changes legacy tables is told of by nobody.
BY_LEGACY_TOOLS = committed.LOST._replace(process_name="somebody with iptables-legacy")


class Doubts:
    """What makes it doubtful whether our rules decide."""

    def __init__(
        self,
        state: standing.Standing,
        clock: ports.Clock,
        legacy_rules: Callable[[], object],
        desired: wanted.Wanted,
    ) -> None:
        """Start without any. `legacy_rules` gives what differs when legacy tables change."""
        self._state = state
        self._clock = clock
        self._legacy_rules = legacy_rules
        self._desired = desired
        self._legacy_seen: object = None  # when packets were last sent
        self._staleness = staleness.Staleness()
        self.suspects: tuple[str, ...] = ()

    def answer(self) -> None:
        """Packets are being sent: they answer every change until now."""
        self._staleness.proved(self._clock.monotonic())
        self._legacy_seen = self._legacy_rules()

    def notice(self, changes: tuple[committed.Change, ...]) -> bool:
        """Take note of what others changed; says whether something is due sooner for it.

        Whether a rule of theirs comes before ours now is for packets to say, sooner or later.
        """
        value = self._state.value
        if value.rules is states.Rules.OUT:
            # Rules that are being put in may have been touched since they were read back.
            return value.is_changing and any(change.is_ours for change in changes)
        if not changes:
            return False
        now = self._clock.monotonic()
        due_at = self._staleness.due_at
        for change in changes:
            is_structure = change.is_ours or change.is_structure
            kind = staleness.Kind.STRUCTURE if is_structure else staleness.Kind.CONTENT
            self._staleness.changed(kind, now)
            if not value.is_open:
                self._staleness.changed(staleness.Kind.CURE, now)
            if is_structure and self._desired.mends_firewalls:
                self._staleness.changed(staleness.Kind.FIREWALL, now)
            if is_structure or not self.suspects:
                known = [name for name in self.suspects if name != change.culprit]
                self.suspects = (*known, change.culprit)[-MAX_SUSPECTS:]
        self._state.value = states.doubted(value, self._staleness.due_at)
        return self._staleness.due_at < due_at or any(change.is_ours for change in changes)

    def note_units(self) -> float:
        """Our rules for units have changed; gives when packets are to be sent for it.

        On a busy host that is several times a second.
        """
        self._staleness.changed(staleness.Kind.CONTENT, self._clock.monotonic())
        return self._staleness.due_at

    def doubt(self) -> None:
        """The network of this host has changed: packets may go other ways now."""
        value = self._state.value
        if value.rules is not states.Rules.OUT:
            kind = staleness.Kind.STRUCTURE if value.is_open else staleness.Kind.CURE
            self._staleness.changed(kind, self._clock.monotonic())
            self._state.value = states.doubted(value, self._staleness.due_at)

    def refute(self) -> None:
        """Packets of somebody else's question have shown something else: ours go at once."""
        self._state.value = states.doubted(self._state.value, self._clock.monotonic())

    def look_at_legacy_rules(self) -> None:
        """See whether somebody used iptables-legacy since the last packets: nobody tells."""
        if self._state.value.rules is states.Rules.OUT or self._legacy_seen is None:
            return
        seen = self._legacy_rules()
        if seen != self._legacy_seen:
            self._legacy_seen = seen
            self.suspects = (*self.suspects, BY_LEGACY_TOOLS.process_name)[-MAX_SUSPECTS:]
            self.doubt()
