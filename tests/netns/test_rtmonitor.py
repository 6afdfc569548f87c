"""What is told of changes, and what is not: the kernel has told it when ip(8) returns."""

import select
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from istio_hostagent.host import rtmonitor
from istio_hostagent.host.rtmonitor import EVERYTHING, Change
from tests.lab import netns
from tests.lab.host import CHECKOUT
from tests.lab.waiting import eventually

NOTHING = Change(0)
ADDRESSES, LINKS, ROUTES = Change.ADDRESSES, Change.LINKS, Change.ROUTES


class Rig(NamedTuple):
    host: netns.Namespace
    neighbour: netns.Namespace
    monitor: rtmonitor.Monitor

    def told(self) -> Change:
        """Everything that has been told so far."""
        found = NOTHING
        while is_readable(self.monitor):
            found |= self.monitor.read()
        return found

    def after(self, *arguments: str) -> Change:
        """What one ip(8) command makes the kernel tell."""
        self.host.ip(*arguments)
        return self.told()

    def after_sysctl(self, key: str, value: str) -> Change:
        self.host.sysctl(key, value)
        return self.told()

    def eventually(self, wanted: Change, what: str) -> Change:
        """Read until `wanted` has been told; everything that has."""
        found = NOTHING

        def is_told() -> bool:
            nonlocal found
            found |= self.told()
            return wanted in found

        eventually(is_told, what)
        return found


def is_readable(monitor: rtmonitor.Monitor) -> bool:
    return bool(select.select([monitor], [], [], 0)[0])


def link_local(space: netns.Namespace) -> str:
    """The address that an interface gives itself, once it can be used."""
    shown = space.ip("-6", "-o", "address", "show", "eth0", "scope", "link", "-tentative").split()
    return shown[3].partition("/")[0] if shown else ""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with netns.Namespace("host") as host, netns.Namespace("neighbour") as neighbour:
        netns.link(host, neighbour, ["10.1.0.2/24", "fd00:1::2/64"], ["10.1.0.1/24"])
        for space in (host, neighbour):
            eventually(lambda space=space: link_local(space) != "", "it is up")  # type: ignore[misc]
        monitor = host.inside(rtmonitor.Monitor)
        try:
            yield Rig(host, neighbour, monitor)
        finally:
            monitor.close()


def test_nothing_is_told_of_what_was_there_before(rig: Rig) -> None:
    assert rig.told() == NOTHING
    assert rig.monitor.read() == NOTHING


@pytest.mark.parametrize("address", ["10.1.0.3/24", "fd00:1::3/64", "10.8.0.1/32"])
def test_an_address_comes_and_goes(rig: Rig, address: str) -> None:
    assert rig.after("address", "add", address, "dev", "eth0") == ADDRESSES | ROUTES
    assert rig.after("address", "delete", address, "dev", "eth0") == ADDRESSES | ROUTES


def test_an_address_of_ours_moves_no_packets(rig: Rig) -> None:
    assert rig.after("address", "add", "::6/128", "dev", "lo") == ADDRESSES
    assert rig.after("address", "delete", "::6/128", "dev", "lo") == ADDRESSES


def test_an_interface_comes_is_renamed_and_goes(rig: Rig) -> None:
    assert LINKS in rig.after("link", "add", "br0", "type", "bridge")
    assert rig.after("link", "set", "br0", "name", "br1") == LINKS
    assert LINKS in rig.after("link", "delete", "br1")


def test_an_interface_takes_its_routes_along(rig: Rig) -> None:
    """The kernel says nothing of IPv4 routes that go with their interface."""
    everywhere = LINKS | ADDRESSES | ROUTES
    assert rig.after("link", "set", "eth0", "down") == everywhere
    assert rig.after("link", "set", "eth0", "up") & everywhere == everywhere


