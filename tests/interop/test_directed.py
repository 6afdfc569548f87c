"""An Envoy without pilot-agent takes its configuration from the real istiod, by ADS.

Two hosts of one mesh, `alone` with Envoy alone and `piloted` with pilot-agent: each one's
application reaches the other's by a name's address, and nobody gets in without mutual TLS.
How long things took is printed, not judged, but for the bounds that are promised.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.demo import evidence
from tests.lab import admin, servers
from tests.lab.host import Host
from tests.lab.waiting import eventually

from . import authority as authorities
from . import istiod as istiods
from .conftest import APPLICATION_PORT, JOIN_LIMIT_S, Programs, make_host
from .istiod import Istiod

# Of each host: its address, and that of the service on it.
PLACES = {"alone": ("10.79.0.21", "10.96.1.21"), "piloted": ("10.79.0.22", "10.96.1.22")}
SERVICE_PORT = 80
# Envoy is asked every 5.5 s, and what is missed for 5 s is away.
SAID_S = 60


def publish(istiod: Istiod) -> None:
    """A service on each host, and mutual TLS for everybody in the namespace."""
    istiod.write_config("PeerAuthentication", "default", {"mtls": {"mode": "STRICT"}})
    for name, (address, virtual) in PLACES.items():
        labels = {"app": name, "security.istio.io/tlsMode": "istio"}
        entry = {
            "address": address,
            "labels": labels,
            "serviceAccount": authorities.SERVICE_ACCOUNT,
        }
        istiod.write_config("WorkloadEntry", name, entry)
        port = {"number": SERVICE_PORT, "name": "http", "protocol": "HTTP"}
        service = {
            "hosts": [f"{name}.example"],
            "addresses": [virtual],
            "ports": [port | {"targetPort": APPLICATION_PORT}],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "workloadSelector": {"labels": {"app": name}},
        }
        istiod.write_config("ServiceEntry", name, service)


def configure(host: Host, name: str) -> None:
    """The files that `istioctl` and an operator write."""
    host.write_cluster(
        CA_ADDR=f"{istiods.NAME}:{istiods.PORT}",
        ISTIO_SERVICE_CIDR="10.96.0.0/12",
        ISTIO_META_CLUSTER_ID=istiods.CLUSTER_ID,
        ISTIO_META_MESH_ID="mesh1",
        ISTIO_META_WORKLOAD_NAME=name,
        POD_NAME=name,
        ISTIO_METAJSON_LABELS="'" + json.dumps({"app": name}) + "'",
        ISTIO_NAMESPACE=authorities.NAMESPACE,
        SERVICE_ACCOUNT=authorities.SERVICE_ACCOUNT,
    )
    if name == "alone":
        host.hostagent_env.write_text(
            host.hostagent_env.read_text().replace("PROXY=pilot-agent", "PROXY=envoy")
        )


@contextlib.contextmanager
def made(programs: Programs, istiod: Istiod, name: str) -> Iterator[Host]:
    """One of the hosts, its application running and its agent not."""
    with make_host(programs, istiod, name, PLACES[name][0]) as host:
        configure(host, name)
        application = servers.Server(
            host.namespace, servers.Kind.HTTP, "0.0.0.0", APPLICATION_PORT
        )
        with application:
            yield host


@pytest.fixture
def alone(programs: Programs, istiod: Istiod) -> Iterator[Host]:
    publish(istiod)
    with made(programs, istiod, "alone") as host:
        yield host


@pytest.fixture
def piloted(programs: Programs, istiod: Istiod) -> Iterator[Host]:
    with made(programs, istiod, "piloted") as host:
        host.start()
        host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
        yield host


def join(host: Host) -> None:
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))


def ask(host: Host, address: str, port: int = SERVICE_PORT, path: str = "/") -> tuple[int, str]:
    """Status and body of one request of an ordinary user; 0: nothing came."""
    done = host.namespace.run(
        ["curl", "-s", "-m", "30", "-w", "\n%{http_code}", f"http://{address}:{port}{path}"],
        user=1500,
        check=False,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def is_answered(host: Host, name: str) -> bool:
    return ask(host, PLACES[name][1])[0] == 200


def peer_of(host: Host, name: str) -> str:
    """Whom the application of `name` is told it was asked by: Envoy has seen its certificate."""
    eventually(lambda: is_answered(host, name), f"{name} answers", within_s=JOIN_LIMIT_S)
    headers: dict[str, Any] = json.loads(ask(host, PLACES[name][1])[1])["headers"]
    found = {key.lower(): value for key, value in headers.items()}
    return str(found.get("x-forwarded-client-cert", ""))


def readiness(host: Host) -> int:
    """The status that port 15021 answers; 0: nobody."""
    connection = http.client.HTTPConnection("127.0.0.1", 15021, timeout=20)
    try:
        connection.sock = host.namespace.connect("127.0.0.1", 15021, timeout_s=20)
        connection.request("GET", "/healthz/ready")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def wait_for(host: Host, state: str) -> None:
    begin = time.monotonic()
    eventually(lambda: host.status()["control_plane"]["state"] == state, state, within_s=SAID_S)
    print(f"{state} after {time.monotonic() - begin:.1f} s")


def counter(host: Host, name: str) -> int:
    """One counter of Envoy's, asked at its admin interface."""
    socket = admin.find_socket(host.runtime)
    assert socket is not None
    _, text = admin.ask(socket, f"/stats?filter=%5E{name}%24")
    return int(text.rpartition(":")[2] or -1)


