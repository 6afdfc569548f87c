"""What was there before rules that wait for confirmation, and going back to it.

Not here: when (`workers.fallback`, `unconfirmed`). What was there is kept as the kernel had it, so
that going back asks no file: nothing, or rules of whatever configuration.
"""

import json
from collections.abc import Iterator

from ..errors import KernelBusy, StillDrifted, Unconfirmed
from ..redirect import exchange, model, plan
from . import control, files, ports, unconfirmed

# Others commit in well under a millisecond.
_MAX_TRIES = 5
# Of a hundred thousand networks it is 7 MB.
_MAX_BYTES = 64 << 20


def keep(before: model.Observed) -> None:
    """Write down what is there now; raises Unconfirmed if that could not be put back, OSError."""
    if words := plan.find_unreturnable(before):
        raise Unconfirmed(
            f"what is there now could not be put back: {words}",
            hint="apply without --confirm-within, or clean before",
        )
    text = json.dumps(exchange.to_json(before))
    files.write_atomically(control.path_of(unconfirmed.BEFORE), text.encode())


def load() -> model.Observed:
    """What was there before; raises Unconfirmed if that cannot be read."""
    path = control.path_of(unconfirmed.BEFORE)
    try:
        return exchange.from_json(json.loads(files.read_bounded(path, _MAX_BYTES)))
    except (OSError, ValueError, RecursionError) as error:
        text = f"what was there before cannot be read from {path}: {error}"
        raise Unconfirmed(text, hint="istio-hostagent clean takes everything out") from error


def go_back(before: model.Observed, kernel: ports.Kernel) -> Iterator[str]:
    """Make everything of ours what it was, in one transaction; returns the lines of the diff.

    Call while holding the lock of the namespace. Raises what `ports.Kernel` raises, StillDrifted.
    """
    for tries_left in reversed(range(_MAX_TRIES)):
        try:
            made = plan.make_return(before, kernel.observe())
            if made:
                kernel.apply(made)
            left = plan.make_return(before, kernel.observe())
        except KernelBusy:
            if not tries_left:
                raise
            continue
        if left:
            raise StillDrifted(list(plan.describe(left)), how="going back left a difference")
        return plan.describe(made)
    raise AssertionError("unreachable")
