"""What the host only forwards is not inbound: containers and machines behind it keep their network.

    container 10.3.0.2, fd00:3::2 ── docker0 10.3.0.1, fd00:3::1 ── host ── eth0 ── neighbour

The neighbour is the outside. Whoever answers says who it is.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from istio_hostagent.config.model import PortSet, Redirection
from istio_hostagent.redirect.expectations import State
from tests.lab import netns, servers
from tests.netns import rig as rigs
from tests.netns.rig import HOST_V4, HOST_V6, NEIGHBOUR_V4, NEIGHBOUR_V6, Rig, words
from tests.unit.samples import ports

CONTAINER_V4, CONTAINER_V6 = "10.3.0.2", "fd00:3::2"
GATEWAY_V4, GATEWAY_V6 = "10.3.0.1", "fd00:3::1"
BALANCED_V4, BALANCED_V6 = "192.0.2.77", "fd00:77::77"  # local by a route alone
CONFIGURATIONS = {
    "all": Redirection(inbound=PortSet(is_all=True)),
    "list": Redirection(inbound=ports(80, 3306, 8080)),
}
PUBLISHED = f"""table inet docker {{
    chain prerouting {{
        type nat hook prerouting priority -100;
        ip daddr {HOST_V4} tcp dport 8080 dnat ip to {CONTAINER_V4}:8080
        ip6 daddr {HOST_V6} tcp dport 8080 dnat ip6 to [{CONTAINER_V6}]:8080
    }}
    chain output {{
        type nat hook output priority -100;
        ip daddr != 127.0.0.0/8 fib daddr type local tcp dport 8080 dnat ip to {CONTAINER_V4}:8080
        ip6 daddr != ::1 fib daddr type local tcp dport 8080 dnat ip6 to [{CONTAINER_V6}]:8080
    }}
}}
"""


@dataclass(frozen=True)
class Site:
    """The rig, the container behind its host, and who answers."""

    rig: Rig
    container: netns.Namespace
    served: rigs.Servers


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with rigs.make() as rig, netns.Namespace("container") as container:
        netns.link(
            rig.host,
            container,
            [f"{GATEWAY_V4}/24", f"{GATEWAY_V6}/64"],
            [f"{CONTAINER_V4}/24", f"{CONTAINER_V6}/64"],
            a_interface="docker0",
        )
        rig.host.sysctl("net.ipv4.ip_forward", "1")
        rig.host.sysctl("net.ipv6.conf.all.forwarding", "1")
        for gateway, inside, outside, balanced in (
            (GATEWAY_V4, "10.3.0.0/24", HOST_V4, BALANCED_V4),
            (GATEWAY_V6, "fd00:3::/64", HOST_V6, BALANCED_V6),
        ):
            family = "-6" if ":" in gateway else "-4"
            container.ip(family, "route", "add", "default", "via", gateway)
            rig.neighbour.ip(family, "route", "add", inside, "via", outside)
            rig.host.ip(family, "route", "add", "local", balanced, "dev", "eth0")
            rig.neighbour.ip(family, "route", "add", balanced, "via", outside)
        said = servers.Server(
            container,
            servers.Kind.RECORD,
            "0.0.0.0",
            8080,
            banner="container\n",
            also=[("::", 8080)],
            idle_s=2,
        )
        with rigs.serve(rig) as served, said:
            yield Site(rig, container, served)


@pytest.fixture(params=CONFIGURATIONS)
def ruled(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    site.rig.install(CONFIGURATIONS[request.param])
    yield site
    site.rig.clean()


@contextlib.contextmanager
def published(rig: Rig) -> Iterator[None]:
    """Have a port of the host led to the container, as docker does it."""
    rig.nft(text=PUBLISHED)
    try:
        yield
    finally:
        rig.nft("delete", "table", "inet", "docker")


def ask(space: netns.Namespace, *places: tuple[str, int]) -> list[str]:
    targets = [rigs.target(*place) for place in places]
    return [words(reply) for reply in servers.ask_all(space, targets)]


def test_a_container_reaches_others_directly(ruled: Site) -> None:
    before = ruled.served.inbound.accepted()
    places = [
        (address, port)
        for address in (NEIGHBOUR_V4, NEIGHBOUR_V6, rigs.UNLISTED_V4, rigs.UNLISTED_V6)
        for port in (80, 3306)
    ]
    assert ask(ruled.container, *places) == ["neighbour"] * len(places)
    assert ruled.served.inbound.accepted() == before


def test_others_reach_a_container_directly(ruled: Site) -> None:
    """Where the containers' network is routed: nothing of this host is called."""
    places = [(CONTAINER_V4, 8080), (CONTAINER_V6, 8080)]
    assert ask(ruled.rig.neighbour, *places) == ["container"] * 2


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(HOST_V4, id="v4"),
        pytest.param(HOST_V6, id="v6"),
        pytest.param(GATEWAY_V4, id="of-another-interface-v4"),
        pytest.param(GATEWAY_V6, id="of-another-interface-v6"),
        pytest.param(BALANCED_V4, id="by-a-local-route-v4"),
        pytest.param(BALANCED_V6, id="by-a-local-route-v6"),
    ],
)
def test_every_address_of_the_host_is_captured(ruled: Site, address: str) -> None:
    assert ask(ruled.rig.neighbour, (address, 8080), (address, 22)) == ["inbound", "host"]


