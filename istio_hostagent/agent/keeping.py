"""Keeps the kernel's rules equal to what is desired: puts them in, looks at them, takes them out.

Not here: what is desired (`wanted`), and whether packets agree (`proving`).
"""

import itertools
import logging
from collections.abc import Callable

from ..errors import (
    ApplyRejected,
    HostAgentError,
    HostUnsupported,
    KernelBusy,
    NotPermitted,
    NotTakenOver,
)
from ..host import changes as committed
from ..host import ports
from ..lifecycle import redirection as states
from ..redirect import drift, model, plan
from ..redirect import takeover as others
from . import doubts, fields, leftovers, openings, standing, wanted

logger = logging.getLogger(__name__)

# Our rules are read back this often, whatever the kernel tells: events can be lost.
READ_BACK_S = 3600.0
# Tables of whose changes nobody tells are compared this often. Where that takes long, more seldom:
# for at most a hundredth of the time.
POLL_S = 1.0
POLL_SHARE = 0.01
# Of those who have touched our rules while something else is under way, so many are named.
_MAX_TOUCHES = 4

# What the kernel says when it has changed nothing.
_UNCHANGED = ApplyRejected, HostUnsupported, KernelBusy, NotPermitted

# What was changed, or why nothing was.
Changed = Callable[[plan.Changes | HostAgentError], None]


