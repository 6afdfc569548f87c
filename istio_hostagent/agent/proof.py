"""What the outcomes of probe packets say about the promises they stand for."""

from collections.abc import Sequence

from ..redirect import promises


def judge(
    made: Sequence[promises.Promise], outcomes: Sequence[promises.Outcome]
) -> tuple[promises.Finding, ...]:
    """Judge every outcome."""
    return tuple(map(promises.judge, made, outcomes))


def having(
    findings: Sequence[promises.Finding], state: promises.State
) -> tuple[promises.Finding, ...]:
    """The findings of one state."""
    return tuple(finding for finding in findings if finding.state is state)
