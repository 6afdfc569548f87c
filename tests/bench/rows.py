"""Samples and their judgement. Pure: no clock, no process, no printing.

A figure is the median of its samples (or the percentile its budget names), never the best one;
a ratio is one figure over the other's median, of the same run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .budgets import Budget

MET, NOT_MET, NOT_JUDGED = "met", "NOT met", "not judged"


@dataclass(frozen=True)
class Samples:
    """What one thing measured in several rounds, in the unit of its row."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("no samples")

    @property
    def median(self) -> float:
        """The middle one, or the mean of the two in the middle."""
        return self.percentile(50.0)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def percentile(self, percent: float) -> float:
        """The nearest-rank percentile; 50 is the median as everybody computes it."""
        ordered = sorted(self.values)
        count = len(ordered)
        if percent == 50.0 and count % 2 == 0:
            return (ordered[count // 2 - 1] + ordered[count // 2]) / 2
        return ordered[max(math.ceil(percent / 100.0 * count), 1) - 1]


@dataclass(frozen=True)
class Missing:
    """A measurement that could not be made."""

    reason: str


@dataclass(frozen=True)
class Result:
    """The samples of one row, and beside them those of its peers, by what they are."""

    samples: Samples
    peers: Mapping[str, Samples | Missing]
    notes: tuple[str, ...] = ()


Outcomes = Mapping[str, Result | Missing]


@dataclass(frozen=True)
class Row:
    """A budget and what came of it."""

    budget: Budget
    outcome: Result | Missing

    @property
    def figure(self) -> float | None:
        """What is held against the limit; None if it was not measured."""
        if isinstance(self.outcome, Missing):
            return None
        return self.outcome.samples.percentile(self.budget.percentile)

    @property
    def peer(self) -> Samples | None:
        """The peer that the limit refers to; None without one, or if that was not measured."""
        if isinstance(self.outcome, Missing) or self.budget.limit is None:
            return None
        found = self.outcome.peers.get(self.budget.limit.peer)
        return found if isinstance(found, Samples) else None

    @property
    def is_known(self) -> bool:
        """Whether there is nothing left to find out: it is judged, or has no limit."""
        return not isinstance(self.outcome, Missing) and self.verdict != NOT_JUDGED

    @property
    def verdict(self) -> str:
        if isinstance(self.outcome, Missing):
            here = " here" if self.budget.elsewhere else ""
            return f"not measured{here}: {self.outcome.reason}"
        limit = self.budget.limit
        if limit is None:
            return ""
        if limit.peer and self.peer is None:
            return NOT_JUDGED
        figure = self.figure
        assert figure is not None
        peer_figure = self.peer.median if self.peer else 0.0
        return MET if figure <= limit.value(peer_figure) else NOT_MET

    def ratio(self, peer: Samples | None) -> float | None:
        """Our figure over the peer's median."""
        figure = self.figure
        return figure / peer.median if figure is not None and peer and peer.median else None


def make_result(
    values: Sequence[float],
    peers: Mapping[str, Sequence[float] | Missing] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Take plain lists, as the measurements collect them."""
    beside = {
        name: each if isinstance(each, Missing) else Samples(tuple(each))
        for name, each in (peers or {}).items()
    }
    return Result(Samples(tuple(values)), beside, tuple(notes))


def make_rows(budgets: Mapping[str, Budget], outcomes: Outcomes) -> list[Row]:
    """Put each budget beside its outcome; one that nobody has measured says so."""
    silent = Missing("no measurement gave it")
    return [
        Row(budget, Missing(budget.elsewhere) if budget.elsewhere else outcomes.get(key, silent))
        for key, budget in budgets.items()
    ]


def exit_status(judged: Sequence[Row]) -> int:
    """0 when all that is measured here is known, whatever the verdicts; 1 otherwise."""
    return 0 if all(row.is_known or row.budget.elsewhere for row in judged) else 1
