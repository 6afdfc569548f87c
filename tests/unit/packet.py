"""Packets of the host that `samples.FACTS` tells of, and what one base chain makes of them."""

from istio_hostagent.redirect import evaluator, model, names
from istio_hostagent.redirect.packets import End, Packet, Way
from tests.unit.samples import FACTS

ORDINARY = 1000
SYN, SYN_ACK = 0x02, 0x12


def make(
    destination: str,
    port: int = 80,
    source: str = "10.1.0.2",
    uid: int | None = ORDINARY,
    gid: int = ORDINARY,
    out: str = "eth0",
    protocol: int = names.TCP,
    flags: int = SYN,
    source_port: int = 40000,
    asked_for: tuple[str, int] | None = None,
) -> Packet:
    """The first packet of a connection, or another one with other flags."""
    return Packet(
        destination,
        port,
        source,
        source_port,
        protocol=protocol,
        flags=flags,
        uid=uid,
        gid=gid,
        oif=out,
        asked_for=asked_for,
    )


def enter(
    ruleset: model.Ruleset, name: str, chain: str, packet: Packet, hook: int = evaluator.OUTPUT
) -> Way:
    """What becomes of a packet in one chain; where that is not there, nothing does."""
    for table in ruleset.tables:
        if table.name == name and any(each.name == chain for each in table.chains):
            return evaluator.enter_chain(table, chain, packet, FACTS.addresses, hook)
    return Way(packet, End.PASSED, (), None)


def outbound(ruleset: model.Ruleset, packet: Packet) -> int:
    """The proxy's port that an outgoing connection is sent to; 0: it is left alone."""
    return enter(ruleset, model.MAIN_TABLE, "output", packet).captured_at


def inbound(ruleset: model.Ruleset, packet: Packet) -> int:
    """The proxy's port that an incoming connection is sent to; 0: it is left alone."""
    hook = evaluator.PREROUTING
    return enter(ruleset, model.MAIN_TABLE, "prerouting", packet, hook).captured_at


def is_refused(ruleset: model.Ruleset, packet: Packet) -> bool:
    """Whether a packet goes no further, before its destination may be translated."""
    return enter(ruleset, model.MAIN_TABLE, "output_filter", packet).end is not End.PASSED


def is_dropped_by_guard(ruleset: model.Ruleset, packet: Packet) -> bool:
    """Whether the guard lets a packet come to nothing, and tells nobody."""
    return enter(ruleset, model.GUARD_TABLE, "output", packet).end is End.DROPPED


def is_guarded(ruleset: model.Ruleset, packet: Packet) -> bool:
    """Whether the guard refuses an outgoing connection that nobody redirected."""
    return enter(ruleset, model.GUARD_TABLE, "output", packet).end is End.REJECTED
