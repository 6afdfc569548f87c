"""Interfaces, addresses and routes as the kernel tells them, against ip(8)."""

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from istio_hostagent.config.model import Address
from istio_hostagent.errors import ApplyRejected, KernelBusy
from istio_hostagent.host import rtnetlink
from tests.lab import netns
from tests.lab.host import CHECKOUT
from tests.lab.waiting import eventually

NEIGHBOUR = ip_address("10.1.0.1")
FAR = ip_address("203.0.113.9")
FAR_V6 = ip_address("2001:db8:9::9")


@pytest.fixture
def host() -> Iterator[netns.Namespace]:
    """A host with a neighbour, no default route, and a bridge with a lower number, as docker's."""
    with netns.Namespace("host") as made, netns.Namespace("neighbour") as neighbour:
        netns.link(made, neighbour, ["10.1.0.2/24", "fd00:1::2/64"], ["10.1.0.1/24"])
        made.ip("link", "add", "docker0", "type", "bridge")
        made.ip("link", "set", "docker0", "up")
        made.add_address("docker0", "10.0.0.1/16")
        yield made


def ip_json(host: netns.Namespace, *arguments: str) -> Any:
    return json.loads(host.ip("-json", *arguments))


def addresses(host: netns.Namespace) -> list[rtnetlink.InterfaceAddress]:
    return host.inside(rtnetlink.probe_addresses)


def find(host: netns.Namespace, address: str) -> rtnetlink.InterfaceAddress:
    (found,) = (each for each in addresses(host) if each.address == ip_address(address))
    return found


def source(host: netns.Namespace, destination: Address, uid: int | None = None) -> str:
    return str(host.inside(lambda: rtnetlink.source_of(destination, uid=uid)))


def default(host: netns.Namespace) -> str:
    return str(host.inside(rtnetlink.default_source))


def has_ipv6(host: netns.Namespace) -> bool:
    return host.inside(rtnetlink.has_ipv6)


def test_interfaces_and_addresses_are_those_that_ip_shows(host: netns.Namespace) -> None:
    host.ip("link", "add", "mac0", "link", "eth0", "type", "macvlan")
    host.ip("address", "add", "10.3.0.1", "peer", "10.3.0.2/32", "dev", "mac0")
    shown = ip_json(host, "address")
    assert [tuple(each) for each in host.inside(rtnetlink.probe_links)] == [
        (each["ifindex"], each["ifname"], "UP" in each["flags"]) for each in shown
    ]
    for family, version in (("inet", 4), ("inet6", 6)):
        assert [
            (each.interface, str(each.address), each.length)
            for each in addresses(host)
            if each.address.version == version
        ] == [
            (link["ifindex"], each["local"], each["prefixlen"])
            for link in shown
            for each in link["addr_info"]
            if each["family"] == family
        ]


def test_of_one_interface_only_its_own_are_told(host: netns.Namespace) -> None:
    found = host.inside(lambda: rtnetlink.probe_addresses(rtnetlink.LOOPBACK))
    assert [str(each.address) for each in found] == ["127.0.0.1", "::1"]


def test_the_bridge_with_the_lower_number_comes_last(host: netns.Namespace) -> None:
    found = [str(each.address) for each in addresses(host) if each.address.version == 4]
    assert found == ["127.0.0.1", "10.1.0.2", "10.0.0.1"]


def test_an_address_that_is_being_tried_is_tentative_unless_optimistic(
    host: netns.Namespace,
) -> None:
    host.sysctl("net.ipv6.conf.eth0.accept_dad", "1")
    host.sysctl("net.ipv6.conf.eth0.dad_transmits", "20")  # one a second
    host.ip("address", "add", "fd00:1::3/64", "dev", "eth0")
    host.sysctl("net.ipv6.conf.eth0.optimistic_dad", "1")
    host.ip("address", "add", "fd00:1::4/64", "dev", "eth0", "optimistic")
    assert find(host, "fd00:1::3").is_tentative
    assert not find(host, "fd00:1::4").is_tentative
    assert not find(host, "fd00:1::2").is_tentative


def test_an_address_that_is_somebody_elses_stays_tentative(host: netns.Namespace) -> None:
    with netns.Namespace("other") as other:
        netns.link(host, other, [], ["fd00:5::5/64"], a_interface="eth1")
        host.sysctl("net.ipv6.conf.eth1.accept_dad", "1")
        host.ip("address", "add", "fd00:5::5/64", "dev", "eth1")
        eventually(lambda: "dadfailed" in host.ip("address", "show", "eth1"), "it was refused")
        assert find(host, "fd00:5::5").is_tentative


def test_an_address_on_its_way_out_is_deprecated(host: netns.Namespace) -> None:
    host.ip("address", "change", "fd00:1::2/64", "dev", "eth0", "preferred_lft", "0", "nodad")
    assert find(host, "fd00:1::2").is_deprecated
    assert not find(host, "10.1.0.2").is_deprecated


