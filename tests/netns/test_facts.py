"""What is found on a machine whose network is known."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from istio_hostagent.config.model import Address
from istio_hostagent.host import facts
from tests.lab import netns

PLANE = ip_address("203.0.113.9")


@pytest.fixture
def host() -> Iterator[netns.Namespace]:
    """A host of a cloud's default network, with docker, whose bridge has the lower number."""
    with netns.Namespace("host") as made, netns.Namespace("neighbour") as neighbour:
        netns.link(made, neighbour, ["172.31.20.5/20", "fd00:1::2/64"], ["172.31.16.1/20"])
        made.ip("link", "add", "docker0", "type", "bridge")
        made.ip("link", "set", "docker0", "up")
        made.add_address("docker0", "172.17.0.1/16")
        yield made


def addresses(host: netns.Namespace) -> list[str]:
    return [str(each) for each in host.inside(facts.probe_addresses)]


def primary(host: netns.Namespace, towards: Address | None = None) -> str:
    def find() -> Address | None:
        return facts.primary_address(facts.probe_addresses(), towards)

    return str(host.inside(find))


def test_own_addresses_are_those_that_others_reach(host: netns.Namespace) -> None:
    assert addresses(host) == ["172.31.20.5", "172.17.0.1", "fd00:1::2"]
    host.add_address("lo", "10.255.0.1/32")  # announced by a routing protocol
    host.add_address("lo", "fd00:255::1/128")
    for nobody in ("::6/128", "127.5.0.1/8", "169.254.7.7/16"):
        host.add_address("lo", nobody)
    assert addresses(host) == [
        *("10.255.0.1", "172.31.20.5", "172.17.0.1"),
        *("fd00:255::1", "fd00:1::2"),
    ]


def test_an_address_on_two_interfaces_is_one(host: netns.Namespace) -> None:
    host.add_address("docker0", "172.31.20.5/32")
    assert addresses(host) == ["172.31.20.5", "172.17.0.1", "fd00:1::2"]


def test_an_interface_that_is_down_has_none(host: netns.Namespace) -> None:
    """The kernel keeps its IPv4 addresses, and no packet arrives at them."""
    host.ip("link", "set", "eth0", "down")
    assert addresses(host) == ["172.17.0.1"]


def test_an_address_that_is_being_tried_is_none_yet(host: netns.Namespace) -> None:
    host.sysctl("net.ipv6.conf.eth0.accept_dad", "1")
    host.sysctl("net.ipv6.conf.eth0.dad_transmits", "20")  # one a second
    host.ip("address", "add", "fd00:1::3/64", "dev", "eth0")
    assert "fd00:1::3" not in addresses(host)


def test_the_mesh_knows_a_host_by_the_route_to_the_control_plane(host: netns.Namespace) -> None:
    assert primary(host) == primary(host, PLANE) == "172.31.20.5"  # the first
    host.ip("route", "add", "default", "via", "172.31.16.1")
    host.add_address("lo", "10.255.0.1/32")
    assert addresses(host)[0] == "10.255.0.1"
    assert primary(host) == primary(host, PLANE) == "172.31.20.5"  # the default route's
    host.ip("route", "add", "203.0.113.0/24", "dev", "docker0")
    assert primary(host) == "172.31.20.5"
    assert primary(host, PLANE) == "172.17.0.1"
    assert primary(host, ip_address("2001:db8::1")) == "172.31.20.5"  # there is no way to it


def test_a_control_plane_on_this_host_has_no_say(host: netns.Namespace) -> None:
    assert primary(host, ip_address("127.0.0.1")) == "172.31.20.5"


def test_a_host_without_network_has_no_address() -> None:
    with netns.Namespace("alone") as alone:
        assert addresses(alone) == []
        assert primary(alone) == primary(alone, PLANE) == "None"


def test_facts_are_looked_at_again(host: netns.Namespace) -> None:
    known = host.inside(lambda: facts.probe_facts(state_dir="/s", runtime_dir="/r"))
    assert known.has_ipv6
    assert known.primary_address == ip_address("172.31.20.5")
    host.ip("address", "delete", "172.31.20.5/20", "dev", "eth0")
    host.add_address("eth0", "172.31.20.6/20")
    host.ip("route", "add", "default", "via", "172.31.16.1")
    found = host.inside(lambda: facts.look_again(known))
    assert found.primary_address == ip_address("172.31.20.6")
    assert found.addresses == host.inside(facts.probe_addresses) != known.addresses
    assert found.proxy_uid == known.proxy_uid
