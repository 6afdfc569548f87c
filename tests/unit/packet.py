"""A small interpreter of rules: where does this packet go? For tests of the policy alone.

It knows typed rules, not expressions; what the kernel makes of them is shown by tests/netns.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from istio_hostagent.redirect import expressions, model, names, ranges
from istio_hostagent.redirect.model import Action, Field, Operator
from tests.unit.samples import FACTS

ORDINARY = 1000
SYN, SYN_ACK = 0x02, 0x12
UNICAST, LOCAL = 1, 2  # RTN_* of the kernel


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, or another one with other flags."""

    destination: str
    port: int = 80
    source: str = "10.1.0.2"
    uid: int | None = ORDINARY  # None: it belongs to no socket
    gid: int = ORDINARY
    out: str = "eth0"
    protocol: int = 6
    flags: int = SYN
    source_port: int = 40000
    asked_for: tuple[str, int] | None = None  # what somebody's translation has taken it away from

    @property
    def address(self) -> IPv4Address | IPv6Address:
        return ip_address(self.destination)


def walk(ruleset: model.Ruleset, table: str, base: str, packet: Packet) -> model.Verdict | None:
    """The verdict that ends the packet's way through a base chain; None: it passes."""
    found = {each.name: each for each in ruleset.tables}.get(table)
    if found is None:
        return None
    chains = {each.name: each for each in found.chains}
    if base not in chains:
        return None
    return _walk_chain(found, chains, base, packet)


def _walk_chain(
    table: model.Table, chains: dict[str, model.Chain], name: str, packet: Packet
) -> model.Verdict | None:
    for rule in chains[name].rules:
        if not all(_holds(table, match, packet) for match in rule.matches):
            continue
        if rule.verdict.action is Action.RETURN:
            return None
        if rule.verdict.action not in (Action.JUMP, Action.GOTO):
            return rule.verdict
        final = _walk_chain(table, chains, str(rule.verdict.target), packet)
        if final or rule.verdict.action is Action.GOTO:
            return final
    return None


def _holds(table: model.Table, match: model.Match, packet: Packet) -> bool:
    value = _read(match.field, packet)
    if value is None:
        return False  # the field does not exist in this packet: the rule does not apply
    if match.operator in (Operator.IN, Operator.NOT_IN):
        (content,) = (each.ranges for each in table.sets if each.name == match.value)
        assert isinstance(value, int)
        if match.prefix:
            rest = expressions.LOADS[match.field].size * 8 - match.prefix
            value = value >> rest << rest
        return ranges.contains(content, value) is (match.operator is Operator.IN)
    return (value == match.value) is (match.operator is Operator.EQ)


def _read(field: Field, packet: Packet) -> int | str | None:
    is_tcp = packet.protocol == names.TCP
    source = ip_address(packet.source)
    original, original_port = packet.asked_for or (packet.destination, packet.port)
    asked = ip_address(original)
    readers: dict[Field, int | str | None] = {
        Field.L4PROTO: packet.protocol,
        Field.OIFNAME: packet.out,
        Field.SKUID: packet.uid,
        Field.SKGID: packet.gid,
        Field.IP_SADDR: int(source) if source.version == 4 else None,
        Field.IP6_SADDR: int(source) if source.version == 6 else None,
        Field.IP_DADDR: int(packet.address) if packet.address.version == 4 else None,
        Field.IP6_DADDR: int(packet.address) if packet.address.version == 6 else None,
        Field.SPORT: packet.source_port if is_tcp else None,
        Field.DPORT: packet.port if is_tcp else None,
        Field.TCP_FLAGS: packet.flags & 0x17 if is_tcp else None,
        Field.FIB_DADDR_TYPE: LOCAL if _is_own(packet) else UNICAST,
        Field.CT_STATUS_DNAT: 0x20 if packet.asked_for else 0,
        Field.ORIGINAL_IP_DADDR: int(asked) if asked.version == 4 else None,
        Field.ORIGINAL_IP6_DADDR: int(asked) if asked.version == 6 else None,
        Field.ORIGINAL_DPORT: original_port if is_tcp else None,
    }
    return readers[field]


def _is_own(packet: Packet) -> bool:
    return packet.address in FACTS.addresses or packet.address.is_loopback


def outbound(ruleset: model.Ruleset, packet: Packet) -> int:
    """The proxy's port that an outgoing connection is sent to; 0: it is left alone."""
    verdict = walk(ruleset, model.MAIN_TABLE, "output", packet)
    return int(verdict.target) if verdict and verdict.action is Action.REDIRECT else 0


def inbound(ruleset: model.Ruleset, packet: Packet) -> int:
    """The proxy's port that an incoming connection is sent to; 0: it is left alone."""
    verdict = walk(ruleset, model.MAIN_TABLE, "prerouting", packet)
    return int(verdict.target) if verdict else 0


def is_refused(ruleset: model.Ruleset, packet: Packet) -> bool:
    """Whether a packet goes no further, before its destination may be translated."""
    verdict = walk(ruleset, model.MAIN_TABLE, "output_filter", packet)
    return verdict is not None and verdict.action in (Action.DROP, Action.REJECT)


def is_dropped_by_guard(ruleset: model.Ruleset, packet: Packet) -> bool:
    """Whether the guard lets a packet come to nothing, and tells nobody."""
    verdict = walk(ruleset, model.GUARD_TABLE, "output", packet)
    return verdict is not None and verdict.action is Action.DROP


def is_guarded(ruleset: model.Ruleset, packet: Packet) -> bool:
    """Whether the guard refuses an outgoing connection that nobody redirected."""
    verdict = walk(ruleset, model.GUARD_TABLE, "output", packet)
    return verdict is not None and verdict.action is Action.REJECT