def test_a_dump_while_others_change_addresses_misses_none(host: netns.Namespace) -> None:
    """Thousands take several messages; one that is interrupted has holes."""
    many = [f"10.{200 + number // 250}.{number % 250}.1" for number in range(3000)]
    batch = "".join(f"address add {each}/32 dev eth0\n" for each in many)
    host.run(["ip", "-batch", "-"], stdin=batch, check=True)
    wanted = set(map(ip_address, many))
    stop = threading.Event()

    def churn() -> None:
        other = ip_interface("10.99.0.1/32")
        while not stop.is_set():
            rtnetlink.add_address(other, 2)
            rtnetlink.delete_address(other, 2)

    churning = threading.Thread(target=host.inside, args=(churn,))
    churning.start()
    whole = 0
    try:
        for _ in range(30):
            with contextlib.suppress(KernelBusy):
                assert wanted <= {each.address for each in addresses(host)}
                whole += 1
    finally:
        stop.set()
        churning.join()
    assert whole, "every single dump was interrupted 20 times"


def test_the_source_is_that_of_the_route(host: netns.Namespace) -> None:
    assert source(host, NEIGHBOUR) == "10.1.0.2"
    assert source(host, ip_address("10.0.5.5")) == "10.0.0.1"
    assert source(host, ip_address("fd00:1::1")) == "fd00:1::2"
    assert source(host, ip_address("10.1.0.2")) == "10.1.0.2"
    assert source(host, FAR) == "None"
    assert source(host, FAR_V6) == "None"
    assert default(host) == "None"


def test_the_default_route_has_a_source_of_its_own(host: netns.Namespace) -> None:
    host.ip("-6", "route", "add", "default", "via", "fd00:1::1")
    assert default(host) == "fd00:1::2"
    host.ip("route", "add", "default", "via", str(NEIGHBOUR))
    assert default(host) == "10.1.0.2"
    host.ip("route", "add", "203.0.113.0/24", "dev", "docker0")
    assert source(host, FAR) == "10.0.0.1"
    assert default(host) == "10.1.0.2"


@pytest.mark.parametrize("kind", ["unreachable", "blackhole", "prohibit", "throw"])
def test_a_route_to_nowhere_has_no_source(host: netns.Namespace, kind: str) -> None:
    host.ip("route", "add", kind, "203.0.113.0/24")
    host.ip("-6", "route", "add", kind, "2001:db8:9::/48")
    assert source(host, FAR) == "None"
    assert source(host, FAR_V6) == "None"


def test_a_user_may_have_routes_of_his_own(host: netns.Namespace) -> None:
    host.ip("route", "add", "default", "dev", "docker0", "table", "100")
    host.ip("rule", "add", "uidrange", "1337-1337", "lookup", "100")
    assert source(host, FAR, uid=1337) == "10.0.0.1"
    assert source(host, FAR, uid=0) == "None"
    assert source(host, FAR) == "None"


@pytest.mark.parametrize("which", ["all", "lo"])
def test_ipv6_is_usable_until_it_is_switched_off(host: netns.Namespace, which: str) -> None:
    assert has_ipv6(host)
    host.sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "1")
    assert not has_ipv6(host)
    assert (source(host, ip_address("fd00:1::1")) == "None") is (which == "all")
    host.sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "0")
    assert has_ipv6(host)
    host.ip("link", "set", "lo", "down")
    assert not has_ipv6(host)


@pytest.mark.parametrize("text", ["::6/128", "10.8.0.1/32"])
def test_an_address_of_ours_comes_and_goes_however_often_asked(
    host: netns.Namespace, text: str
) -> None:
    wanted = ip_interface(text)

    def is_there() -> bool:
        return wanted.ip in {each.address for each in rtnetlink.probe_addresses(1)}

    for act, result in (
        (rtnetlink.add_address, True),
        (rtnetlink.add_address, True),
        (rtnetlink.delete_address, False),
        (rtnetlink.delete_address, False),
    ):
        host.inside(lambda act=act: act(wanted, rtnetlink.LOOPBACK))  # type: ignore[misc] # bound
        assert host.inside(is_there) is result


def test_an_address_of_ours_can_be_used_at_once(host: netns.Namespace) -> None:
    host.sysctl("net.ipv6.conf.eth0.accept_dad", "1")
    host.inside(lambda: rtnetlink.add_address(ip_interface("fd00:1::7/64"), 2))
    assert not find(host, "fd00:1::7").is_tentative


def test_an_address_is_refused_by_name_where_ipv6_is_off(host: netns.Namespace) -> None:
    host.sysctl("net.ipv6.conf.lo.disable_ipv6", "1")
    with pytest.raises(ApplyRejected) as caught:
        host.inside(lambda: rtnetlink.add_address(ip_interface("::6/128"), 1))
    assert caught.value.errno == errno.EACCES
    assert "::6/128" in str(caught.value)


def test_who_may_not_change_addresses_may_look(host: netns.Namespace) -> None:
    code = (
        "from ipaddress import ip_interface\n"
        "from istio_hostagent.errors import NotPermitted\n"
        "from istio_hostagent.host import rtnetlink\n"
        "print(len(rtnetlink.probe_addresses()), rtnetlink.has_ipv6())\n"
        "try:\n"
        "    rtnetlink.add_address(ip_interface('::6/128'), 1)\n"
        "except NotPermitted as error:\n"
        "    print(error)\n"
    )
    seen = host.python(code, user=65534, env={"PYTHONPATH": str(CHECKOUT)})
    assert seen.splitlines() == [
        f"{len(addresses(host))} True",
        "changing addresses needs CAP_NET_ADMIN",
    ]


def test_no_question_leaves_a_descriptor_behind(host: netns.Namespace) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_descriptors()
    for _ in range(20):
        addresses(host)
        source(host, FAR)
    assert open_descriptors() == before
