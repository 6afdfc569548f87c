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


def is_untested(findings: Sequence[expectations.Finding]) -> bool:
    """Whether something is captured, and no packet could show any of it, as elsewhere it could."""
    captures = find_captures(findings)
    is_possible = any(each.detail != expectations.NO_NFTABLES for each in captures)
    none = all(each.state is expectations.State.NOT_TESTABLE for each in captures)
    return is_possible and none


def find_captures(findings: Sequence[expectations.Finding]) -> list[expectations.Finding]:
    """Those of connections that are to be captured."""
    return [finding for finding in findings if finding.expectation.captured_at]
