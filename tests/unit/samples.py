"""Redirections and host facts that tests of rules are made of."""

from ipaddress import ip_address, ip_network

from istio_hostagent.config.model import CidrSet, HostFacts, PortSet, Redirection

PROXY_UID, PROXY_GID = 998, 997
FACTS = HostFacts(
    PROXY_UID,
    PROXY_GID,
    ssh_ports=(22,),
    addresses=(ip_address("10.1.0.2"), ip_address("fd00:1::2")),
    users=(("root", 0, 0), ("systemd-resolve", 101, 102), ("envoy", 2001, 2002)),
    groups=(("root", 0), ("apps", 3000)),
    name_servers=(ip_address("127.0.0.53"), ip_address("10.1.0.53"), ip_address("fd00:1::53")),
)
ONLY_V4 = HostFacts(PROXY_UID, PROXY_GID, addresses=(ip_address("10.1.0.2"),), has_ipv6=False)
EVERYTHING = PortSet(is_all=True)


def cidrs(*written: str) -> CidrSet:
    return CidrSet.of(ip_network(each) for each in written)


def ports(*written: int | tuple[int, int]) -> PortSet:
    return PortSet(
        False, tuple((p, p) if isinstance(p, int) else p for p in sorted_ports(written))
    )


def sorted_ports(written: tuple[int | tuple[int, int], ...]) -> list[int | tuple[int, int]]:
    return sorted(written, key=lambda each: (each, each) if isinstance(each, int) else each)


# The configuration of the guide, both families, and one of everything.
STANDARD = Redirection(
    outbound=cidrs("10.96.0.0/12", "172.20.0.0/16", "fd00:10::/64"),
    outbound_exclude=cidrs("10.96.1.0/24"),
    outbound_ports=ports(3306),
    inbound=ports(8080, (9000, 9100)),
)
ALL = Redirection(
    outbound=CidrSet(is_all=True),
    outbound_exclude=cidrs("192.168.0.0/16", "fd99::/16"),
    outbound_ports_exclude=ports(25, (6000, 6010)),
    inbound=EVERYTHING,
    inbound_exclude=ports(9999),
)
CASES = {
    "nothing": Redirection(),
    "unmanaged": Redirection(is_managed=False, outbound=CidrSet(is_all=True)),
    "standard": STANDARD,
    "all": ALL,
    "only-inbound": Redirection(inbound=ports(80, 443)),
    "only-ports": Redirection(outbound_ports=ports(3306, (5000, 5100))),
    "named-special": Redirection(
        outbound=cidrs("169.254.169.254/32", "127.0.0.5/32", "fd00:ec2::254/128"),
        inbound=ports(22, 15021),
    ),
    "whole-internet-as-cidr": Redirection(outbound=cidrs("0.0.0.0/0", "::/0")),
    "other-proxy-ports": Redirection(
        outbound=cidrs("10.0.0.0/8"),
        inbound=EVERYTHING,
        outbound_capture_port=16001,
        inbound_capture_port=16006,
    ),
    # Most of them are found by hash; the last ones stay intervals.
    "very-many": Redirection(
        outbound=cidrs(
            *(f"10.{i // 128}.{i % 128 * 2}.0/24" for i in range(1100)),
            *(f"fd00:{i * 2:x}::/64" for i in range(1100)),
            *(f"11.{i // 128}.{i % 128 * 2}.1/32" for i in range(1100)),
            *("172.16.0.0/23", "172.16.4.0/30", "fd01::/48"),
        ),
        outbound_exclude=cidrs("10.3.4.5/32"),
    ),
}
