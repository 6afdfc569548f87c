"""Hosts by chance: whatever links, addresses, routes and sysctls it has, right rules are proven.

What is captured is tried elsewhere; here a proof must not take a strange host for wrong rules, or
that host never joins. `make soak` tries many.
"""

import random
from collections.abc import Iterator

import pytest

from tests.lab import netns, soak
from tests.lab.host import Host

FIRST, COUNT = 5000, soak.times(8, 200)
ADDRESSES = (
    *("10.5.0.1/24", "10.5.0.2/24", "10.5.0.0/31", "10.96.0.7/24", "10.255.255.254/8"),
    *("100.64.3.3/10", "127.0.0.9/8", "169.254.7.7/16", "172.16.4.4/32", "192.168.7.8/31"),
    *("198.51.100.5/24", "203.0.113.255/23"),
)
ADDRESSES_V6 = (
    *("::7/128", "64:ff9b::5/96", "2001:db8:1::1/64", "2001:db8:1::2/64", "fd00:5::1/64"),
    *("fd00:5::2/64", "fd00:6::1/128", "fd00:7::4/126", "fd00:10::5/64", "fe80::5/64"),
)
LISTS = (
    *("*", "0.0.0.0/0,::/0", "10.0.0.0/8,fd00::/8", "10.5.0.0/24,fd00:5::/64", "10.96.0.0/12"),
    *("100.64.0.0/10", "169.254.7.0/24", "172.16.4.0/24", "192.168.7.8/31", "198.51.100.0/24"),
    *("2001:db8:1::/64", "fd00:7::4/126"),
)
SYSCTLS = (
    *("net.ipv4.conf.all.accept_local=1", "net.ipv4.conf.all.arp_ignore=1"),
    *("net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.all.rp_filter=1"),
    *("net.ipv4.conf.all.rp_filter=2", "net.ipv4.conf.all.src_valid_mark=1"),
    *("net.ipv4.ip_forward=1", "net.ipv4.ip_local_port_range=40000 40400"),
    *("net.ipv4.ip_nonlocal_bind=1", "net.ipv4.ip_unprivileged_port_start=0"),
    *("net.ipv4.tcp_syncookies=2", "net.ipv4.tcp_timestamps=0"),
    *("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"),
    *("net.ipv6.conf.all.forwarding=1", "net.netfilter.nf_conntrack_tcp_loose=0"),
)
REFUSED = ("blackhole", "prohibit", "unreachable")


def _commands(chance: random.Random) -> Iterator[str]:
    """For ip(8), beside eth0: what the kernel does not take here is left out of the host."""
    names = ["eth0"]
    for number in range(chance.randint(0, 3)):
        kind = chance.choice(("bridge", "dummy", "macvlan", "vlan"))
        name = f"{kind}{number}"
        below = {"macvlan": "link eth0", "vlan": "link eth0"}.get(kind, "")
        yield f"link add {below} name {name} type {kind}" + f" id {number + 10}" * (kind == "vlan")
        names.append(name)
    for name in names:
        if chance.random() < 0.9:
            yield f"link set {name} up"
        for each in chance.sample(ADDRESSES, chance.randint(0, 2)):
            yield f"address add {each} dev {name}"
        for each in chance.sample(ADDRESSES_V6, chance.randint(0, 2)):
            yield f"address add {each} dev {name} nodad"
    sometimes = (
        (0.3, f"address add {chance.choice(ADDRESSES + ADDRESSES_V6)} dev lo"),
        (0.7, f"route add default dev {chance.choice(names)}"),
        (0.5, f"-6 route add default dev {chance.choice(names)}"),
        (
            0.3,
            f"route add {chance.choice(REFUSED)} {chance.choice(('10.0.0.0/8', '10.96.0.0/12'))}",
        ),
        (0.2, f"-6 route add {chance.choice(REFUSED)} fd00::/8"),
        (0.2, f"route add local {chance.choice(('10.96.0.0/16', '198.51.100.0/24'))} dev lo"),
        (0.3, f"route add default dev {chance.choice(names)} table 100"),
        (0.2, "rule add uidrange 1000-70000 table 100"),
        (0.1, "rule add ipproto tcp table 100"),
        (0.1, "-6 rule add from all unreachable priority 500"),
    )
    yield from (command for share, command in sometimes if chance.random() < share)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_right_rules_are_proven(seed: int) -> None:
    chance = random.Random(seed)
    keys = {
        "ISTIO_SERVICE_CIDR": chance.choice(LISTS),
        "ISTIO_SERVICE_EXCLUDE_CIDR": chance.choice(("", "", *LISTS[1:])),
        "ISTIO_INBOUND_PORTS": chance.choice(("*", "80,8080", "3306")),
        "ISTIO_INBOUND_INTERCEPTION_MODE": chance.choice(("REDIRECT", "REDIRECT", "TPROXY")),
    }
    with netns.Namespace("any") as space, netns.Namespace("beyond") as beyond:
        netns.pair(space, beyond, "eth0", "eth0")
        for text in chance.sample(SYSCTLS, chance.randint(0, 4)):
            space.sysctl(*text.split("="))
        commands = list(_commands(chance))
        for command in commands:
            space.run(["ip", *command.split()])
        with Host(space) as host:
            host.write_hostagent(
                ISTIO_HOSTAGENT_BACKEND=chance.choice(("nftables", "nftables", "legacy"))
            )
            host.write_cluster(**keys)
            for verb in ("apply", "verify"):
                done = host.verb(verb, is_checked=False)
                assert done.returncode == 0, (keys, commands, done.stdout, done.stderr)
            assert host.verb("clean").returncode == 0
