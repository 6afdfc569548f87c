"""`clean`: our rules out of this network namespace, whatever the files say."""

import importlib
import itertools
from collections.abc import Iterator, Mapping

from ...host import statefiles, unconfirmed
from ...redirect import model
from .. import places
from .kernel import ask, locked


def perform(environment: Mapping[str, str], *, takes_all: bool = False) -> Iterator[str]:
    """Take out everything that is ours in the kernel, and the marks that it was there.

    Rules that wait for confirmation go, too, and nobody goes back any more. `takes_all`: what
    Istio's scripts have left goes as well; raises NotTakenOver.
    """
    state = statefiles.StateFiles(places.find_places(environment).state_dir)
    with locked() as rules:
        lines = iter(ask(rules.install, model.Ruleset()).lines)
        for name in (places.MARKER, places.ATTEMPT, places.GUARD):
            state.remove(name)
        waiting = unconfirmed.find()
        if waiting is not None:
            unconfirmed.decide(waiting, unconfirmed.CLEANED)
        if not takes_all:
            return lines
        # Only this takes workers.
        others = importlib.import_module(".takeover", __package__)
        return itertools.chain(lines, others.take_over_all(is_replaced=False))
