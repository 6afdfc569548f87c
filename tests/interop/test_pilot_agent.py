"""A host with the real pilot-agent and an Envoy joins the mesh of a real istiod, and leaves it.

conftest.py says how the programs are named; without them these tests skip.
"""

import http.client

from tests.demo import evidence
from tests.lab.host import Host
from tests.lab.waiting import eventually

from . import authority as authorities
from .conftest import JOIN_LIMIT_S

STATUS_PORT = 15021


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
        lambda: evidence.held_serials(host) == {int(wanted, 16)},
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
