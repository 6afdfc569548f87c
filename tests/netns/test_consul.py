"""Two hosts in a datacentre of Consul: found by name, captured, encrypted, registered and gone."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import capture, consul, layers, netns, servers
from tests.lab.consul import Consul
from tests.lab.host import Host
from tests.lab.waiting import eventually

from .conftest import CLUSTER, MESH, NOBODY, configure

ADDRESSES = {"a": "10.78.0.11", "b": "10.78.0.12"}
PORT = 8080
DNSMASQ = Path("/usr/sbin/dnsmasq")
DOCUMENT = Path(__file__).parents[2] / "docs" / "consul"
WITHIN_S = 60.0
B_PORT = "port0"  # the cluster's end of the cable of b, which is plugged in first

MakeMember = Callable[..., Host]


@pytest.fixture(scope="session")
def binary() -> Path:
    return consul.find_binary()


@pytest.fixture
def server(binary: Path, cluster: netns.Network, tmp_path: Path) -> Iterator[Consul]:
    with Consul(binary, cluster, tmp_path, CLUSTER) as made:
        yield made


@pytest.fixture
def make_member(
    binary: Path,
    envoy: str,
    server: Consul,
    make_host: Callable[..., Host],
    tmp_path: Path,
) -> Iterator[MakeMember]:
    """Make hosts with an agent of Consul and an Envoy, which have joined neither."""
    assert server.address == CLUSTER
    with contextlib.ExitStack() as stack:

        def make(label: str, **keys: str) -> Host:
            address = ADDRESSES[label]
            host = make_host(label, envoy=envoy, number=int(address.rpartition(".")[2]))
            client = Consul(binary, host.namespace, tmp_path, address, name=label, server=CLUSTER)
            stack.enter_context(client)
            # What it has joined is left to it for its own end.
            stack.callback(host.close)
            host.write_hostagent(
                ISTIO_HOSTAGENT_ENVOY=envoy,
                ISTIO_HOSTAGENT_MESH_CIDR=MESH,
                ISTIO_HOSTAGENT_MTLS="strict",
                **{f"ISTIO_HOSTAGENT_{key}": value for key, value in keys.items()},
            )
            configure(host, ISTIO_SERVICE_CIDR="")
            return host

        yield make


@contextlib.contextmanager
def resolver(host: Host) -> Iterator[None]:
    """The host's names are answered by dnsmasq, with the file that the document shows."""
    layers.require("netns", "" if DNSMASQ.exists() else "needs dnsmasq (dnsmasq-base)")
    host.namespace.write_name_servers("127.0.0.1")
    process = host.namespace.popen(
        [
            *(str(DNSMASQ), "--keep-in-foreground", "--no-resolv", "--no-hosts", "--pid-file="),
            *("--conf-file=" + str(DOCUMENT / "dnsmasq.conf"), "--user=root"),
            *("--listen-address=127.0.0.1", "--bind-interfaces"),
        ]
    )
    try:
        yield
    finally:
        netns.end([process])


def ask(host: Host, url: str) -> subprocess.CompletedProcess[str]:
    """As an ordinary user of the host."""
    command = [
        "curl",
        "-sS",
        "--max-time",
        "5",
        "-w",
        "%{http_code} %{remote_ip}",
        "-o",
        os.devnull,
    ]
    return host.namespace.run([*command, url], user=NOBODY)


def test_a_request_by_name_is_captured_encrypted_and_follows_the_catalogue(
    server: Consul, cluster: netns.Network, make_member: MakeMember
) -> None:
    b = make_member("b", REGISTER=f"web=http:{PORT}", REGISTER_LABELS="version=v1")
    a = make_member("a", CONSUL_CAPTURE="*", ACCESS_LOG="true")
    place = (ADDRESSES["b"], PORT)
    with (
        servers.Server(b.namespace, servers.Kind.HTTP, "0.0.0.0", PORT),
        resolver(a),
    ):
        a.start()
        b.start()
        for host in (a, b):
            host.verb("wait", "--timeout", str(WITHIN_S))
        # Registered once it has joined, and well since the proxy says so itself.
        eventually(
            lambda: server.instances("web") == {place: "passing"}, "web is well", within_s=WITHIN_S
        )
        [found] = server.get("catalog", "service", "web")
        assert found["Node"] == "b"
        assert found["ServiceTags"] == ["version|v1"]
        assert found["ServiceMeta"]["serviceaccount"] == "default"
        assert found["ServiceMeta"]["protocol"] == "http"

        eventually(
            lambda: a.status()["catalogue"]["destinations"] == [ADDRESSES["b"]], "it is known"
        )
        eventually(lambda: a.status()["in_mesh"], "what is captured anew is proven")
        with capture.Capture(cluster, B_PORT) as wire:
            done = ask(a, "http://web.service.consul:8080/")
            assert done.stdout == f"200 {ADDRESSES['b']}", done.stderr
            wire.stop()
        opened = [each for each in wire.segments() if each.destination_port == PORT]
        assert any(each.is_tls for each in opened)
        assert b"web.service.consul" not in b"".join(each.payload for each in opened)
        # Plain text is refused there, so the request has come by mutual TLS.
        assert ask_plainly(cluster) == ""

        # A proxy that is gone is seen by Consul; one that comes back as well.
        b.verb("verify")
        pid = b.status()["proxy"]["pid"]

        def is_seen() -> bool:
            with contextlib.suppress(ProcessLookupError):  # replaced as one that hangs
                os.kill(pid, signal.SIGSTOP)  # again and again: the agent continues it
            return server.instances("web")[place] == "critical"

        eventually(is_seen, "seen", within_s=WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        eventually(
            lambda: server.instances("web") == {place: "passing"}, "well again", within_s=WITHIN_S
        )

        b.stop()
        eventually(lambda: not server.get("catalog", "service", "web"), "b has left")
        eventually(lambda: not a.status()["catalogue"]["destinations"], "nothing is captured")
        done = ask(a, "http://web.service.consul:8080/")
        assert "Could not resolve host" in done.stderr


def ask_plainly(cluster: netns.Network) -> str:
    """What a stranger without a certificate gets."""
    command = ["curl", "-s", "--max-time", "5", f"http://{ADDRESSES['b']}:{PORT}/"]
    return cluster.run(command).stdout
