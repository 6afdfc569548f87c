"""What the outcomes of probe packets say about the promises they stand for."""

from collections.abc import Sequence

from ..config import model
from ..lifecycle import redirection
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


def outcome(findings: Sequence[promises.Finding], facts: model.HostFacts) -> redirection.Proof:
    """What findings of which none is broken come to; a host that captures nothing is proven.

    What could not be tested counts only in a family of which this host has an address.
    """
    captures = [finding for finding in findings if finding.promise.captured_at]
    if captures and not having(captures, promises.State.KEPT):
        return redirection.Proof.NOTHING
    families = {address.version for address in facts.addresses} or {4, 6}
    untested = having(captures, promises.State.NOT_TESTABLE)
    if any((6 if ":" in each.promise.destination else 4) in families for each in untested):
        return redirection.Proof.PARTLY
    return redirection.Proof.PROVEN