def test_what_says_nothing_new_of_an_interface_is_not_told(rig: Rig) -> None:
    rig.neighbour.ip("link", "set", "eth0", "mtu", "1400")
    assert rig.after("link", "set", "eth0", "mtu", "1400") & LINKS == NOTHING
    rig.host.ip("link", "add", "br0", "type", "bridge")
    rig.told()
    assert rig.after("link", "set", "eth0", "master", "br0") & LINKS == NOTHING


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_routes_and_rules_come_and_go(rig: Rig, family: str) -> None:
    gateways = {"-4": ("10.1.0.1", "10.1.0.9"), "-6": ("fd00:1::1", "fd00:1::9")}[family]
    for command in (
        ("route", "add", "default", "via", gateways[0]),
        ("route", "replace", "default", "via", gateways[1]),
        ("route", "replace", "default", "via", gateways[0]),
        ("route", "delete", "default"),
        ("route", "add", "local", "default", "dev", "lo", "table", "133"),
        ("route", "delete", "local", "default", "dev", "lo", "table", "133"),
        ("rule", "add", "fwmark", "1337", "lookup", "133"),
        ("rule", "delete", "fwmark", "1337", "lookup", "133"),
    ):
        assert rig.after(family, *command) == ROUTES, command


@pytest.mark.parametrize("which", ["all", "lo"])
def test_ipv6_is_switched_off_and_on(rig: Rig, which: str) -> None:
    assert Change.IPV6 in rig.after_sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "1")
    assert Change.IPV6 in rig.after_sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "0")


def test_ipv6_goes_and_comes_with_the_loopback_interface(rig: Rig) -> None:
    assert Change.IPV6 in rig.after("link", "set", "lo", "down")
    assert Change.IPV6 in rig.after("link", "set", "lo", "up")


def test_ipv6_of_another_interface_is_another_matter(rig: Rig) -> None:
    told = rig.after_sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")
    assert told == ADDRESSES | ROUTES


def test_an_address_is_told_again_when_it_can_be_used(rig: Rig) -> None:
    rig.host.sysctl("net.ipv6.conf.eth0.accept_dad", "1")
    assert ADDRESSES in rig.after("address", "add", "fd00:1::3/64", "dev", "eth0")
    rig.eventually(ADDRESSES, "nobody else has it")


def test_an_address_is_told_again_when_it_is_on_its_way_out(rig: Rig) -> None:
    change = ("address", "change", "fd00:1::2/64", "dev", "eth0", "nodad")
    assert rig.after(*change, "valid_lft", "600", "preferred_lft", "0") == ADDRESSES | ROUTES


def test_a_renewed_lease_is_not_told(rig: Rig) -> None:
    """What a DHCP client does; the first time the address stops being one for ever."""
    for address in ("10.1.0.2/24", "fd00:1::2/64"):
        for seconds in ("600", "599", "600"):
            lease = ("valid_lft", seconds, "preferred_lft", seconds)
            change = ("address", "change", address, "dev", "eth0", "nodad", *lease)
            assert rig.after(*change) & ADDRESSES == NOTHING, change


def test_a_route_with_another_lifetime_is_told_once(rig: Rig) -> None:
    """What systemd-networkd does with each message of a router."""
    replace = ("-6", "route", "replace", "default", "via", "fe80::1", "dev", "eth0")
    assert rig.after(*replace, "expires", "600") == ROUTES
    assert rig.after(*replace, "expires", "600") == ROUTES  # a replacement is seen to be one
    assert rig.after(*replace, "expires", "599") == NOTHING
    assert rig.after(*replace, "expires", "600") == NOTHING
    assert rig.after(*replace, "expires", "600", "pref", "low") == ROUTES
    assert rig.after(*replace, "expires", "600") == ROUTES
    assert rig.after(*replace, "expires", "600") == NOTHING


def test_several_routes_with_other_lifetimes_are_told_once_each(rig: Rig) -> None:
    def refresh(seconds: str) -> Change:
        told = NOTHING
        for which in (
            ("default", "metric", "100"),
            ("default", "metric", "200"),
            ("2001:db8:5::/64", "metric", "100"),
            ("2001:db8:6::/64", "metric", "100"),
            ("default", "metric", "100", "table", "1000"),
            ("default", "metric", "100", "table", "1001"),
        ):
            replace = ("-6", "route", "replace", *which, "via", "fe80::1", "dev", "eth0")
            told |= rig.after(*replace, "expires", seconds)
        return told

    for _ in range(2):
        assert refresh("600") == ROUTES
    assert refresh("599") == NOTHING


