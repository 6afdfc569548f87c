"""Promises to the probe worker and its outcomes back to findings."""

from collections.abc import Sequence
from typing import Any

from ..config import model
from ..errors import ChildFailed
from ..host import answers
from ..lifecycle import redirection
from ..redirect import promises

WORKER = "probes"


def make_request(made: Sequence[promises.Promise], facts: model.HostFacts) -> dict[str, Any]:
    """What the worker needs: one packet for each promise, and who the proxy is."""
    return {
        "promises": [promise.to_json() for promise in made],
        "proxy_uid": facts.proxy_uid,
        "proxy_gid": facts.proxy_gid,
    }


def judge(
    made: Sequence[promises.Promise], answer: answers.Probes
) -> tuple[promises.Finding, ...]:
    """Judge every outcome; raises ChildFailed if the worker could not send."""
    if answer.trouble is not None:
        raise ChildFailed(f"worker {WORKER}", f"could not send: {answer.trouble.message}")
    return tuple(
        promises.judge(promise, outcome)
        for promise, outcome in zip(made, answer.outcomes, strict=True)
    )


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