def test_two_hosts_one_in_each_mode_talk_by_mutual_tls(
    alone: Host, piloted: Host, istiod: Istiod
) -> None:
    join(alone)
    report = alone.status()
    assert report["proxy"]["kind"] == "envoy"
    assert report["control_plane"]["state"] == "connected"
    assert report["control_plane"]["rejected"] == []
    assert report["encryption"].startswith("as the control plane says")
    expected = f"URI={authorities.IDENTITY}"
    assert expected in peer_of(alone, "piloted")
    assert expected in peer_of(piloted, "alone")
    # Who shows nobody's certificate gets no answer, from either.
    for name in PLACES:
        done = istiod.network.run(
            ["curl", "-s", "-m", "30", f"http://{PLACES[name][0]}:{APPLICATION_PORT}/"],
            check=False,
        )
        assert done.returncode in (52, 56), (name, done.stdout, done.stderr)
    assert readiness(alone) == 200


def test_a_renewed_certificate_is_the_one_that_istiod_and_others_see(
    alone: Host, piloted: Host, istiod: Istiod
) -> None:
    join(alone)
    assert peer_of(alone, "piloted")
    starts = alone.status()["proxy"]["starts"]
    alone.verb("renew")
    serial = int(alone.status()["certificate"]["serial"], 16)
    eventually(lambda: evidence.held_serials(alone) == {serial}, "Envoy has the new one")
    # Those of a connection stay: the next one, to istiod as well, shows the new certificate.
    handshakes = counter(alone, r"cluster\.xds-grpc\.ssl\.handshake")
    istiod.restart(istiod.authority)
    eventually(
        lambda: counter(alone, r"cluster\.xds-grpc\.ssl\.handshake") > handshakes, "a handshake"
    )
    wait_for(alone, "connected")
    assert is_answered(alone, "piloted")
    assert is_answered(piloted, "alone")
    assert alone.status()["proxy"]["starts"] == starts


def test_istiod_goes_and_comes_back_while_traffic_goes_on(
    alone: Host, piloted: Host, istiod: Istiod
) -> None:
    join(alone)
    assert peer_of(alone, "piloted")
    before = alone.status()
    assert before["control_plane"]["away_since"] is None
    killed_at = time.time()
    istiod.stop()
    wait_for(alone, "away")
    report = alone.status()
    eventually(lambda: bool(alone.status()["in_mesh"]), "in the mesh")
    assert killed_at - 1 <= report["control_plane"]["away_since"] <= time.time()
    assert report["control_plane"]["last_error"].startswith("nobody listens there")
    assert "no connection to the control plane since 20" in report["summary"]
    assert "nobody listens there" in alone.verb("status").stdout
    assert is_answered(alone, "piloted")
    assert is_answered(piloted, "alone")
    assert readiness(alone) == 200

    streams = counter(alone, r"cluster\.xds-grpc\.upstream_rq_200")
    istiod.start()
    begin = time.monotonic()
    eventually(
        lambda: counter(alone, r"cluster\.xds-grpc\.upstream_rq_200") > streams,
        "Envoy is connected again",
    )
    print(f"connected again {time.monotonic() - begin:.2f} s after istiod said that it was ready")
    wait_for(alone, "connected")
    after = alone.status()
    assert after["summary"] == before["summary"]
    assert after["proxy"]["pid"] == before["proxy"]["pid"]


