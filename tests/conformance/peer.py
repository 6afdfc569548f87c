"""The real `pilot-agent istio-iptables` in place of `apply`: for calibrate.py.

It gets the same keys in its environment, and two more: ISTIO_DUAL_STACK, without which it may
leave IPv6 out, and the proxy's real group as PROXY_GID, which it would take to have the number of
the user. Where it answers otherwise DIFFERENCES says why the product is to be different: a packet
that differs without a reason fails, and one that has a reason and does not differ.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.conformance import model, world
from tests.conformance.model import Configuration, Packet, Place
from tests.conformance.table import Case

FLAVOUR = os.environ.get("CONFORMANCE_PEER", "nftables")
CACHE = Path.home() / ".cache" / "istio-hostagent" / "peers"
_NEVER_INBOUND = (22, 15000, 15001, 15006, 15020, 15021, 15090)
# Of configurations with one of these there is nothing to compare.
_OWN_KEYS = ("ISTIO_HOSTAGENT_", "EXEC_USER", "ENVOY_PORT", "ISTIO_CUSTOM_IP_TABLES")


def has_no_such_thing(configuration: Configuration) -> bool:
    """Whether a configuration has a key that the peer does not read."""
    return any(key.startswith(_OWN_KEYS) for key in configuration.keys)


def apply(made: world.World, configuration: Configuration) -> subprocess.CompletedProcess[str]:
    """Put the peer's rules in."""
    binary = next(CACHE.glob("istio-*/pilot-agent"))
    keys = dict(configuration.keys)
    environment = {
        "NATIVE_NFTABLES": str(FLAVOUR == "nftables").lower(),
        "ISTIO_DUAL_STACK": "true",
        **({} if "PROXY_UID" in keys else {"PROXY_GID": str(configuration.proxy.gid)}),
        **keys,
    }
    return made.host.run([str(binary), "istio-iptables"], env=environment, timeout=world.LIMIT_S)


def reason_of(case: Case) -> str:
    """Why the product and its peer are to differ on a packet; "" if they are not."""
    reasons = (
        each.reason
        for each in DIFFERENCES
        if each.flavour in ("", FLAVOUR) and each.concerns(case.configuration, case.packet)
    )
    return next(reasons, "")


class Difference(NamedTuple):
    """Which packets meet something else under the peer's rules, and why.

    `flavour`: only in one of its modes.
    """

    reason: str
    concerns: Callable[[Configuration, Packet], bool]
    flavour: str = ""


def _is_named(*names: str) -> Callable[[Configuration, Packet], bool]:
    return lambda configuration, _packet: configuration.name in names


def _has_all_inbound(configuration: Configuration) -> bool:
    return configuration.keys.get("ISTIO_INBOUND_PORTS") == "*"


def _is_guest_of(configuration: Configuration, packet: Packet) -> bool:
    return packet.place is Place.GUEST and "virbr0" in configuration.keys.get(
        "KUBE_VIRT_INTERFACES", ""
    )


def _is_own(host: str) -> bool:
    return world.place_of(host) is Place.HOST


def _never_outbound(configuration: Configuration, packet: Packet) -> bool:
    never = (*model.METADATA, *model.LINK_LOCAL, model.THIS_NETWORK)
    is_captured = packet.place is Place.HOST or _is_guest_of(configuration, packet)
    keys = configuration.keys
    return (
        is_captured
        and packet.protocol == model.TCP
        and packet.host in never
        and packet.expected == model.APPLICATION
        and ("*" in keys.get("ISTIO_SERVICE_CIDR", "") or "only" in configuration.name)
    ) or (configuration.name == "ranges" and packet.host in model.METADATA)


def _never_inbound(configuration: Configuration, packet: Packet) -> bool:
    is_all = _has_all_inbound(configuration) or configuration.name == "only by name"
    comes_in = packet.place is Place.OUTSIDE or (
        packet.place is Place.GUEST and not _is_guest_of(configuration, packet)
    )
    return is_all and packet.protocol == model.TCP and comes_in and packet.port in _NEVER_INBOUND


def _is_forwarded(configuration: Configuration, packet: Packet) -> bool:
    return (
        _has_all_inbound(configuration)
        and packet.protocol == model.TCP
        and packet.place is not Place.HOST
        and not _is_guest_of(configuration, packet)
        and not _is_own(packet.host)
    )


def _is_self_call_of_others(configuration: Configuration, packet: Packet) -> bool:
    first = {"61340": 61340, "61340,61342": 61340}.get(
        configuration.keys.get("PROXY_UID", ""), configuration.proxy.uid
    )
    is_self_call = packet.expected == model.INBOUND and packet.place is Place.HOST
    return is_self_call and packet.user.uid != first and not configuration.is_tproxy


