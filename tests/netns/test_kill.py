"""SIGKILL of the agent at random moments of start, reload and renewal (design invariant 4).

Whether a connection went around is seen in the kernel: a table of the test's own counts what
leaves the host towards captured destinations and is not the proxy's.
"""

import contextlib
import random
import subprocess
import threading
from collections.abc import Iterator

import pytest

from istio_hostagent.config import build, model
from istio_hostagent.host import nftables
from istio_hostagent.redirect import drift, policy
from istio_hostagent.redirect import model as rules
from tests.demo.ca_server import DemoAuthority
from tests.lab import facts, netns, soak
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, join, running
from tests.netns.test_agent import pair_matches

# Each third is one of: a start, a reload and a renewal under way.
KILLS = soak.times(21, 600)
KILLED_STARTS = soak.times(4, 100)
CAPTURED = "10.96.0.9"
PORTS = ("8080", "8080,9090")

WATCH = """
table inet watcher {
  chain leaving {
    type filter hook postrouting priority 300; policy accept;
    oifname "eth0" ip daddr 10.96.0.0/12 tcp flags & (syn|ack) == syn meta skuid != %d counter
  }
}
"""

CLIENT = """
import errno, socket, sys, time
while True:
    with socket.socket() as s:
        s.settimeout(0.2)
        s.connect_ex((sys.argv[1], 80))
    time.sleep(0.002)
"""


@contextlib.contextmanager
def traffic(host: Host) -> Iterator[None]:
    """Connections of an ordinary user to a captured destination, some hundreds a second."""
    with running(host.namespace, CLIENT, CAPTURED):
        yield


def leaked(host: Host) -> int:
    listing = host.namespace.run(["nft", "list", "table", "inet", "watcher"], check=True).stdout
    return int(listing.split("counter packets ")[1].split()[0])


def wanted_rules(host: Host, ports: str) -> rules.Ruleset:
    texts = (
        (host.hostagent_env, host.hostagent_env.read_bytes()),
        (host.cluster_env, host.cluster_env.read_bytes()),
        (host.sidecar_env, f"ISTIO_INBOUND_PORTS={ports}\n".encode()),
    )
    uid, gid = proxy_user()
    facts = model.HostFacts(proxy_uid=uid, proxy_gid=gid)
    layers = [model.Layer(str(path), text, model.Trust(True)) for path, text in texts]
    config = build.build_config(layers, facts).config
    assert config is not None
    return policy.build_ruleset(config.redirection, facts)


def is_whole(host: Host, namespace: netns.Namespace) -> bool:
    """Whether the kernel has exactly the rules of one of the two configurations."""

    def observe() -> bool:
        kernel = nftables.NftKernel(is_owner=False)
        try:
            observed = kernel.observe()
        finally:
            kernel.close()
        return any(not drift.find_drift(wanted_rules(host, ports), observed) for ports in PORTS)

    return namespace.inside(observe)


def disturb(host: Host, turn: int) -> None:
    """Start something that the kill then interrupts."""
    if turn % 3 == 1:
        host.write_sidecar(f"ISTIO_INBOUND_PORTS={PORTS[turn % 2]}\n")
    elif turn % 3 == 2:
        host.verb("renew", is_checked=False)


@pytest.mark.envoy
@pytest.mark.soak
def test_kills_leave_nothing_half_done_and_let_nothing_around(
    make_host: MakeHost, envoy: str, authority: DemoAuthority
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    host = make_host(envoy=envoy)
    host.namespace.run(["nft", "-f", "-"], stdin=WATCH % proxy_user()[0], check=True)
    join(host)
    with traffic(host):
        for turn in range(KILLS):
            in_flight = threading.Thread(target=disturb, args=(host, turn))
            if turn % 3:
                host.verb("wait", "--timeout", "60")
                in_flight.start()
            assert host.agent is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.agent.wait(dice.uniform(0.0, 0.6))
            host.kill()
            if turn % 3:
                in_flight.join()
            assert is_whole(host, host.namespace), f"half a redirection after kill {turn}"
            assert pair_matches(host.certs), f"key and certificate differ after kill {turn}"
            host.start()
        host.verb("wait", "--timeout", "60")
    facts.never(leaked(host), "around the proxy")
    assert host.verb("verify").returncode == 0


@pytest.mark.envoy
@pytest.mark.soak
def test_kills_before_joining_leave_no_rule_behind(make_host: MakeHost, envoy: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for turn in range(KILLED_STARTS):
        host = make_host(f"k{turn}", envoy=envoy, number=30 + turn)
        host.write_cluster(CA_ADDR="10.78.0.1:15012", ISTIO_SERVICE_CIDR="10.96.0.0/12")
        host.start()
        assert host.agent is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            host.agent.wait(dice.uniform(0.1, 0.9))
        host.kill()
        has_joined = (host.state / "joined").exists()
        # The next start has no proxy to join with: what an attempt left must go.
        host.write_hostagent(ISTIO_HOSTAGENT_ENVOY="/nowhere/envoy")
        host.start()
        host.verb("wait", "--timeout", "0.5", is_checked=False)
        eventually(lambda: (host.tables() != set()) == has_joined, "what the marks say")  # noqa: B023
        host.kill()
