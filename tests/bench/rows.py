"""Samples and their judgement. Pure: no clock, no process, no printing.

A figure is the median of its samples (or the percentile its budget names), never the best one;
a ratio is one figure over the other's median, of the same run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .budgets import Budget


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
class Result:
    """The samples of one row, and beside them those of its peers, by what they are."""

    samples: Samples
    peers: Mapping[str, Samples]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Missing:
    """A measurement that could not be made."""

    reason: str


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
    def verdict(self) -> str:
        if isinstance(self.outcome, Missing):
            return f"not measured: {self.outcome.reason}"
        if self.budget.limit is None:
            return ""
        figure = self.figure
        return "met" if figure is not None and figure <= self.budget.limit else "NOT met"

    def ratio(self, peer: Samples) -> float | None:
        """Our figure over the peer's median."""
        figure = self.figure
        return figure / peer.median if figure is not None and peer.median else None


def make_result(
    values: Sequence[float],
    peers: Mapping[str, Sequence[float]] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Take plain lists, as the measurements collect them."""
    beside = {name: Samples(tuple(each)) for name, each in (peers or {}).items()}
    return Result(Samples(tuple(values)), beside, tuple(notes))


def exit_status(judged: Sequence[Row]) -> int:
    """0 when everything was measured, whatever the verdicts; 1 otherwise."""
    return 1 if any(isinstance(row.outcome, Missing) for row in judged) else 0
