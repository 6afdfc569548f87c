"""`explain --live`: one real packet, traced through the kernel's rules, beside the model of them.

It is a probe: recorded behind all translation of destinations, and dropped there; so what comes
later, the guard for example, is not met. Nothing leaves this host.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from ...config import model as config
from ...errors import HostAgentError, WrongUsage
from ...host import probetable, tracedprobing
from ...redirect import evaluator, expectations, model, names, policy
from ...redirect.expectations import Sender, Shape
from ...redirect.packets import End, Packet, Way
from .. import prober
from . import errands


class Live(NamedTuple):
    """What the kernel did with a packet, and where the model says something else."""

    packet: Packet  # as it was sent
    outcome: expectations.Outcome
    rules: tuple[tracedprobing.Met, ...]  # ours
    others: tuple[tracedprobing.Met, ...]
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Its part of the machine-readable form."""
        return {
            "agrees": not self.differences,
            "source": self.packet.source,
            "interface": self.outcome.interface or self.packet.iif or self.packet.oif,
            "address": self.outcome.address,
            "port": self.outcome.port,
            "zone": self.outcome.zone,
            "path": [_rule(met) for met in self.rules],
            "others": list(map(_describe, self.others)),
            "differences": list(self.differences),
        }


def look(
    redirection: config.Redirection,
    facts: config.HostFacts,
    packet: Packet,
    own: Collection[config.Address],
) -> Live:
    """Send it and compare; raises NotPermitted, KernelBusy, WrongUsage if it cannot be sent."""
    expectation, packet = _prepare(packet)
    packets = tracedprobing.TracedPackets()
    try:
        outcome = _send(packets, expectation, facts)
        if outcome.errno:
            finding = expectations.evaluate(expectation, outcome)
            raise WrongUsage(f"the packet cannot be sent: {finding.detail}")
        met = packets.read_way()
    finally:
        packets.close()
    if outcome.interface and not packet.iif:
        packet = packet._replace(oif=outcome.interface)
    ruleset = policy.build_ruleset(redirection, facts)
    way = evaluator.follow(
        ruleset.tables, packet, {*facts.addresses, *own}, until=probetable.PRIORITY
    )
    rules = tuple(each for each in met if _is_ours(each))
    others = tuple(each for each in met if not _is_ours(each))
    return Live(packet, outcome, rules, others, tuple(_compare(way, outcome, rules)))


def _prepare(packet: Packet) -> tuple[expectations.Expectation, Packet]:
    """The packet as probes send it: one from outside enters by `lo`, from an address of nobody."""
    made = expectations.Expectation("", Sender.APPLICATION, packet.destination, packet.port, 0, ())
    is_udp = packet.protocol == names.UDP
    if packet.iif:
        if is_udp:
            raise WrongUsage("--live sends no datagram from outside: only tcp, or without --from")
        is_v4 = packet.address.version == 4
        source = probetable.NEIGHBOUR_V4 if is_v4 else probetable.NEIGHBOUR_V6
        return made._replace(sender=Sender.NEIGHBOUR), packet._replace(
            source=str(source), iif="lo"
        )
    assert packet.uid is not None and packet.gid is not None
    shape = Shape.DATAGRAM if is_udp else Shape.CONNECTION
    return made._replace(shape=shape, uid=packet.uid, gid=packet.gid), packet


def _send(
    packets: tracedprobing.TracedPackets,
    expectation: expectations.Expectation,
    facts: config.HostFacts,
) -> expectations.Outcome:
    sender = errands.Errands(packets)
    found: list[prober.Outcomes | HostAgentError] = []
    sender.packets.prove((expectation,), facts, found.append)
    sender.wait(lambda: found)
    if isinstance(found[0], HostAgentError):
        raise found[0]
    return found[0][0]


def _is_ours(met: tracedprobing.Met) -> bool:
    return met.family == "inet" and met.table in model.OUR_TABLES


def _compare(
    way: Way, outcome: expectations.Outcome, met: tuple[tracedprobing.Met, ...]
) -> Iterator[str]:
    """Where the kernel did something else than the model says."""
    said = [(step.table, step.chain, step.number) for step in way.steps]
    done = [(each.table, each.chain, each.number) for each in met]
    if said != done:
        at = next(
            (
                index
                for index, pair in enumerate(zip(said, done, strict=False))
                if len({*pair}) > 1
            ),
            min(len(said), len(done)),
        )
        yield f"the model meets {_name(said, at)}, the kernel {_name(done, at)}"
    is_gone = way.end is not End.PASSED
    if is_gone is not (not outcome.address):
        kernel = "drops it" if not outcome.address else "lets it pass"
        yield f"the model {'drops it' if is_gone else 'lets it pass'}, the kernel {kernel}"
    elif not is_gone:
        expected = (way.packet.destination, way.packet.port)
        # Which own address of several a connection from outside is sent to, the interface decides.
        is_same = expected == (outcome.address, outcome.port)
        if not is_same and not (
            way.captured_at and way.packet.iif and outcome.port == expected[1]
        ):
            yield (
                f"the model sends it to {expected[0]} port {expected[1]},"
                f" the kernel to {outcome.address} port {outcome.port}"
            )
        if way.packet.zone != outcome.zone:
            yield (
                f"the model puts it into zone {way.packet.zone}, the kernel into {outcome.zone}"
            )


def _name(path: list[tuple[str, str, int]], index: int) -> str:
    if index >= len(path):
        return "no further rule"
    table, chain, number = path[index]
    return f"{table} {chain} rule {number}"


def _describe(met: tracedprobing.Met) -> str:
    return f"{met.family} {met.table} {met.chain} rule {met.number}"


def _rule(met: tracedprobing.Met) -> dict[str, object]:
    return {"table": met.table, "chain": met.chain, "rule": met.number}