class Keeper:
    """The rules of one agent.

    One thing is asked of them at a time (`value.pending`); what is answered after it was given up,
    or after something else was asked, is not taken.
    """

    def __init__(
        self,
        rules: ports.PacketRules,
        clock: ports.Clock,
        state: standing.Standing,
        desired: wanted.Wanted,
        leftover: leftovers.Leftovers,
        firewall: openings.Openings,
        changes: doubts.Doubts,
    ) -> None:
        """Ask nothing yet."""
        self._changes = changes
        self._rules = rules
        self._clock = clock
        self._state = state
        self._desired = desired
        self._leftover = leftover
        self._firewall = firewall
        self._asked = 0  # how often something was asked of the rules
        self._then: Changed | None = None  # who waits for the change that is under way
        self._touched: tuple[committed.Change, ...] = ()  # since something was asked
        self._read_back_at = clock.monotonic() + READ_BACK_S
        self._poll_at = 0.0
        self._in = model.Ruleset()  # what was put in and read back last
        self._is_guard_out = False  # somebody has changed it
        self._is_without_units = False  # what is under way is a try without rules for units
        self.behind = ""  # why the guard or rules for units are not in, or nothing
        self.culprits = ""  # who has changed our rules last
        self.looks = 0
        self.repaired = 0

    def _ask(self, pending: states.Pending) -> int:
        """Something is asked of the rules now; gives its number."""
        self._state.value = states.asked(self._state.value, pending, self._clock.monotonic())
        self._touched = ()
        self._asked += 1
        return self._asked

    # -- putting in and taking out ------------------------------------------------------------

    def apply(self, then: Changed | None = None) -> None:
        """Bring the kernel to what is desired and read it back; `then` is told what came of it."""
        self._then = then
        self._is_without_units = False
        self._install()

    def _install(self) -> None:
        number = self._ask(states.Pending.INSTALLING)
        asked = self._desired.rules
        self._rules.install(asked, lambda found: self._applied(number, asked, found))

    def _applied(
        self, number: int, asked: model.Ruleset, found: plan.Changes | HostAgentError
    ) -> None:
        if number != self._asked:
            return
        if isinstance(found, HostAgentError):
            self._not_applied(found)
        else:
            self._in = asked
            # Ours capture from here on: what Istio's scripts have left may go.
            self._leftover.take_over(
                lambda taken: self._replaced(number, found, taken),
                is_left_to_others=self._desired.is_left_to_others,
            )

    def _not_applied(self, error: HostAgentError) -> None:
        is_refused = isinstance(error, ApplyRejected | HostUnsupported)
        is_first = not self._is_without_units
        if is_first and is_refused and self._desired.leave_units_out(error.text):
            # An older kernel, or legacy tables: what they send is captured rather than nothing.
            self._is_without_units = True
            self._install()
            return
        self._failed(error, is_as_before=isinstance(error, _UNCHANGED))
        if self._is_without_units:
            self._desired.try_units_again()  # it was not for them
        self._tell(error)

    def _replaced(self, number: int, found: plan.Changes, taken: tuple[str, ...]) -> None:
        if number != self._asked:
            return
        self._state.error = None
        self.behind = ""
        has_changed = found.is_any or bool(taken)
        # Where it is partly out for another reason than the guard, that is units.
        is_of_units = self._state.value.is_partly_out and not (self._is_guard_out or taken)
        self._state.value = states.applied(
            self._state.value,
            has_changed=has_changed,
            prove_at=self._changes.note_units() if is_of_units else None,
        )
        self._is_guard_out = False
        if found.is_any:
            logger.info("redirection installed and read back")
        if self._is_without_units:
            logger.warning("units are not left alone: %s", self._desired.units_refused)
        self._look_again()
        if self._leftover.problem:
            self._tell(NotTakenOver(self._leftover.problem))
        else:
            lines = itertools.chain(found.lines, map(others.render, taken))
            self._tell(plan.Changes(has_changed, lines))

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

    def _failed(self, error: HostAgentError, *, is_as_before: bool = False) -> None:
        before, said = self._state.value, self.behind or self._state.value.last_error
        now = self._clock.monotonic()
        value = states.apply_failed(before, error.text, now, is_as_before=is_as_before)
        self._state.value = value
        if value.is_partly_out:
            self.behind = error.text
        else:
            self._state.error, self.behind = error, ""
        if value.failures & (value.failures - 1) == 0 or said != error.text:
            detail = error.step if isinstance(error, ApplyRejected) else ""
            logger.error(
                "redirection not installed: %s",
                error,
                extra=fields.of(
                    CODE=error.code,
                    DETAIL=detail,
                    HINT=error.hint,
                    FAILURES=value.failures,
                ),
            )

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
            # First: who waits for the firewall is answered, and finds that a proof is over.
            self._state.value = states.withdrawn(self._state.value)
            self._firewall.take_out()

    # -- looking ------------------------------------------------------------------------------

    def check(self, changes: tuple[committed.Change, ...]) -> None:
        """Look at our part if somebody touched it."""
        touching = tuple(change for change in changes if change.is_ours)
        if not self._state.value.is_known:
            # What is under way may have read the rules before.
            self._touched = (*self._touched, *touching)[-_MAX_TOUCHES:]
        elif touching:
            self._look(touching)

    def read_back_in_time(self) -> bool:
        """Look at our part if it is time to, although nobody said that it was touched.

        Says whether it was.
        """
        is_time = self._clock.monotonic() >= self._read_back_at
        if is_time:
            self._read_back_at = self._clock.monotonic() + READ_BACK_S
            self._look((committed.LOST,))
        return is_time

    def _look_again(self) -> None:
        if self._touched:
            self._look(self._touched)

    def _look(self, changes: tuple[committed.Change, ...]) -> None:
        """Read our rules back; what differs is put right at the next step.

        They are held against what was put in: rules for units that are on their way are missing by
        nobody's doing.
        """
        value = self._state.value
        if value.rules is states.Rules.OUT or not value.is_known:
            return
        self.looks += 1
        number = self._ask(states.Pending.LOOKING)
        self._rules.compare(self._in, lambda found: self._looked(number, changes, found))

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
        elif self._state.value.is_pending_overtaken or not found:
            self._state.value = states.looked(self._state.value)
            self._look_again()
        else:
            self._drifted(changes, found)

    def _drifted(
        self, changes: tuple[committed.Change, ...], drifts: tuple[model.Drift, ...]
    ) -> None:
        is_of_guard = drift.is_of_guard_alone(drifts)
        self._is_guard_out |= is_of_guard
        if is_of_guard and self._state.value.is_partly_out:
            # It waits to be put back already.
            self._state.value = states.looked(self._state.value)
            return
        # Each run of a tool is another process: who fights us is known by the name.
        names = {change.process_name or "somebody" for change in changes}
        self.culprits = ", ".join(sorted(names))
        culprits = ", ".join(sorted({change.culprit for change in changes}))
        logger.warning(
            "rules changed by somebody else; putting them back",
            extra=fields.of(CULPRIT=culprits, DETAIL=str(drifts[0]), COUNT=len(drifts)),
        )
        self.repaired += 1
        now = self._clock.monotonic()
        self._state.value = states.drifted(self._state.value, now, is_of_guard=is_of_guard)

    def look_at_addresses(self) -> None:
        """See whether our addresses and routes are still there; nobody tells whose has gone."""
        value = self._state.value
        if value.rules is states.Rules.OUT or value.is_changing:
            return
        desired = self._desired.rules
        try:
            addresses = self._rules.observe_addresses(desired.loopback_addresses)
            is_whole = addresses == desired.loopback_addresses
            if desired.routing:
                is_whole &= set(self._rules.observe_routing()) == set(desired.routing)
        except KernelBusy:
            return  # the next heartbeat looks again
        if not is_whole:
            self._look((committed.LOST,))

    # -- tables of whose changes nobody tells -------------------------------------------------

    @property
    def poll_at(self) -> float | None:
        """When such tables are to be compared (monotonic seconds)."""
        value = self._state.value
        is_in = value.rules is not states.Rules.OUT and value.is_known
        return self._poll_at if self._rules.is_polled and is_in else None

    def poll(self) -> bool:
        """Compare them if it is time to; says whether anything differs; nobody knows by whom."""
        begun = self._clock.monotonic()
        if self.poll_at is None or begun < self.poll_at:
            return False
        try:
            has_changed = self._rules.has_changed()
        except HostAgentError as error:
            logger.debug("not compared: %s", error)
            has_changed = True  # a look says what is wrong
        now = self._clock.monotonic()
        self._poll_at = now + max(POLL_S, (now - begun) / POLL_SHARE)
        if has_changed:
            self._look((doubts.BY_LEGACY_TOOLS,))
        return has_changed
