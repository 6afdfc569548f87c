"""Observe, plan, apply, verify: the one way in which the kernel is changed.

Start, reload, repair and clean (with an empty rule set) are all `reconcile`.
"""

from ..errors import KernelBusy, StillDrifted
from ..host import ports
from ..redirect import drift, model, plan

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
