"""What the findings of one proof come to for the rules that are in.

Not here: what becomes of the rules (`redirection`), and what an outcome says of one expectation
(`proof`).
"""

from collections.abc import Collection, Sequence

from ..config import model as config
from ..errors import NotReached, StillDrifted
from ..lifecycle import redirection as states
from ..redirect import expectations
from . import fields, proof

_OTHERS_COME_BEFORE = (
    "rules of somebody else come before ours: `nft list ruleset` and `iptables-legacy-save` show"
    " them"
)


def find_disproof(findings: Sequence[expectations.Finding]) -> StillDrifted | None:
    """Which rules packets have shown not to hold."""
    broken = proof.having(findings, expectations.State.BROKEN)
    wrong = [str(finding) for finding in broken if not finding.is_shut]
    if not wrong:
        return None
    how = "packets show that the rules do not hold"
    return StillDrifted(wrong, how=how, hint=_OTHERS_COME_BEFORE)


def find_not_reached(
    findings: Sequence[expectations.Finding], refused: Sequence[str] = (), *, is_ours: bool = False
) -> NotReached | None:
    """What the firewall of this host drops at the capture port; `refused`: why it still does.

    `is_ours`: its rules are ours to mend.
    """
    shut = [finding for finding in findings if finding.is_shut]
    if not shut:
        return None
    # In front: behind it comes a command, and nothing that one might copy with it.
    reason = f"not opened: {refused[0]}; " if refused else ""
    first, *others = map(_unreached, shut)
    may_help = not is_ours and any(finding.passage is not None for finding in shut)
    hint = "with ISTIO_HOSTAGENT_FIREWALL=open the agent does it" if may_help else ""
    return NotReached([f"{reason}{first}", *others], hint=hint)


def _unreached(finding: expectations.Finding) -> str:
    expected = finding.expectation
    return f"port {expected.port} of {expected.destination} is not reached: {finding.detail}"


def sum_up(findings: Sequence[expectations.Finding], facts: config.HostFacts) -> states.Proof:
    """What findings that disprove no rule come to; a host that captures nothing is proven.

    What could not be tested counts only in a family of which this host has an address.
    """
    captures = proof.find_captures(findings)
    if captures and all(each.detail == expectations.NO_NFTABLES for each in captures):
        return states.Proof.IMPOSSIBLE
    if proof.is_untested(findings):
        return states.Proof.NOTHING
    return states.Proof.PARTLY if find_untested(captures, facts) else states.Proof.PROVEN


def find_untestable(findings: Sequence[expectations.Finding]) -> str:
    """Why packets of ours cannot show that anything is captured, or nothing."""
    found = (each.expectation.untestable for each in findings)
    why = next(filter(None, found), "")
    return f"no rule could be tested: packets of the agent are {why}" if why else ""


def find_untested(
    findings: Sequence[expectations.Finding], facts: config.HostFacts
) -> tuple[expectations.Finding, ...]:
    """What could not be tested although this host has an address of that family."""
    families = {address.version for address in facts.addresses} or {4, 6}
    return tuple(
        each
        for each in proof.having(findings, expectations.State.NOT_TESTABLE)
        if (6 if ":" in each.expectation.destination else 4) in families
    )


def find_closed(
    findings: Sequence[expectations.Finding],
    before: Collection[int],
    settings: config.Redirection,
) -> tuple[int, ...]:
    """The ports that capture would open; `before`: those that were known to be."""
    closed = expectations.closed_ports(findings)
    # Of a port that could not be tested now, what was known stays.
    untested = set(before) - expectations.tested_ports(findings)
    return tuple(sorted((closed & settings.inbound.named) | untested))


def describe_closed(findings: Sequence[expectations.Finding], left: Collection[int]) -> str:
    """What capture opens, or would open of what is `left` alone for it, or nothing."""
    opened = [each for each in findings if each.closed_by and each.expectation.captured_at]
    ports = sorted({each.expectation.port for each in opened})
    still_closed = sorted(set(left) & expectations.closed_ports(findings))
    by = {each.expectation.port: each.closed_by for each in findings if each.closed_by}
    if still_closed:
        return (
            f"not captured: {fields.name_ports(still_closed)}, which {by[still_closed[0]]} closes"
            " and capture would open: open it there, or set ISTIO_HOSTAGENT_CLOSED_PORTS=capture"
        )
    if ports:
        return f"capture opens {fields.name_ports(ports)}, which {by[ports[0]]} closes"
    return ""


def describe_opened(chains: Sequence[str]) -> str:
    """Where rules of the host's firewall are said again for captured connections, or nothing."""
    if not chains:
        return ""
    more = f" and {len(chains) - 1} more" if len(chains) > 1 else ""
    return f"captured connections are let in as others are in {chains[0]}{more}"
