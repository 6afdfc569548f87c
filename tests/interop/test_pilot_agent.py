"""A host with the real pilot-agent and an Envoy joins the mesh of a real istiod, and leaves it.

conftest.py says how the programs are named; without them these tests skip.
"""

import http.client
import os

from tests.demo import evidence
from tests.lab.host import Host, proxy_user
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
    eventually(lambda: bool(host.status()["in_mesh"]), "in the mesh")
    assert report["proxy"]["kind"] == "pilot-agent"
    assert report["certificate"]["identity"] == authorities.IDENTITY
    assert readiness(host) == 200
    eventually(lambda: host.verb("verify", is_checked=False).returncode == 0, "verified")
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


def test_shows_the_certificate_that_is_held_after_its_directory_was_replaced(host: Host) -> None:
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    wait_for_serial(host, host.status()["certificate"]["serial"])
    eventually(lambda: host.status()["served_certificate"]["state"] == "held", "status says so")
    other = host.directory / "other"
    other.mkdir()
    os.chown(other, *proxy_user())
    host.certs.rename(host.directory / "before")
    other.rename(host.certs)
    eventually((host.certs / "key.pem").exists, "the files are back")
    host.verb("renew")
    renewed = int(host.status()["certificate"]["serial"], 16)
    # It is asked, at the latest by the second heartbeat, then replaced, and drains for some seconds.
    eventually(
        lambda: host.status()["served_certificate"]["state"] == "other", "it is said", within_s=90
    )
    eventually(lambda: host.status()["in_mesh"], "in the mesh again", within_s=60)
    assert evidence.held_serials(host) == {renewed}
    assert host.status()["served_certificate"]["serials"] == [f"{renewed:x}"]
