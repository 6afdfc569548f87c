"""What the outcomes of probe packets say about the expectations they stand for."""

from collections.abc import Sequence

from ..redirect import expectations


def evaluate(
    made: Sequence[expectations.Expectation], outcomes: Sequence[expectations.Outcome]
) -> tuple[expectations.Finding, ...]:
    """Evaluate every outcome, in order."""
    return tuple(map(expectations.evaluate, made, outcomes))


def having(
    findings: Sequence[expectations.Finding], state: expectations.State
) -> tuple[expectations.Finding, ...]:
    """The findings of one state."""
    return tuple(finding for finding in findings if finding.state is state)
