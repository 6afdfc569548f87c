"""How many connections our rules have handed to the proxy, as the kernel has counted them.

Of nf_tables alone. The count begins anew whenever a chain is made anew; packets of a proof are
counted as well. It takes three small dumps, whatever the number of networks.
"""

from typing import NamedTuple

from ..errors import HostAgentError
from ..redirect import model
from .nfnetlink import connection, framing, messages

_OUTBOUND, _INBOUND = ("ISTIO_REDIRECT",), ("ISTIO_IN_REDIRECT", "ISTIO_TPROXY")
# The rule of a chain that hands a connection over (`redirect.policy`, `redirect.transparent`).
_COMMENT = "to the proxy"
# linux/netfilter/nf_tables.h: NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS, NFTA_EXPR_NAME, _DATA,
# NFTA_COUNTER_PACKETS.
_TABLE, _CHAIN, _EXPRESSIONS, _NAME, _DATA, _PACKETS = 1, 2, 4, 1, 2, 2


class Captured(NamedTuple):
    """How many of each direction; a proxy's call of an own address of the host is inbound."""

    outbound: int
    inbound: int


def count() -> Captured | None:
    """Ask the kernel; None where it cannot be asked, or has no rule of ours that counts."""
    try:
        link = connection.Connection()
    except (HostAgentError, OSError):
        return None
    try:
        outbound, inbound = (
            [each for chain in chains for each in _count(link, chain)]
            for chains in (_OUTBOUND, _INBOUND)
        )
        return Captured(sum(outbound), sum(inbound)) if outbound or inbound else None
    except (HostAgentError, OSError):
        return None
    finally:
        link.socket.close()


def _count(link: connection.Connection, chain: str) -> list[int]:
    """The count of each rule of a chain that hands connections over."""
    body = framing.pack_text(_TABLE, model.MAIN_TABLE) + framing.pack_text(_CHAIN, chain)
    rules = list(link.dump(messages.GETRULE, body, is_strict=False))
    return [_packets(each) for each in rules if messages.read_rule(each)[1].comment == _COMMENT]


def _packets(rule: bytes) -> int:
    """What the counter of a rule says."""
    for _, element in framing.iterate(framing.read(rule).get(_EXPRESSIONS, b"")):
        expression = framing.read(element)
        if framing.text(expression.get(_NAME, b"")) == "counter":
            return framing.be32(framing.read(expression[_DATA])[_PACKETS])
    return 0
