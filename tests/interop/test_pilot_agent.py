"""A host with the real pilot-agent and an Envoy joins the mesh of a real istiod, and leaves it.

conftest.py says how the programs are named; without them these tests skip.
"""

import http.client
import socket
from collections.abc import Iterator

import pytest

from tests.demo import evidence
from tests.lab import netns
from tests.lab.host import Host
from tests.lab.waiting import eventually

from . import authority as authorities
from . import istiod as istiods
from .conftest import Programs
from .istiod import Istiod

ADDRESS = "10.79.0.11"
STATUS_PORT = 15021
JOIN_LIMIT_S = 40


@pytest.fixture
def host(programs: Programs, istiod: Istiod) -> Iterator[Host]:
    with netns.Namespace("vm") as namespace:
        istiod.network.join(namespace, f"{ADDRESS}/24")
        namespace.ip("route", "add", "default", "via", istiods.ADDRESS)
        # There is no name server, so the host's own name stands there, too: libldap, which comes
        # with libcurl, looks it up when it is loaded.
        namespace.write_hosts({istiods.NAME: istiods.ADDRESS, socket.gethostname(): ADDRESS})
        with Host(namespace, envoy=str(programs.envoy)) as made:
            made.root.write_bytes(istiod.authority.root_bundle)
            made.root.chmod(0o644)
            made.write_token(istiod.authority.token())
            made.write_hostagent(
                ISTIO_HOSTAGENT_PROXY="pilot-agent",
                ISTIO_BIN_BASE=str(programs.directory),
                ISTIO_HOSTAGENT_ENVOY=str(programs.envoy),
                ISTIO_BOOTSTRAP=str(programs.bootstrap),
            )
            made.write_cluster(
                CA_ADDR=f"{istiods.NAME}:{istiods.PORT}",
                ISTIO_SERVICE_CIDR="10.96.0.0/12",
                ISTIO_META_CLUSTER_ID=istiods.CLUSTER_ID,
                ISTIO_META_MESH_ID="mesh1",
                ISTIO_NAMESPACE=authorities.NAMESPACE,
                SERVICE_ACCOUNT=authorities.SERVICE_ACCOUNT,
            )
            made.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
            yield made
            # Shown for a test that failed only.
            print(f"--- the end of the agent's log\n{made.log_text()[-6000:]}")


def readiness(host: Host) -> int:
    """The HTTP status of the proxy's own readiness, asked on the host."""
    connection = http.client.HTTPConnection("127.0.0.1", STATUS_PORT)
    connection.sock = host.namespace.connect("127.0.0.1", STATUS_PORT)
    try:
        connection.request("GET", "/healthz/ready")
        return connection.getresponse().status
    finally:
        connection.close()


def wait_for_serial(host: Host, wanted: str) -> None:
    evidence.wait_until(
        "Envoy shows itself with the certificate that the agent holds, and no other",
        lambda: evidence.held_serials(host.namespace) == {int(wanted, 16)},
    )


def test_joins_is_ready_takes_a_new_certificate_and_leaves(host: Host) -> None:
    as_before = host.namespace.run(["ip", "address", "show", "dev", "lo"]).stdout
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    report = host.status()
    assert report["in_mesh"]
    assert report["proxy"]["kind"] == "pilot-agent"
    assert report["certificate"]["identity"] == authorities.IDENTITY
    assert readiness(host) == 200
    assert host.verb("verify").returncode == 0
    first = report["certificate"]["serial"]
    wait_for_serial(host, first)

    host.verb("renew")
    renewed = host.status()
    assert renewed["certificate"]["serial"] != first
    wait_for_serial(host, renewed["certificate"]["serial"])
    assert renewed["proxy"]["pid"] == report["proxy"]["pid"]
    assert readiness(host) == 200

    assert host.stop() == 0
    assert host.tables() == set()
    eventually(lambda: host.namespace.pids() == [], "every process has ended")
    assert host.namespace.run(["ip", "address", "show", "dev", "lo"]).stdout == as_before