def _is_tunnel(configuration: Configuration, packet: Packet) -> bool:
    return (
        configuration.is_tproxy
        and _has_all_inbound(configuration)
        and packet.place is Place.OUTSIDE
        and packet.port == 15008
    )


def _is_excluded_beside_a_list(configuration: Configuration, packet: Packet) -> bool:
    keys = configuration.keys
    if packet.place is not Place.OUTSIDE or packet.expected != model.APPLICATION:
        return False
    documented = keys.get("ISTIO_INBOUND_EXCLUDE_PORTS") == str(packet.port)
    is_list = keys.get("ISTIO_INBOUND_PORTS", "*") != "*"
    local = (str(packet.port) == "9090" and keys.get("ISTIO_LOCAL_EXCLUDE_PORTS") == "9090") or (
        packet.port == 8086 and configuration.name == "ranges"
    )
    return documented or (is_list and local)


def _is_resolver(configuration: Configuration, packet: Packet) -> bool:
    users = (model.RESOLVED, model.DNSMASQ)
    takes_server = (
        packet.host in configuration.resolvers or "CAPTURE_ALL_DNS" in configuration.keys
    )
    return packet.user in users and takes_server


def _is_excluded_for_a_guest(configuration: Configuration, packet: Packet) -> bool:
    if not _is_guest_of(configuration, packet) or packet.protocol != model.TCP:
        return False
    return packet.host in model.EXCLUDED or packet.port == 8443


DIFFERENCES = (
    Difference(
        "its nftables mode refuses a range of ports, and a prefix written with a plus sign",
        _is_named(
            "ranges", "only by name", "interfaces excluded by prefix, as iptables writes it"
        ),
        "nftables",
    ),
    Difference(
        "its iptables mode takes an asterisk for a letter of an interface's name",
        lambda configuration, packet: (
            "virbr*" in configuration.keys.get("ISTIO_EXCLUDE_INTERFACES", "")
            and (packet.place is Place.GUEST or packet.host in model.GUEST)
        ),
        "iptables",
    ),
    Difference("it refuses an address without a length", _is_named("addresses without a length")),
    Difference(
        "it passes 64 groups as valid, then fails to put the rules in", _is_named("64 groups")
    ),
    Difference(
        "metadata, link-local and 0.0.0.0/8 are captured only if they are named", _never_outbound
    ),
    Difference(
        "ssh and the proxy's own ports are captured only if they are named", _never_inbound
    ),
    Difference("what is only forwarded is not inbound", _is_forwarded),
    Difference(
        "it knows the self-call of the first uid only, not of others and not of a group",
        _is_self_call_of_others,
    ),
    Difference(
        "an excluded inbound port counts beside a list, by both keys", _is_excluded_beside_a_list
    ),
    Difference(
        "ssh of this host and the proxy's own ports stay reachable for guests, too",
        lambda configuration, packet: (
            _is_guest_of(configuration, packet)
            and _is_own(packet.host)
            and packet.port in _NEVER_INBOUND
            and "ISTIO_SERVICE_CIDR" in configuration.keys
        ),
    ),
    Difference(
        "a listed port counts for guests, too",
        lambda configuration, packet: (
            packet.place is Place.GUEST
            and packet.expected == model.OUTBOUND
            and "ISTIO_SERVICE_CIDR" not in configuration.keys
        ),
    ),
    Difference(
        "the group of a proxy is the user's own, not the one that has the user's number",
        lambda configuration, packet: (
            configuration.name == "two proxies, groups by default"
            and packet.user.name in ("group of envoy", "gid like the other uid")
            and packet.host in model.OTHER
        ),
    ),
    Difference(
        "an application's call of its own host stays direct, of a server for names, too",
        lambda configuration, packet: (
            packet.user is model.APP
            and packet.protocol == model.TCP
            and packet.port == 53
            and packet.host in model.OWN
            and packet.host not in configuration.resolvers
        ),
    ),
    Difference("exclusions count for guests, too", _is_excluded_for_a_guest),
    Difference(
        "an excluded interface counts before everything else, guests included",
        _is_named("guests of an excluded interface"),
    ),
    Difference("who resolves for others would ask itself", _is_resolver),
    Difference(
        "what an excluded group asks is tracked apart from what is captured",
        lambda configuration, packet: (
            configuration.name == "names of groups, excluded"
            and packet.source_port != 0
            and packet.user is model.ALPHA
        ),
    ),
    Difference("the tunnel's port is not inbound with TPROXY, either", _is_tunnel),
    Difference(
        "what the proxy sends on in a client's name is no self-call",
        lambda _configuration, packet: packet.is_transparent and packet.user is not model.ROOT,
    ),
    Difference(
        "whatever is invalid is dropped, not TCP alone",
        lambda _configuration, packet: (
            packet.protocol == model.INVALID_ICMP and packet.expected == model.DROPPED
        ),
        "nftables",
    ),
)
