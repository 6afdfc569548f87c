"""`clean`: our rules out of this network namespace, whatever the files say."""

import importlib
import itertools
from collections.abc import Iterator, Mapping

from ...errors import HostAgentError
from ...host import instances, openings, predecessor, statefiles, unconfirmed
from ...redirect import model
from .. import places
from .kernel import ask, locked


def perform(environment: Mapping[str, str], *, takes_all: bool = False) -> Iterator[str]:
    """Take out everything that is ours in the kernel, and the marks that it was there.

    Rules that wait for confirmation go, too, and nobody goes back any more. `takes_all`: what
    Istio's scripts have left goes as well; raises NotTakenOver. What could not be taken out of the
    firewall of this host is raised when all else is done and said.
    """
    state = statefiles.StateFiles(instances.find_places(environment).state_dir)
    with locked() as rules:
        lines: Iterator[str] = iter(ask(rules.install, model.Ruleset()).lines)
        # The marks go first: whoever finds one takes this host for one that is still captured.
        for name in (places.MARKER, places.ATTEMPT, places.GUARD):
            state.remove(name)
        unconfirmed.clean()
        failure: HostAgentError | None = None
        try:
            if not instances.own() and predecessor.is_recorded():
                # Hardly ever, and by a program.
                importlib.import_module("...host.connectionhold", __package__).let_in()
                predecessor.forget()
            if not instances.own() and openings.take_out():
                text = "-rules for captured connections in the firewall of this host"
                lines = itertools.chain(lines, (text,))
        except HostAgentError as error:
            failure = error
        if takes_all:
            # Only this takes workers.
            others = importlib.import_module(".takeover", __package__)
            lines = itertools.chain(lines, others.take_over_all(is_replaced=False))
        return lines if failure is None else _raise_last(lines, failure)


def _raise_last(lines: Iterator[str], failure: HostAgentError) -> Iterator[str]:
    """Say what was done, and then what was not."""
    yield from lines
    raise failure
