"""What happens to every machine sooner or later, and leaves a host in the mesh as it was.

Cards and links that come and go, tools with rules of their own, a state directory that is mounted
read-only, a boot without a CA. After each of them connections are captured and answered both ways.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.ca_server import DemoAuthority
from tests.lab import netns, servers
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, join
from tests.netns.test_agent import TABLES
from tests.netns.test_trial import is_in_mesh

pytestmark = pytest.mark.envoy

FAR, OWN, SECOND = "10.96.0.5", "10.78.0.11", "10.79.0.11"
FAIL2BAN = """
table inet f2b-table {
  set addr-set-sshd { type ipv4_addr; elements = { 203.0.113.9 } }
  chain f2b-chain {
    type filter hook input priority filter - 1; policy accept;
    tcp dport 22 ip saddr @addr-set-sshd reject with icmp port-unreachable
  }
}
"""
# What a docker daemon puts in, and takes out when it is restarted (`iptables`, in its nft form).
DOCKER = (
    "-t nat -N DOCKER",
    "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
    "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    "-t nat -A DOCKER -p tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80",
    "-P FORWARD DROP",
)

Act = Callable[[Host], None]


@pytest.fixture
def host(make_host: MakeHost, envoy: str, cluster: netns.Network) -> Iterator[Host]:
    """A host that has joined, with an application; a server is in the cluster."""
    cluster.add_address("lo", f"{FAR}/32")
    made = make_host(envoy=envoy)
    record = servers.Kind.RECORD
    with (
        servers.Server(cluster, record, FAR, 80, banner="far\n", user=0),
        servers.Server(made.namespace, record, "0.0.0.0", 8080, banner="application\n", user=0),
    ):
        join(made)
        yield made


def heard(host: Host, space: netns.Namespace, address: str, port: int, capture_port: int) -> str:
    """What a client hears there, if the proxy has accepted just this connection."""
    with contextlib.suppress(OSError), space.connect(address, port) as made:
        text = made.recv(100).decode().strip()
        of_this = f"sport = :{capture_port} and dport = :{made.getsockname()[1]}"
        is_captured = host.namespace.run(["ss", "-Htn", *of_this.split()]).stdout
        return text if is_captured else f"{text}, around the proxy"
    return "nothing"


def outbound(host: Host) -> str:
    """What a program of this host hears of a service."""
    return heard(host, host.namespace, FAR, 80, 15001)


def inbound(host: Host, space: netns.Namespace, address: str = OWN) -> str:
    """What a neighbour hears of the application."""
    return heard(host, space, address, 8080, 15006)


def assert_whole(host: Host, cluster: netns.Network) -> None:
    eventually(lambda: outbound(host) == "far", "outbound connections are captured")
    eventually(lambda: inbound(host, cluster) == "application", "inbound ones, too")
    eventually(lambda: is_in_mesh(host), "in the mesh")
    assert host.verb("verify").returncode == 0
    assert host.tables() >= TABLES


def link_down_and_up(host: Host) -> None:
    host.namespace.ip("link", "set", "eth0", "down")
    eventually(lambda: outbound(host) == "nothing", "it is down")
    host.namespace.ip("link", "set", "eth0", "up")
    host.namespace.ip("route", "add", "default", "via", CLUSTER)


def fail2ban(host: Host) -> None:
    host.namespace.run(["nft", "-f", "-"], stdin=FAIL2BAN, check=True)
    element = ["nft", "add element inet f2b-table addr-set-sshd { 203.0.113.10 }"]
    host.namespace.run(element, check=True)
    assert outbound(host) == "far"
    host.namespace.run(["nft", "delete table inet f2b-table"], check=True)


def docker(host: Host) -> None:
    for rule in DOCKER:
        host.namespace.run(["iptables-nft", *rule.split()], check=True)
    assert outbound(host) == "far"
    for table in ("nat", "filter"):
        for option in ("-F", "-X"):
            host.namespace.run(["iptables-nft", "-t", table, option], check=True)


@pytest.mark.parametrize("act", [link_down_and_up, fail2ban, docker])
def test_what_others_do_changes_nothing_of_ours(
    host: Host, cluster: netns.Network, act: Act
) -> None:
    before = host.status()
    act(host)
    assert_whole(host, cluster)
    after = host.status()
    assert after["redirection"]["repaired"] == 0
    assert after["proxy"]["pid"] == before["proxy"]["pid"]


@pytest.mark.parametrize(
    "command",
    [
        "delete table inet istio_hostagent",
        "delete table inet istio_guard",
        "flush table inet istio_hostagent",
        "add table inet istio_hostagent { flags dormant; }",
    ],
)
def test_a_table_of_ours_that_somebody_takes_comes_back(
    host: Host, cluster: netns.Network, command: str
) -> None:
    host.namespace.run(["nft", command], check=True)
    eventually(lambda: host.status()["redirection"]["repaired"] == 1, "it is repaired")
    assert_whole(host, cluster)


def test_rules_that_were_saved_with_ours_and_restored_at_boot_are_no_obstacle(
    host: Host, cluster: netns.Network
) -> None:
    """`nft list ruleset > /etc/nftables.conf`, as people do: loaded before us, and twice."""
    saved = host.namespace.run(["nft", "list", "ruleset"], check=True).stdout
    host.kill()
    for text in (f"flush ruleset\n{saved}", saved):
        host.namespace.run(["nft", "-f", "-"], stdin=text, check=True)
    host.start()
    assert_whole(host, cluster)


def test_a_second_network_card_is_captured_like_the_first(
    host: Host, cluster: netns.Network
) -> None:
    with netns.Namespace("second") as second:
        netns.link(host.namespace, second, [f"{SECOND}/24"], ["10.79.0.1/24"], a_interface="eth1")
        host.namespace.ip("route", "add", "default", "via", "10.79.0.1", "metric", "200")
        eventually(lambda: inbound(host, second, SECOND) == "application", "captured by it, too")
        assert_whole(host, cluster)
    assert_whole(host, cluster)


def test_a_boot_without_a_ca_ends_in_the_mesh(
    host: Host, cluster: netns.Network, authority: DemoAuthority
) -> None:
    authority.stop()
    host.kill()
    # What a boot leaves of it: the files on disk.
    host.namespace.run(["nft", "flush", "ruleset"], check=True)
    host.namespace.ip("address", "del", "::6/128", "dev", "lo")
    shutil.rmtree(host.runtime)
    host.token.unlink()
    host.start()
    assert_whole(host, cluster)


def test_a_state_directory_that_is_mounted_read_only_takes_nothing_away(
    host: Host, cluster: netns.Network
) -> None:
    host.kill()
    with mounted(host.state):
        host.start()
        assert_whole(host, cluster)
        remount(host.state, "ro")
        refused = host.verb("renew", is_checked=False)
        assert refused.returncode != 0
        assert "mount -o remount,rw" in refused.stderr
        assert_whole(host, cluster)
        remount(host.state, "rw")
        assert host.verb("renew").returncode == 0
        assert "remount" not in host.status()["summary"]
        remount(host.state, "ro")
        host.kill()
        host.start()
        assert_whole(host, cluster)
        assert "mount -o remount,rw" in host.status()["summary"]
        host.kill()


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[None]:
    """A directory on a file system of its own, with what was in it."""
    aside = directory.with_name("aside")
    subprocess.run(["cp", "-a", directory, aside], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "hatest", directory], check=True)
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def remount(directory: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", directory], check=True)
