"""What the product's model of its own rules says of each packet of a configuration.

Run as `python3 -m tests.conformance.judge` in the host of a world, by root, with the environment of
`apply`. It reads one JSON object from its standard input (see `ask`), makes the rules as `apply`
makes them, sends nothing, and prints who gets each packet in the words of model.py.

The model knows the first packet of a connection, and our rules: not the way of an answer, nor what
rules of others do.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from istio_hostagent.agent.oneshot import configuration as configurations
from istio_hostagent.agent.oneshot import start
from istio_hostagent.host import rtnetlink
from istio_hostagent.redirect import evaluator, names, packets, policy
from tests.conformance import model
from tests.conformance.model import Configuration, Place

_PROTOCOLS = {
    model.TCP: (names.TCP, packets.SYN),
    model.UDP: (names.UDP, 0),
    # A segment without flags.
    model.INVALID_TCP: (names.TCP, 0),
}
_ICMP = {4: 1, 6: 58}


def ask(configuration: Configuration, find_unit: Callable[[model.Packet], str]) -> str:
    """The question about all packets of a configuration; `find_unit`: the path of a group."""
    listeners = {15053: model.DNS, configuration.inbound_port: model.INBOUND}
    listeners[configuration.outbound_port] = model.OUTBOUND
    sent = [
        {**each._asdict(), "user": each.user._asdict(), "unit": find_unit(each)}
        for each in configuration.packets
    ]
    return json.dumps({"listeners": list(listeners.items()), "packets": sent})


def main() -> None:
    """Answer it."""
    asked = json.load(sys.stdin)
    listeners = dict(map(tuple, asked["listeners"]))
    environment = dict(os.environ)
    _, config, facts = configurations.require(environment, start.begin(environment))
    ruleset = policy.build_ruleset(config.redirection, facts)
    # Those that come with the rules, which are not in.
    coming = [ip_interface(each).ip for each in ruleset.loopback_addresses]
    own = [*(each.address for each in rtnetlink.probe_addresses()), *coming]
    answers = []
    for each in asked["packets"]:
        packet = _make_packet(each, own)
        packet = packet._replace(is_bridged=packet.iif in facts.filtered_bridges)
        is_here = packets.is_local(packet.address, own)
        way = evaluator.follow(ruleset.tables, packet, own)
        answers.append(_name(packet, way, listeners, is_here=is_here))
    print(json.dumps(answers))


def _make_packet(each: Mapping[str, Any], own: list[packets.Address]) -> packets.Packet:
    destination = ip_address(each["host"])
    is_v6 = destination.version == 6
    protocol, flags = _PROTOCOLS.get(each["protocol"], (_ICMP[destination.version], 0))
    is_invalid = each["protocol"] in (model.INVALID_TCP, model.INVALID_ICMP)
    packet = packets.Packet(
        each["host"],
        each["port"],
        each["source"],
        each["source_port"] or 40000,
        protocol=protocol,
        flags=flags,
        tracking=packets.Tracking.INVALID if is_invalid else None,
        mark=each["mark"],
    )
    if each["place"] == Place.GUEST:
        return packet._replace(source=model.GUEST[is_v6], iif="virbr0")
    if each["place"] == Place.OUTSIDE:
        is_second = each["host"] in model.OUTSIDE_SECOND or each["host"] in model.OWN_SECOND
        source = (model.OUTSIDE_SECOND if is_second else model.OUTSIDE)[is_v6]
        interface = "eth1" if is_second else "eth0"
        return packet._replace(source=each["source"] or source, iif=interface)
    user = each["user"]
    groups = _find_groups(each["unit"]) if each["unit"] else ()
    sent = packet._replace(uid=user["uid"], gid=user["gid"], oif=each["scope"], groups=groups)
    if not sent.oif:
        route = rtnetlink.find_route(destination, uid=user["uid"])
        assert route is not None, each["host"]
        source = str(route.source) if route.source is not None else ""
        sent = sent._replace(source=each["source"] or source, oif=route.interface)
    if packets.is_local(destination, own):
        sent = sent._replace(oif="lo")
    return sent._replace(source=sent.source or ("::" if is_v6 else "0.0.0.0"))


def _find_groups(path: str) -> tuple[int, ...]:
    """The numbers of a control group and those above it, from below the root of their tree.

    `path` as /proc/PID/cgroup has it; the tree is where the command in front of us has put it.
    """
    group = Path("/sys/fs/cgroup") / path.lstrip("/")
    line = [each for each in (group, *group.parents) if each.is_relative_to("/sys/fs/cgroup")]
    return tuple(each.stat().st_ino for each in reversed(line[:-1]))


def _name(
    packet: packets.Packet, way: packets.Way, listeners: Mapping[int, str], *, is_here: bool
) -> str:
    if packet.tracking is packets.Tracking.INVALID:
        return model.DROPPED if way.end is packets.End.DROPPED else model.DELIVERED
    if way.end is not packets.End.PASSED:
        return "refused" if way.end is packets.End.REJECTED else "nothing"
    if way.captured_at:
        return listeners.get(way.captured_at, f"port {way.captured_at}")
    if packet.protocol == names.TCP and packet.port in listeners and is_here:
        return listeners[packet.port]  # it was meant
    if (way.packet.destination, way.packet.port) != (packet.destination, packet.port):
        return f"{way.packet.destination} {way.packet.port}"
    return model.APPLICATION


if __name__ == "__main__":
    main()
