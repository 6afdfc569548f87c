"""What is never captured unless a key names it, and which sets follow for one configuration.

Not here: rules (`policy`). What counts as naming (design invariant 2): a port written by itself,
an address written as /32 or /128; `*` and ranges name nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..config import clouds
from ..config import model as config
from ..config.packed import PackedRanges, pack
from . import blocks, ranges

ALL_PORTS = ((1, 65535),)

LOOPBACK_V4 = ((0x7F000000, 0x7FFFFFFF),)
LOOPBACK_V6 = ((1, 1),)
# The bases that Istio writes into its rules: the proxy reaches applications at these directly.
LOCALHOST_V4 = 0x7F000001
LOCALHOST_V6 = 1
PASSTHROUGH_V4 = 0x7F000006  # 127.0.0.6
PASSTHROUGH_V6 = 6  # ::6

# Of the table in `clouds`, those that are probed.
METADATA_V4 = 0xA9FEA9FE  # 169.254.169.254, on every large cloud
METADATA_V6 = 0xFD000EC2000000000000000000000254  # fd00:ec2::254, Amazon

NEVER_V4 = ranges.merge(
    (
        (0x00000000, 0x00FFFFFF),  # 0.0.0.0/8, this host
        *LOOPBACK_V4,
        (0xA9FE0000, 0xA9FEFFFF),  # 169.254.0.0/16, link-local
        *((int(each), int(each)) for each in clouds.addresses(4)),
        (0xE0000000, 0xEFFFFFFF),  # 224.0.0.0/4, multicast
        (0xFFFFFFFF, 0xFFFFFFFF),  # broadcast
    )
)
NEVER_V6 = ranges.merge(
    (
        (0, 1),  # ::, ::1
        *((int(each), int(each)) for each in clouds.addresses(6)),
        (0xFE80 << 112, (0xFEC0 << 112) - 1),  # fe80::/10, link-local
        (0xFF00 << 112, (1 << 128) - 1),  # ff00::/8, multicast
    )
)


class Family(NamedTuple):
    """The outbound sets of one IP version, all merged."""

    include: Sequence[tuple[int, int]] = ()
    # `include` again, as it is looked up: by hash, by prefix length, and the rest as intervals
    hashed: blocks.Blocks = ()
    intervals: Sequence[tuple[int, int]] = ()
    exclude: Sequence[tuple[int, int]] = ()
    never: ranges.Ranges = ()  # the never-captured class without the named addresses
    named_loopback: ranges.Ranges = ()  # loopback addresses that the operator lists one by one
    name_servers: ranges.Ranges = ()  # queries to these are captured


class Sets(NamedTuple):
    """Every set that rules, guard and expectations of one configuration are made of."""

    v4: Family
    v6: Family
    exempt_ports: ranges.Ranges  # outbound, before everything else
    named_ports: ranges.Ranges  # outbound, captured whatever the address
    ranged_ports: ranges.Ranges  # the same, except towards the never-captured class
    inbound_exempt: ranges.Ranges
    inbound: ranges.Ranges
    own_ports: ranges.Ranges  # of this host: sshd's and the proxy's own, unless one is named
    private_ports: ranges.Ranges  # on this host, for root and the proxy's user only


def build_sets(redirection: config.Redirection, facts: config.HostFacts) -> Sets:
    """Work out the sets; those of IPv6 are empty on a host without it."""
    return Sets(
        v4=_build_family(redirection, facts, 4),
        v6=_build_family(redirection, facts, 6) if facts.knows_ipv6 else Family(),
        exempt_ports=_merge_ports(redirection.outbound_ports_exclude),
        named_ports=ranges.singles(redirection.outbound_ports.named),
        ranged_ports=_ranged_ports(redirection.outbound_ports),
        inbound_exempt=_inbound_exempt(redirection, facts),
        inbound=_merge_ports(redirection.inbound),
        own_ports=ranges.singles(_own_ports(redirection, facts)),
        private_ports=ranges.merge((port, port) for port in redirection.private_ports),
    )


def _build_family(
    redirection: config.Redirection, facts: config.HostFacts, version: int
) -> Family:
    never = NEVER_V4 if version == 4 else NEVER_V6
    loopback: ranges.Ranges = LOOPBACK_V4 if version == 4 else LOOPBACK_V6
    exclude = _merge_networks(redirection.outbound_exclude, version)
    # Naming matters only where an address is not captured otherwise.
    named = ranges.singles(
        address
        for address in redirection.outbound.named(version)
        if ranges.contains(never, address)
    )
    # What the operator calls local by a network stays so, listed or not.
    local = redirection.loopback_v4
    if version == 4 and local.prefixlen < 32:
        stays = ((int(local.network_address), int(local.broadcast_address)),)
        loopback = ranges.subtract(loopback, stays)
    include = _merge_networks(redirection.outbound, version)
    written = redirection.outbound.of_version(version)
    hashed, intervals = blocks.split(written, include)
    return Family(
        include=include,
        hashed=hashed,
        intervals=intervals,
        exclude=exclude,
        never=ranges.subtract(never, named),
        named_loopback=ranges.subtract(ranges.intersect(named, loopback), exclude),
        name_servers=ranges.singles(name_servers(redirection, facts, version)),
    )


def name_servers(
    redirection: config.Redirection, facts: config.HostFacts, version: int
) -> set[int]:
    """The servers to which queries are captured, as numbers; none where all are."""
    if not redirection.dns.is_captured or redirection.dns.is_every_server:
        return set()
    return {int(each) for each in facts.name_servers if each.version == version}


def _merge_networks(cidrs: config.CidrSet, version: int) -> PackedRanges:
    networks = cidrs.of_version(version)
    if cidrs.is_all:
        return pack(networks.width, [(0, (1 << (8 * networks.width)) - 1)])
    joined = pack(networks.width, ranges.join(networks))
    return networks if joined == networks else joined  # one copy, of what may be large


def _merge_ports(ports: config.PortSet) -> ranges.Ranges:
    return ALL_PORTS if ports.is_all else ranges.merge(ports.ranges)


def _ranged_ports(ports: config.PortSet) -> ranges.Ranges:
    if ports.is_all:
        return ALL_PORTS
    return ranges.merge((first, last) for first, last in ports.ranges if first != last)


def _own_ports(redirection: config.Redirection, facts: config.HostFacts) -> set[int]:
    """What is not the application's, unless it is named; the tunnel's port in any case."""
    own = {redirection.outbound_capture_port, redirection.inbound_capture_port}
    own |= set(redirection.proxy_ports) | set(facts.ssh_ports)
    return own - redirection.inbound.named | {redirection.tunnel_port}


def _inbound_exempt(redirection: config.Redirection, facts: config.HostFacts) -> ranges.Ranges:
    """Exclusions, and what is not the application's."""
    closed = ((port, port) for port in redirection.inbound_closed)
    own = ranges.singles(_own_ports(redirection, facts))
    return ranges.merge((*_merge_ports(redirection.inbound_exclude), *closed, *own))
