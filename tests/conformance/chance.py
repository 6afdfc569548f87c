"""Configurations and packets by chance: what nobody thought of when the table was written.

The same number makes the same ones. Nothing is expected of a packet: see test_chance.py.
"""

import random
from collections.abc import Sequence

from tests.conformance import model
from tests.conformance.model import Configuration, Packet
from tests.conformance.packets import Target, guest, inbound, tcp, udp

NETWORKS = (
    *("0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.96.0.0/12", "10.96.0.5/32", "10.96.1.0/24"),
    *("10.1.0.0/24", "10.1.0.2/32", "10.2.0.0/16", "10.3.0.0/24", "127.0.0.0/8", "127.0.0.5/32"),
    *("169.254.0.0/16", "169.254.169.254/32", "172.16.0.0/12", "172.29.0.53/32", "203.0.113.0/24"),
    *("::/0", "fd00::/16", "fd00:1::/64", "fd00:3::/64", "fd00:10::/64", "fd00:10::1:0/112"),
    *("fd00:20::5/128", "fd00:97::/64", "fd00:ec2::254/128", "fe80::/10"),
)
PORTS = (1, 22, 53, 80, 443, 3306, 8080, 8443, 9090, 65535)
ADDRESSES: Sequence[Target] = (
    *(
        model.OWN,
        model.OWN_SECOND,
        model.OWN_BRIDGE,
        model.LOCALHOST,
        model.LOOPBACK_5,
        model.STUB,
    ),
    *(model.MESH, model.EXCLUDED, model.OTHER, model.FAR, model.GUEST, model.METADATA),
    *(
        model.RESOLVER,
        model.OTHER_RESOLVER,
        model.RESOLVER_FAR,
        model.OUTSIDE,
        model.OUTSIDE_SECOND,
    ),
)
OWN = (model.OWN, model.OWN_SECOND, model.OWN_BRIDGE)
USERS = (
    *(model.APP, model.ROOT, model.PROXY, model.PROXY_UID, model.PROXY_GID, model.MEMBER),
    *(model.SAME_NUMBER, model.ALPHA, model.BETA, model.ALPHA_MEMBER, model.ROOT_GROUP),
    *(model.RESOLVED, model.DNSMASQ, model.OTHER_PROXY, model.SECOND_PROXY),
)
_Keys = dict[str, str]


def make(seed: int) -> Configuration:
    """One configuration with some 130 packets."""
    chance = random.Random(seed)
    keys = _make_keys(chance)
    proxy = model.OTHER_PROXY if keys.get("PROXY_UID", "").startswith("61340") else model.PROXY
    return Configuration(
        f"chance {seed}",
        "chance",
        keys,
        tuple(dict.fromkeys(_make_packets(chance, is_of_names="REDIRECT_DNS" in keys))),
        proxy=proxy,
        is_tproxy="ISTIO_INBOUND_INTERCEPTION_MODE" in keys,
    )


def _make_keys(chance: random.Random) -> _Keys:
    def networks() -> str:
        return ",".join(chance.sample(NETWORKS, chance.randint(1, 4)))

    def ports() -> str:
        return ",".join(map(str, chance.sample(PORTS, chance.randint(1, 4))))

    may_be: dict[str, tuple[float, Sequence[str]]] = {
        "ISTIO_SERVICE_CIDR": (0.85, ("*", networks(), networks())),
        "ISTIO_SERVICE_EXCLUDE_CIDR": (0.4, (networks(),)),
        "ISTIO_INBOUND_PORTS": (0.85, ("*", ports())),
        "ISTIO_LOCAL_EXCLUDE_PORTS": (0.35, (ports(),)),
        "ISTIO_OUTBOUND_PORTS": (0.3, (ports(),)),
        "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE": (0.35, (ports(),)),
        "ISTIO_EXCLUDE_INTERFACES": (0.3, ("eth1", "eth0", "virbr0", "eth*", "virbr0,eth1", "lo")),
        "KUBE_VIRT_INTERFACES": (0.25, ("virbr0", "virbr0,virbr1", "eth1")),
        "REDIRECT_DNS": (0.4, ("true",)),
        "CAPTURE_ALL_DNS": (0.2, ("true",)),
        "ISTIO_INBOUND_INTERCEPTION_MODE": (0.25, ("TPROXY",)),
        "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": (0.2, ("127.0.0.0/8", "127.0.0.4/30")),
        "INVALID_DROP": (0.15, ("true",)),
        "PROXY_UID": (0.15, ("61340", "61340,61342", "61337,61340")),
        "INBOUND_TUNNEL_PORT": (0.1, ("15009",)),
    }
    groups = chance.choice(("ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"))
    may_be[groups] = (0.4, ("alpha", "61600,61601", "beta", "61500", "61338", "0,alpha"))
    return {
        key: chance.choice(values)
        for key, (share, values) in may_be.items()
        if chance.random() < share
    }


def _make_packets(chance: random.Random, *, is_of_names: bool) -> list[Packet]:
    def port() -> int:
        return chance.choice(PORTS)

    def of_host(to: Sequence[Target], number: int) -> tuple[Packet, ...]:
        send = chance.choice((tcp, tcp, udp))
        return send(chance.choice(USERS), chance.choice(to), number, "")

    groups: list[tuple[Packet, ...]] = [of_host(ADDRESSES, port()) for _ in range(36)]
    servers = (model.RESOLVER, model.OTHER_RESOLVER, model.STUB, model.RESOLVER_FAR, model.OWN)
    groups += [of_host(servers, 53) for _ in range(10 if is_of_names else 0)]
    for _ in range(12):
        protocol = chance.choice((model.TCP, model.TCP, model.UDP))
        groups.append(inbound(chance.choice((*OWN, model.GUEST)), port(), "", protocol))
        to = chance.choice((*OWN, model.MESH, model.EXCLUDED, model.OTHER, model.FAR))
        groups.append(guest(to, port(), "", protocol))
    return [packet for group in groups for packet in group]