def test_the_link_local_address_of_the_host_is_captured(ruled: Site) -> None:
    shown = ruled.rig.host.ip("-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
    address = shown.split()[3].partition("/")[0]
    with ruled.rig.neighbour.connect(f"{address}%eth0", 8080) as client:
        assert client.recv(64) == b"inbound\n"


def test_a_container_that_calls_the_host_is_captured(ruled: Site) -> None:
    """It is a client like any other, by whichever address of the host."""
    places = [(each, 8080) for each in (GATEWAY_V4, GATEWAY_V6, HOST_V4, HOST_V6)]
    assert ask(ruled.container, *places) == ["inbound"] * 4


def test_a_published_port_is_captured_before_it_is_led_to_its_container(site: Site) -> None:
    places = [(HOST_V4, 8080), (HOST_V6, 8080)]
    with published(site.rig):
        assert ask(site.rig.neighbour, *places) == ["container"] * 2
        for redirection in CONFIGURATIONS.values():
            site.rig.install(redirection)
            assert ask(site.rig.neighbour, *places) == ["inbound"] * 2
        site.rig.install(Redirection(inbound=PortSet(is_all=True), inbound_exclude=ports(8080)))
        assert ask(site.rig.neighbour, *places) == ["container"] * 2
    site.rig.clean()


def test_what_the_proxy_hands_on_to_a_published_port_arrives_there(site: Site) -> None:
    """Docker's own translation takes it to the container, where nothing from 127.0.0.6 can come."""
    host = site.rig.host
    host.add_address("lo", "::6/128")
    handed_on = [
        rigs.target(HOST_V4, 8080, source="127.0.0.6"),
        rigs.target(HOST_V6, 8080, source="::6"),
    ]
    called = [rigs.target(HOST_V4, 8080), rigs.target(HOST_V6, 8080)]
    with published(site.rig):
        asked = servers.ask_all(host, handed_on, user=rigs.PROXY_USER)
        assert "host" not in map(words, asked)
        for redirection in CONFIGURATIONS.values():
            site.rig.install(redirection)
            asked = servers.ask_all(host, handed_on, user=rigs.PROXY_USER)
            assert list(map(words, asked)) == ["host"] * 2  # where docker's own proxy listens
            # An application that calls it goes where it went before.
            asked = servers.ask_all(host, called, user=rigs.APP)
            assert list(map(words, asked)) == ["container"] * 2
            with contextlib.closing(rigs.Packets(host)) as packets:
                findings = packets.findings(redirection)
            assert [str(each) for each in findings if each.state is State.BROKEN] == []
    site.rig.clean()


def test_somebody_before_us_who_takes_what_the_proxy_hands_on_is_noticed(site: Site) -> None:
    redirection = CONFIGURATIONS["list"]
    site.rig.install(redirection)
    site.rig.nft(text=PUBLISHED.replace("-100", "-150"))
    try:
        with contextlib.closing(rigs.Packets(site.rig.host)) as packets:
            findings = packets.findings(redirection)
    finally:
        site.rig.nft("delete", "table", "inet", "docker")
        site.rig.clean()
    handed_on = [each for each in findings if each.expectation.is_final]
    assert [str(each) for each in handed_on if each.state is State.BROKEN] == [
        "broken: what the proxy hands on from ::6 to port 8080 arrives there: "
        f"the connection was sent to {CONTAINER_V6} port 8080"
    ]
    # Of IPv4 the kernel finds no way there for 127.0.0.6, and drops it before it can be seen.
    assert [str(each) for each in handed_on if each.state is State.NOT_TESTABLE] == [
        "not testable: what the proxy hands on from 127.0.0.6 to port 8080 arrives there: "
        "dropped before it could be seen"
    ]


@pytest.mark.skipif(
    not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
    reason="needs the kernel's br_netfilter",
)
@pytest.mark.parametrize("redirection", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_machine_on_a_bridge_reaches_others_directly(redirection: Redirection) -> None:
    """With br_netfilter, frames that the host only bridges meet its packet filter, too."""
    with (
        netns.Network("host", f"{HOST_V4}/24", f"{HOST_V6}/64") as host,
        netns.Namespace("machine") as machine,
        netns.Namespace("neighbour") as neighbour,
    ):
        host.join(machine, "10.1.0.5/24", "fd00:1::5/64")
        host.join(neighbour, f"{NEIGHBOUR_V4}/24", f"{NEIGHBOUR_V6}/64")
        for key in ("iptables", "ip6tables"):
            host.sysctl(f"net.bridge.bridge-nf-call-{key}", "1")
        rig = Rig(host, neighbour)
        with rigs.serve(rig):
            rig.install(redirection)
            assert ask(machine, (NEIGHBOUR_V4, 80), (NEIGHBOUR_V6, 80)) == ["neighbour"] * 2
            assert ask(machine, (HOST_V4, 8080), (HOST_V6, 8080)) == ["inbound"] * 2
