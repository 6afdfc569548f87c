"""Who puts connections into a tracking zone: every rule of anybody that does, by table and chain.

Not here: whether a probe was put into one (`probetable`). Legacy tables are not read; if there is
one that can do it, and no rule of nf_tables does, it is named.
"""

import contextlib
import socket
from collections.abc import Iterator

from ..errors import HostAgentError
from ..redirect import model
from . import legacytables
from .nfnetlink import connection, framing, messages

_FAMILIES = {"inet": connection.INET, "ip": 2, "ip6": 10}  # NFPROTO_*
_CT_ZONE = 17  # NFT_CT_ZONE
_TARGET_CT = framing.pack_text(1, "CT")  # NFTA_TARGET_NAME: what iptables-nft writes
_MAX_NAMED = 3


def find_setters(link: connection.Connection) -> str:
    """Name the tables and chains, as a clause for people; empty if none is found."""
    found: dict[str, None] = {}
    with contextlib.suppress(HostAgentError):
        for family, number in _FAMILIES.items():
            found.update(dict.fromkeys(_in_family(link, family, number)))
    families = (socket.AF_INET, socket.AF_INET6)
    if not found and any("raw" in legacytables.read(family) for family in families):
        return "iptables-legacy table raw (see `iptables-legacy-save -t raw`)"
    return " and ".join(list(found)[:_MAX_NAMED])


def _in_family(link: connection.Connection, family: str, number: int) -> Iterator[str]:
    for body in link.dump(messages.GETRULE, family=number, is_strict=False):
        chain, rule = messages.read_rule(body)
        if any(map(_sets_zone, rule.expressions)):
            table = framing.text(framing.read(body)[1])
            yield f"table {family} {table} chain {chain}"


def _sets_zone(expression: model.Expr) -> bool:
    if expression.name == "?target":
        data = dict(expression.attributes)["?"]
        return isinstance(data, bytes) and data.startswith(_TARGET_CT)
    values = dict(expression.attributes)
    return expression.name == "ct" and values.get("key") == _CT_ZONE and "sreg" in values
