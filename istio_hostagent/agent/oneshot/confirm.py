"""`apply --confirm` and `apply --go-back`: what becomes of rules that wait for confirmation.

Whoever has a working connection decides, also after the time is over, as long as nobody else has.
"""

import itertools
from collections.abc import Callable, Iterator

from ...errors import NothingToConfirm
from ...host import fallback, nftables, unconfirmed
from . import takeover
from .kernel import locked

# A `verify` or going back may be under way.
_LOCK_S = 10.0


def confirm() -> Iterator[str]:
    """Let the rules stay that wait; returns what to print. Raises NothingToConfirm.

    What Istio's scripts have left was kept for going back till now; raises NotTakenOver.
    """

    def keep(record: unconfirmed.Record, kernel: nftables.NftKernel) -> Iterator[str]:
        is_there = bool(kernel.observe().tables)
        unconfirmed.decide(record, unconfirmed.CONFIRMED)
        lines = ("confirmed: the rules stay",)
        if not is_there:
            return iter(lines)  # rules of the operator's own, which may be Istio's
        return itertools.chain(lines, takeover.take_over_all(is_replaced=True))

    return _decide(keep)


def go_back() -> Iterator[str]:
    """Put back what was there before; returns the lines of the diff. Raises NothingToConfirm."""
    return _decide(_take_back)


def end() -> bool:
    """An agent is about to start: rules that nobody has confirmed go out before.

    Says whether there were any. Raises what `locked` raises, and what going back does.
    """
    with locked(within_s=_LOCK_S) as rules:
        record = unconfirmed.find()
        if record is None:
            # Left by a network namespace that is gone, or by whoever was killed behind its
            # decision.
            unconfirmed.discard()
            return False
        _take_back(record, rules.require_kernel())
    return True


def _take_back(record: unconfirmed.Record, kernel: nftables.NftKernel) -> Iterator[str]:
    lines = fallback.go_back(fallback.load(), kernel)
    unconfirmed.decide(record, unconfirmed.TAKEN_BACK)
    return lines


def _decide(
    act: Callable[[unconfirmed.Record, nftables.NftKernel], Iterator[str]],
) -> Iterator[str]:
    if unconfirmed.find() is None:
        raise _nothing()
    with locked(within_s=_LOCK_S) as rules:
        record = unconfirmed.find()
        if record is None:
            raise _nothing()
        return act(record, rules.require_kernel())


def _nothing() -> NothingToConfirm:
    outcome = unconfirmed.find_outcome()
    last = f": {unconfirmed.describe_outcome(outcome)}" if outcome and outcome.what else ""
    return NothingToConfirm(f"no rules wait for confirmation{last}")
