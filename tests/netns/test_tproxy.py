"""TPROXY with a real Envoy: the application sees its client, and nothing goes around the proxy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import netns
from tests.lab.host import Host
from tests.lab.servers import Kind, Server, ask
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure, join

APPLICATION = 1500
ADDRESS, PORT = "10.78.0.11", 8080
CLIENT = "10.78.0.1"  # the cluster's own address, from where the neighbour calls
MODE = {"ISTIO_INBOUND_INTERCEPTION_MODE": "TPROXY"}


@pytest.fixture
def host(make_host: MakeHost, envoy: str) -> Host:
    made = make_host(envoy=envoy)
    made.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_ACCESS_LOG="true")
    configure(made, **MODE)
    return made


@pytest.fixture
def server(host: Host) -> Iterator[Server]:
    with Server(
        host.namespace, Kind.ECHO, "0.0.0.0", PORT, banner="hello\n", user=APPLICATION
    ) as it:
        yield it


def routing(host: Host) -> str:
    rules = host.namespace.ip("rule", "show")
    routes = host.namespace.ip("route", "show", "table", "all")
    lines = (*rules.splitlines(), *routes.splitlines())
    return "\n".join(line for line in lines if "133" in line)


@pytest.mark.parametrize("filter_mode", ["0", "1"])
def test_the_application_sees_the_address_of_its_client(
    host: Host, server: Server, cluster: netns.Network, filter_mode: str
) -> None:
    # Strict reverse-path filter, and marks counting in it as wg-quick(8) has it, change nothing.
    for key in ("all", "lo", "eth0"):
        host.namespace.sysctl(f"net.ipv4.conf.{key}.rp_filter", filter_mode)
        host.namespace.sysctl(f"net.ipv4.conf.{key}.src_valid_mark", filter_mode)
    join(host, **MODE)
    reply = ask(cluster, ADDRESS, PORT, "ping", until=10)
    assert reply.received == "hello\nping"
    (connection,) = server.connections(1)
    assert connection.peer[0] == CLIENT
    assert connection.local == (ADDRESS, PORT)
    assert host.verb("verify").returncode == 0
    # It was the proxy that called.
    eventually(lambda: f"{ADDRESS}:{PORT}" in host.log_text(), "in the access log")


# As docker publishes a port: to a container that is not there.
TRANSLATION = f"fib daddr type local tcp dport {PORT} dnat to 172.17.0.2:80"
PUBLISHED = "".join(
    f"table ip published {{ chain {hook} {{ type nat hook {hook} priority -100; {TRANSLATION}; }}; }}\n"
    for hook in ("prerouting", "output")
)


def test_a_port_that_is_published_by_translation_reaches_the_proxy(
    host: Host, server: Server, cluster: netns.Network
) -> None:
    host.namespace.run(["nft", "-f", "-"], stdin=PUBLISHED, check=True)
    join(host, **MODE)
    reply = ask(cluster, ADDRESS, PORT, "ping", until=10)
    assert reply.received == "hello\nping"
    assert server.connections(1)[0].peer[0] == CLIENT
    assert host.verb("verify").returncode == 0


@pytest.mark.skipif(
    not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
    reason="needs the kernel's br_netfilter",
)
@pytest.mark.parametrize("back_end", ["nftables", "legacy"])
def test_what_a_bridge_takes_from_tproxy_is_refused_and_named(
    host: Host, envoy: str, server: Server, back_end: str
) -> None:
    """With br_netfilter rules meet what comes in by a bridge below it, where TPROXY has no effect."""
    gateway, machine_address = "10.79.0.1", "10.79.0.2"
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_BACKEND=back_end)
    with netns.Namespace("machine") as machine:
        netns.link(host.namespace, machine, [], [f"{machine_address}/24"], a_interface="tap0")
        for command in (
            ("link", "add", "br0", "type", "bridge"),
            ("address", "add", f"{gateway}/24", "dev", "br0"),
            ("link", "set", "tap0", "master", "br0"),
            ("link", "set", "br0", "up"),
        ):
            host.namespace.ip(*command)
        host.namespace.sysctl("net.bridge.bridge-nf-call-iptables", "1")
        join(host, **MODE)
        assert ask(machine, gateway, PORT, "ping", until=10).outcome == "refused"
        lost = "come in by a bridge (br0) are refused: br_netfilter takes them from TPROXY"
        assert lost in host.verb("status").stdout
        assert lost in host.verb("config").stderr
        explained = host.verb("explain", "tcp", f"{gateway}:{PORT}", "--from", machine_address)
        assert "a bridge that calls the packet filter took it from the proxy" in explained.stdout
        for key in ("iptables", "ip6tables"):
            host.namespace.sysctl(f"net.bridge.bridge-nf-call-{key}", "0")
        assert host.verb("reload").returncode == 0
        reply = ask(machine, gateway, PORT, "ping", until=10)
        assert reply.received == "hello\nping"
        # The refused one did not come here: this is the only connection.
        (connection,) = server.connections(1)
        assert connection.peer[0] == machine_address
        assert lost not in host.verb("status").stdout


def test_without_a_proxy_nothing_reaches_the_application(
    host: Host, server: Server, cluster: netns.Network
) -> None:
    assert host.verb("apply").returncode == 0
    assert ask(cluster, ADDRESS, PORT).outcome == "refused"
    # This host itself calls it directly, as ever.
    assert ask(host.namespace, ADDRESS, PORT, until=6).received == "hello\n"
    assert len(server.connections(1)) == 1
    assert host.verb("verify").returncode == 0
    assert host.verb("clean").returncode == 0
    assert routing(host) == ""
    assert ask(cluster, ADDRESS, PORT, until=6).received == "hello\n"


@pytest.mark.parametrize("back_end", ["nftables", "legacy"])
def test_routes_for_ipv6_come_and_go_with_it(host: Host, back_end: str) -> None:
    host.write_hostagent(ISTIO_HOSTAGENT_BACKEND=back_end)
    for is_off in ("1", "0", "1"):
        host.namespace.sysctl("net.ipv6.conf.all.disable_ipv6", is_off)
        assert host.verb("apply").returncode == 0
        count = 2 if is_off == "0" else 1
        assert routing(host).count("fwmark 0x539 lookup 133") == 1
        both = host.namespace.ip("rule", "show") + host.namespace.ip("-6", "rule", "show")
        assert both.count("fwmark 0x539 lookup 133") == count
        assert host.verb("apply").stdout.strip() == "nothing to do: the rules are as desired"
        assert host.verb("verify").returncode == 0
    assert host.verb("clean").returncode == 0
    assert routing(host) == ""


def test_rules_and_routes_are_put_back_and_go_with_the_host(host: Host, server: Server) -> None:
    join(host, **MODE)
    before = routing(host)
    assert "fwmark 0x539 lookup 133" in before
    assert "local default dev lo" in before
    host.namespace.ip("rule", "del", "fwmark", "0x539", "lookup", "133")
    host.namespace.ip("route", "flush", "table", "133")
    eventually(lambda: routing(host) == before, "put back")
    # Somebody else's rule with the same mark is not ours.
    host.namespace.ip("rule", "add", "fwmark", "0x539", "lookup", "200", "priority", "900")
    configure(host, **MODE, ISTIO_INBOUND_TPROXY_MARK="77", ISTIO_INBOUND_TPROXY_ROUTE_TABLE="177")
    assert host.verb("reload").returncode == 0
    assert routing(host) == ""
    assert "fwmark 0x4d lookup 177" in host.namespace.ip("rule", "show")
    host.stop()
    rules = host.namespace.ip("rule", "show")
    assert "lookup 177" not in rules
    assert "900:\tfrom all fwmark 0x539 lookup 200" in rules
