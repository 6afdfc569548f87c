"""Observe, plan, apply, verify: the one way in which the kernel is changed.

Start, reload, repair and clean (with an empty rule set) are all `reconcile`. `Reconciler` is that
as packet rules: whatever is asked of a packet filter that answers at once is done at once.
"""

from collections.abc import Callable, Sequence

from ..config.model import BackEnd
from ..errors import HostAgentError, KernelBusy, StillDrifted
from ..host import ports
from ..redirect import drift, guard, model, plan

# An interrupted dump or a concurrent commit is over in well under a millisecond.
MAX_TRIES = 5


def make_plan(desired: model.Ruleset, kernel: ports.Kernel) -> model.Plan:
    """What would have to change; raises KernelBusy, NotPermitted."""
    return plan.make_plan(desired, kernel.observe(), owned=kernel.is_owner)


def reconcile(desired: model.Ruleset, kernel: ports.Kernel) -> model.Plan:
    """Make the kernel equal to `desired` and read it back; returns the plan that did it.

    Raises ApplyRejected (nothing changed), StillDrifted (it is in, and not equal), NotPermitted,
    and KernelBusy if others kept changing the rules during every try.
    """
    for tries_left in reversed(range(MAX_TRIES)):
        try:
            done = make_plan(desired, kernel)
            if done:
                kernel.apply(done)
            drifts = find_drift(desired, kernel)
        except KernelBusy:
            if not tries_left:
                raise
            continue
        if drifts:
            raise StillDrifted([str(difference) for difference in drifts])
        return done
    raise AssertionError("unreachable")


def find_drift(desired: model.Ruleset, kernel: ports.Kernel) -> tuple[model.Drift, ...]:
    """Where the kernel differs from `desired`; raises KernelBusy, NotPermitted."""
    return drift.find_drift(desired, kernel.observe())


class Reconciler:
    """Keeps the promises of `ports.PacketRules` with a kernel port."""

    def __init__(self, kernel: ports.Kernel) -> None:
        """Change nothing yet."""
        self._kernel = kernel

    @property
    def is_owner(self) -> bool:
        """Whether what is installed belongs to our socket alone."""
        return self._kernel.is_owner

    @property
    def has_socket(self) -> bool:
        """The same."""
        return self._kernel.is_owner

    place = "nf_tables"
    remark = ""
    is_polled = False

    def has_changed(self) -> bool:
        """The kernel tells of every change."""
        return False

    def choose(self, _wanted: BackEnd) -> None:
        """There is no choice."""

    def render_guard(self, desired: model.Ruleset) -> str:
        """Give a file for nft(8)."""
        return guard.render_guard(desired)

    def fileno(self) -> int:
        """The descriptor of that socket."""
        return self._kernel.fileno()

    def install(
        self, desired: model.Ruleset, done: Callable[[plan.Changes | HostAgentError], None]
    ) -> None:
        """Make the kernel equal to `desired` and read it back."""
        found: plan.Changes | HostAgentError
        try:
            found = _changes(reconcile(desired, self._kernel))
        except HostAgentError as error:
            found = error
        done(found)

    def abandon(self) -> None:
        """Nothing is ever under way."""

    def compare(
        self,
        desired: model.Ruleset,
        done: Callable[[tuple[model.Drift, ...] | HostAgentError], None],
    ) -> None:
        """Where the kernel differs from `desired`."""
        found: tuple[model.Drift, ...] | HostAgentError
        try:
            found = find_drift(desired, self._kernel)
        except HostAgentError as error:
            found = error
        done(found)

    def plan(
        self, desired: model.Ruleset, done: Callable[[plan.Changes | HostAgentError], None]
    ) -> None:
        """What `install` would change."""
        found: plan.Changes | HostAgentError
        try:
            found = _changes(make_plan(desired, self._kernel))
        except HostAgentError as error:
            found = error
        done(found)

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those that are on `lo` now; raises KernelBusy, NotPermitted."""
        return self._kernel.observe_addresses(addresses)

    def observe_routing(self) -> tuple[model.Routing, ...]:
        """Our routing rules and routes; raises KernelBusy, NotPermitted."""
        return self._kernel.observe_routing()

    def find_native(self, desired: model.Ruleset) -> model.Ruleset:
        """All of it is in nf_tables."""
        return desired


def _changes(made: model.Plan) -> plan.Changes:
    return plan.Changes(bool(made), plan.describe(made), plan.list_changes(made))
