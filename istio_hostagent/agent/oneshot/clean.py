"""`clean`: our rules out of this network namespace, whatever the files say."""

import os
from collections.abc import Iterator, Mapping

from ...host import files
from ...redirect import model, plan
from .. import places, reconcile
from .kernel import locked


def perform(environment: Mapping[str, str]) -> Iterator[str]:
    """Take out everything that is ours in the kernel, and the marks that it was there."""
    state_dir = places.find_places(environment).state_dir
    with locked() as kernel:
        lines = plan.describe(reconcile.reconcile(model.Ruleset(), kernel))
        for name in (places.MARKER, places.ATTEMPT, places.GUARD):
            files.remove(os.path.join(state_dir, name))
        return lines
