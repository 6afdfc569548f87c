"""Has workers find, and take out, what Istio's scripts have left on this host.

A look that costs next to nothing says whether there may be any; only then a worker is started, one
for each part of the packet filter. Not here: when (`redirection`), and what is theirs
(`redirect.takeover`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ..errors import HostAgentError
from ..redirect import takeover

if TYPE_CHECKING:
    # A verb without an agent needs none of it, and the agent hardly ever the answers.
    from collections.abc import Callable

    from ..host.answers import takeover as answers
    from . import tasks

    Done = Callable[[takeover.Outcome], None]

WORKER = "takeover"
# It waits 5 s for the lock of xtables; what it is part of is given up after 15 s.
TIMEOUT_S = 10.0


class Takeover:
    """The workers of one agent, or of one verb."""

    def __init__(self, work: tasks.Tasks, glance: Callable[[], tuple[takeover.Part, ...]]) -> None:
        """Start none. `glance` says where something may be; raises HostAgentError."""
        self._work = work
        self._glance = glance
        self._numbers = itertools.count(1)

    def look(self, done: Done) -> None:
        """Find out what is there; `done` is called once, now or later."""
        self._start(done, removes=False)

    def take_over(self, done: Done) -> None:
        """Take out what is there, while rules of ours are; `done` is called once, now or later."""
        self._start(done, removes=True)

    def _start(self, done: Done, *, removes: bool) -> None:
        try:
            parts = self._glance()
        except HostAgentError as error:
            done(takeover.Outcome(errors=(error.text,)))
            return
        ended: list[takeover.Outcome] = []

        def collect(answer: answers.Answer | HostAgentError) -> None:
            ended.append(read(answer))
            if len(ended) == len(parts):
                done(takeover.join(ended))

        if not parts:
            done(takeover.Outcome())
        for part in parts:
            # A number of its own: a look of somebody else may be under way.
            self._work.start_worker(
                WORKER,
                {"part": part.value, "removes": removes, "is_replaced": True},
                user=None,
                timeout_s=TIMEOUT_S,
                done=collect,
                name=f"{WORKER} {next(self._numbers)}",
            )


def read(answer: answers.Answer | HostAgentError) -> takeover.Outcome:
    """What one worker says, or why it said nothing."""
    if isinstance(answer, HostAgentError):
        return takeover.Outcome(errors=(answer.text,))
    errors: tuple[str, ...] = ()
    if answer.error is not None:
        hint = f" ({answer.error.hint})" if answer.error.hint else ""
        errors = (f"{answer.error.message}{hint}",)
    return takeover.Outcome(answer.found, answer.left, errors)
