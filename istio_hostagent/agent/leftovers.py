"""What Istio's own scripts have left beside our rules, as the agent knows it.

Not here: finding it and taking it out (`takeover`), and when (`keeping`, `proving`).
"""

import logging
from collections.abc import Callable

from ..errors import NotTakenOver
from ..redirect import takeover as others
from . import fields, takeover

logger = logging.getLogger(__name__)


class Leftovers:
    """What was taken out, and what could not be."""

    def __init__(self, workers: takeover.Takeover) -> None:
        """Start with nothing found."""
        self._workers = workers
        self.problem = ""  # what nobody could take out
        self.taken: list[str] = []

    def take_over(
        self, then: Callable[[tuple[str, ...]], None], *, is_left_to_others: bool
    ) -> None:
        """Take out what there is, and say what that was.

        Not where the operator has said that rules of his own capture: these may be they.
        """
        if is_left_to_others:
            self.problem = ""
            then(())
            return
        self._workers.take_over(lambda outcome: self._taken_over(outcome, then))

    def _taken_over(
        self, outcome: others.Outcome, then: Callable[[tuple[str, ...]], None]
    ) -> None:
        self.taken += [text for text in outcome.taken if text not in self.taken]
        if outcome.taken:
            logger.warning(
                "rules that Istio's scripts have left were taken out: ours are there instead",
                extra=fields.of(DETAIL=", ".join(outcome.taken)),
            )
        if outcome.problem and outcome.problem != self.problem:
            extra = fields.of(CODE=NotTakenOver.code)
            logger.error("not taken over: %s", outcome.problem, extra=extra)
        self.problem = outcome.problem
        then(outcome.taken)
