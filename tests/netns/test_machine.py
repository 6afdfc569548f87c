"""What the agent does when the machine changes under it: addresses, routes, links and IPv6."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import CAPTURING, CLUSTER, MakeHost, join
from tests.netns.test_agent import TABLES
from tests.netns.test_trial import is_in_mesh, main_rules

THIEF = f"""
table ip thief {{
  chain early {{
    type nat hook output priority -150; policy accept;
    ip daddr 10.96.0.0/12 tcp dport 1-65535 dnat to {CLUSTER}:80
  }}
}}
"""


def summary(host: Host) -> str:
    return str(host.status()["summary"])


def sysctl(host: Host, name: str, value: int) -> None:
    host.namespace.run(["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6={value}"], check=True)


@contextlib.contextmanager
def ipv6_off(host: Host, name: str = "all") -> Iterator[None]:
    sysctl(host, name, 1)
    yield
    sysctl(host, name, 0)


@pytest.mark.parametrize("name", ["all", "lo"])
def test_rules_come_back_after_a_flush_although_ipv6_was_switched_off(
    make_host: MakeHost, envoy: str, name: str
) -> None:
    host = make_host(envoy=envoy)
    join(host, ISTIO_SERVICE_CIDR="10.96.0.0/12,fd00:10::/64")
    with ipv6_off(host, name):
        host.namespace.run(["nft", "flush", "ruleset"], check=True)
        eventually(lambda: host.tables() == TABLES, "the rules are back")
        eventually(lambda: is_in_mesh(host), "in the mesh")
        # What is listed stays listed: whoever switches IPv6 on again is captured at once.
        assert "fd00:10::" in main_rules(host)
    addresses = ["ip", "-6", "address", "show", "dev", "lo"]
    eventually(lambda: "::6/128" in host.namespace.run(addresses).stdout, "the address is back")
    eventually(lambda: is_in_mesh(host), "in the mesh")
    assert host.verb("verify").returncode == 0


def test_the_loopback_address_comes_back_when_lo_was_down(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    join(host)
    host.namespace.ip("link", "set", "lo", "down")
    host.namespace.ip("link", "set", "lo", "up")
    addresses = ["ip", "-6", "address", "show", "dev", "lo"]
    eventually(lambda: "::6/128" in host.namespace.run(addresses).stdout, "the address is back")
    eventually(lambda: is_in_mesh(host), "in the mesh")


def test_what_could_not_be_tested_without_a_route_is_tested_when_there_is_one(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    host.namespace.ip("route", "del", "default")
    host.namespace.run(["nft", "-f", "-"], stdin=THIEF, check=True)
    join(host, ISTIO_SERVICE_CIDR="10.96.0.0/12")
    assert host.status()["redirection"]["state"] == "proven in part"
    assert "could not be tested" in summary(host)
    host.namespace.ip("route", "add", "default", "via", CLUSTER)
    eventually(lambda: not is_in_mesh(host), "somebody else takes it")
    eventually(lambda: "10.96.0.0/12" in summary(host), "which is said")
    host.namespace.run(["nft", "delete", "table", "ip", "thief"], check=True)
    eventually(lambda: host.status()["redirection"]["state"] == "proven", "nothing is untested")
    assert is_in_mesh(host)


def test_an_agent_that_starts_before_the_network_does_not_say_proven(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host, ISTIO_SERVICE_CIDR="10.96.0.0/12")
    host.write_sidecar("# nothing here\n")
    host.verb("reload")
    host.kill()
    host.namespace.ip("link", "set", "eth0", "down")
    host.start()
    eventually(lambda: "could be tested" in host.log_text(), "it says so")
    assert host.tables() == TABLES
    assert not is_in_mesh(host)
    host.namespace.ip("link", "set", "eth0", "up")
    host.namespace.ip("route", "add", "default", "via", CLUSTER)
    eventually(lambda: is_in_mesh(host), "the network is there")


def test_a_bridge_with_a_lower_number_is_not_the_address_of_the_host(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host()
    host.namespace.ip("link", "add", "docker0", "type", "bridge")
    host.namespace.ip("address", "add", "10.1.0.1/16", "dev", "docker0")
    host.namespace.ip("link", "set", "docker0", "up")
    # A pilot-agent that writes down what it is given, and is ready.
    script = host.directory / "pilot-agent"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$INSTANCE_IP" >> {host.directory}/seen/address\n'
        f"exec /usr/bin/python3 -c '{CAPTURING}"
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        'h.HTTPServer(("127.0.0.1", 15021), H).serve_forever()\'\n'
    )
    script.chmod(0o755)
    seen = host.directory / "seen"
    seen.mkdir()
    seen.chmod(0o777)
    host.write_hostagent(
        ISTIO_HOSTAGENT_PROXY="pilot-agent",
        ISTIO_BIN_BASE=str(host.directory),
        ISTIO_HOSTAGENT_ENVOY=envoy,
    )
    join(host)
    assert (seen / "address").read_text().split() == ["10.78.0.11"]
    assert (host.state / "address").read_text() == "10.78.0.11\n"
    # A VPN that takes the default route over changes nothing.
    host.namespace.ip("link", "add", "vpn0", "type", "bridge")
    host.namespace.ip("address", "add", "10.0.0.9/24", "dev", "vpn0")
    host.namespace.ip("link", "set", "vpn0", "up")
    host.namespace.ip("route", "replace", "default", "dev", "vpn0")
    eventually(lambda: host.status()["redirection"]["looks"] >= 0, "it answers")
    assert host.status()["proxy"]["starts"] == 1
    # The address leaves: another one takes its place once it has stood for ten seconds.
    host.namespace.ip("address", "del", "10.78.0.11/24", "dev", "eth0")
    host.namespace.ip("address", "add", "10.78.0.12/24", "dev", "eth0")
    host.namespace.ip("route", "replace", "default", "via", CLUSTER)
    eventually(
        lambda: (seen / "address").read_text().split()[1:] == ["10.78.0.12"],
        "the new one",
    )