def test_a_route_that_was_another_in_between_is_told(rig: Rig) -> None:
    here, there = (("default", "via", each, "dev", "eth0") for each in ("fe80::1", "fe80::9"))
    for told in (ROUTES, ROUTES, NOTHING):
        assert rig.after("-6", "route", "replace", *here) == told
    rig.after("-6", "route", "delete", *here)
    rig.after("-6", "route", "add", *there)
    assert rig.after("-6", "route", "replace", *here) == ROUTES


def test_routes_that_carry_nothing_of_ours_are_not_told(rig: Rig) -> None:
    for kind, destination in (("multicast", "224.5.0.0/16"), ("broadcast", "10.1.0.77")):
        assert rig.after("route", "add", kind, destination, "dev", "eth0") == NOTHING
    assert rig.after("-6", "route", "add", "multicast", "ff05::/16", "dev", "eth0") == NOTHING


def test_a_router_that_repeats_itself_is_told_once(rig: Rig) -> None:
    host, neighbour = rig.host, rig.neighbour
    host.sysctl("net.ipv6.conf.eth0.accept_ra", "1")
    router = neighbour.inside(lambda: open_router(link_local(neighbour)))
    with router:
        advertise(router)
        rig.eventually(ADDRESSES | ROUTES, "it was heard")
        eventually(lambda: "2001:db8:7:" in host.ip("-6", "address"), "the host has an address")
        # Each changes the lifetimes, which is how one knows that it has been heard.
        for lifetime in (5000, 4000, 3000):
            rig.told()
            advertise(router, lifetime)
            await_lifetime(host, lifetime)
            assert rig.told() == NOTHING


def open_router(source: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    index = socket.if_nametoindex("eth0")
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    made.bind((source, 0, 0, index))
    made.connect(("ff02::1", 0, 0, index))
    return made


def advertise(router: socket.socket, lifetime: int = 6000) -> None:
    """Send what RFC 4861 (4.2, 4.6.2) calls a router advertisement, with one prefix."""
    head = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0)
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:7::")
    # The kernel takes a valid lifetime that is cut down only if more than two hours are left.
    option = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 7200 + lifetime, lifetime, 0) + prefix
    router.send(head + option)


def await_lifetime(host: netns.Namespace, lifetime: int) -> None:
    """Wait until the host knows of this lifetime, less what has passed of it."""
    heard = range(lifetime - 20, lifetime + 1)
    eventually(lambda: heard_lifetime(host) in heard, "the host heard the router again")


def heard_lifetime(host: netns.Namespace) -> int:
    """The seconds for which the address that the router gave is preferred."""
    words = host.ip("-6", "-o", "address", "show", "eth0", "dynamic").split()
    return int(words[words.index("preferred_lft") + 1].removesuffix("sec"))


def many_routes(number: int, verb: str = "add") -> str:
    return "".join(
        f"route {verb} 10.{100 + each // 250}.{each % 250}.0/24 via 10.1.0.1\n"
        for each in range(number)
    )


def test_a_storm_is_read_in_parts(rig: Rig) -> None:
    rig.host.run(["ip", "-batch", "-"], stdin=many_routes(1000), check=True)
    reads = 0
    while is_readable(rig.monitor):
        assert rig.monitor.read() == ROUTES
        reads += 1
    assert reads == 4  # of 256 messages at most
    assert rig.monitor.read() == NOTHING


def test_after_a_flood_everything_may_have_changed_and_the_rest_is_told(rig: Rig) -> None:
    rig.host.run(["ip", "-batch", "-"], stdin=many_routes(20_000), check=True)
    rig.host.ip("link", "set", "eth0", "down")
    assert rig.told() == EVERYTHING
    assert rig.told() == NOTHING
    everywhere = LINKS | ADDRESSES | ROUTES
    assert rig.after("link", "set", "eth0", "up") & everywhere == everywhere
    assert rig.after("address", "add", "10.1.0.3/24", "dev", "eth0") == ADDRESSES | ROUTES


def test_who_has_no_rights_may_listen(rig: Rig) -> None:
    code = (
        "from istio_hostagent.host import rtmonitor\n"
        "monitor = rtmonitor.Monitor()\n"
        "print(monitor.read(), monitor.fileno() > 0)\n"
    )
    seen = rig.host.python(code, user=65534, env={"PYTHONPATH": str(CHECKOUT)})
    assert seen.split()[-1] == "True"