def test_a_host_is_not_ready_before_istiod_has_answered(alone: Host, istiod: Istiod) -> None:
    join(alone)
    istiod.stop()
    os.kill(alone.status()["proxy"]["pid"], signal.SIGKILL)
    eventually(lambda: readiness(alone) == 503, "it answers that it is not ready")
    wait_for(alone, "away")
    report = alone.status()
    assert not report["in_mesh"]
    assert "no connection to the control plane since" in report["summary"]
    istiod.start()
    alone.verb("wait", "--timeout", "60")
    assert readiness(alone) == 200
    assert is_answered(alone, "alone")


def test_a_host_that_never_reaches_istiod_is_not_kept_waiting(alone: Host, istiod: Istiod) -> None:
    join(alone)
    assert alone.stop() == 0
    # The certificate of before is good, and nobody is there.
    istiod.stop()
    begin = time.monotonic()
    alone.start()
    eventually(lambda: "failed" in summary(alone), "it gives up", within_s=120)
    print(f"given up after {time.monotonic() - begin:.1f} s")
    assert not alone.status()["joined"]
    istiod.start()
    alone.verb("wait", "--timeout", "120")


def summary(host: Host) -> str:
    """What the agent says; empty while it has just been started."""
    done = host.verb("status", "--json", is_checked=False)
    return str(json.loads(done.stdout)["summary"]) if done.stdout else ""


def test_a_root_that_is_not_istiods_is_named(alone: Host, istiod: Istiod) -> None:
    other = authorities.Authority.create()
    file = alone.directory / "other-root.pem"
    file.write_bytes(other.root_bundle)
    file.chmod(0o644)
    with alone.hostagent_env.open("a") as stream:
        stream.write(f"XDS_ROOT_CA={file}\n")
    alone.start()
    reason = "its certificate does not lead to the roots of this mesh"
    eventually(
        lambda: reason in alone.verb("status", is_checked=False).stdout, reason, within_s=60
    )
    assert not alone.status()["in_mesh"]


def test_what_a_stock_envoy_does_not_know_is_named_once(alone: Host, istiod: Istiod) -> None:
    istiod.stop()
    istiod.is_for_stock_envoy = False
    istiod.start()
    alone.start()
    eventually(lambda: "Envoy refuses" in summary(alone), "refusals", within_s=60)
    wanted = {("listener", "virtualInbound"), ("cluster", "PassthroughCluster")}

    def is_named() -> bool:
        found = alone.status()["control_plane"]
        rejected = {(each["kind"], each["name"]) for each in found["rejected"]}
        return wanted <= rejected and found["rejected_updates"] >= 2

    eventually(is_named, "a listener and a cluster")
    assert "it does not have istio.metadata_exchange" in summary(alone)
    assert "istio-sidecar" in summary(alone)
    assert not alone.status()["in_mesh"]
    named = [
        line for line in alone.log_text().splitlines() if "proxy refuses what istiod sends" in line
    ]
    # Clusters may be seen before listeners are, and another Envoy may have been started since.
    assert 0 < len(set(named)) <= 2
    assert len(named) <= 2 * alone.status()["proxy"]["starts"]
    eventually(lambda: readiness(alone) == 503, "not ready")


def test_the_secret_server_may_end_and_istiod_is_asked_on(alone: Host, piloted: Host) -> None:
    join(alone)
    server = alone.status()["secret_server"]
    assert server["state"] == "running"
    os.kill(server["pid"], signal.SIGKILL)
    eventually(
        lambda: alone.status()["secret_server"]["pid"] not in (None, server["pid"]),
        "another one is started",
    )
    alone.verb("renew")
    serial = int(alone.status()["certificate"]["serial"], 16)
    eventually(lambda: evidence.held_serials(alone) == {serial}, "Envoy has the new one")
    assert is_answered(piloted, "alone")
    assert alone.status()["proxy"]["starts"] == 1


def test_metrics_are_served_and_nothing_else_of_the_admin_interface(alone: Host) -> None:
    join(alone)
    status, text = ask(alone, "127.0.0.1", 15090, "/stats/prometheus")
    assert status == 200
    assert "envoy_cluster_manager_cds_update_success" in text
    for port in (15021, 15090):
        for path in ("/", "/stats", "/quitquitquit", "/config_dump", "/certs"):
            assert ask(alone, "127.0.0.1", port, path)[0] == 404, (port, path)
    assert (
        subprocess.run(
            alone.namespace.argv(["ss", "-tlnH", "sport = :15000"]), capture_output=True, text=True
        ).stdout
        == ""
    )
