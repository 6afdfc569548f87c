"""Whatever becomes of the directory of the certificate: the proxy shows the one that is held."""

import os
import shutil
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import netns
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import CLUSTER, MakeHost, join

pytestmark = pytest.mark.envoy

ADDRESS = "10.78.0.11"
# An Envoy that is too busy to say what it shows is asked again at the next heartbeat, a minute later.
PATIENCE_S = 90.0


def serial_shown(cluster: netns.Network) -> str:
    """The serial number that a captured port shows to a neighbour; empty: no TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio"])
    with cluster.bind(CLUSTER, 0) as made:
        made.settimeout(5)
        try:
            made.connect((ADDRESS, 8080))
            with context.wrap_socket(made) as served:
                data = served.getpeercert(binary_form=True)
        except OSError:
            return ""
    assert data is not None
    return serial_of(ssl.DER_cert_to_PEM_cert(data))


def serial_of(pem: str) -> str:
    return f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"


def is_held_shown(host: Host, cluster: netns.Network) -> bool:
    held = host.status()["certificate"]["serial"]
    on_disk = host.certs / "cert-chain.pem"
    if not on_disk.exists() or serial_of(on_disk.read_text()) != held:
        return False
    return bool(serial_shown(cluster) == held)


def is_said(host: Host, state: str) -> bool:
    status = host.status()
    served = status["served_certificate"]
    is_held = state == "held"
    assert not is_held or served["state"] != "held" or served["last_error"] == ""
    return bool(served["state"] == state and status["in_mesh"] is is_held)


def empty(_certs: Path, other: Path) -> None:
    other.mkdir()


def copy_of_links(certs: Path, other: Path) -> None:
    shutil.copytree(certs, other, symlinks=True)


def copy_of_files(certs: Path, other: Path) -> None:
    other.mkdir()
    for path in certs.glob("*.pem"):
        shutil.copy(path, other / path.name)
        os.chown(other / path.name, *proxy_user())


def replace(host: Host, make: Callable[[Path, Path], None]) -> None:
    """Put another directory into the place of that of the certificate."""
    other = host.directory / "other"
    make(host.certs, other)
    os.chown(other, *proxy_user())
    host.certs.rename(host.directory / "before")
    other.rename(host.certs)


@pytest.mark.parametrize("make", [empty, copy_of_links, copy_of_files])
def test_a_directory_that_was_replaced(
    make_host: MakeHost, envoy: str, cluster: netns.Network, make: Callable[[Path, Path], None]
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    before = host.status()
    replace(host, make)
    eventually(lambda: is_held_shown(host, cluster), "the files are back", within_s=PATIENCE_S)
    assert host.verb("renew").returncode == 0
    assert host.status()["certificate"]["serial"] != before["certificate"]["serial"]
    eventually(
        lambda: is_held_shown(host, cluster), "the renewed one is shown", within_s=PATIENCE_S
    )
    eventually(lambda: is_said(host, "held"), "status says so", within_s=PATIENCE_S)
    # No connection was cut for it.
    assert host.status()["proxy"]["pid"] == before["proxy"]["pid"]


def test_a_renewal_while_the_directory_is_replaced(
    make_host: MakeHost, envoy: str, cluster: netns.Network
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    for _ in range(3):
        replace(host, empty)
        host.verb("renew", is_checked=False)
        shutil.rmtree(host.directory / "before")
    eventually(lambda: is_held_shown(host, cluster), "the held one is shown", within_s=PATIENCE_S)


def remove_files_and_kill(host: Host) -> None:
    """Remove the files of the certificate, and end the proxy that has loaded them."""
    pid = host.status()["proxy"]["pid"]
    for path in host.certs.iterdir():
        path.unlink()
    os.kill(pid, signal.SIGKILL)


def test_files_that_were_removed_and_a_proxy_that_was_killed_then(
    make_host: MakeHost, envoy: str, cluster: netns.Network
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    remove_files_and_kill(host)
    eventually(lambda: is_held_shown(host, cluster), "the held one is shown", within_s=PATIENCE_S)


def test_a_proxy_that_has_found_no_certificate_at_its_start(
    make_host: MakeHost, envoy: str, cluster: netns.Network
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    os.chown(host.certs, 0, 0)  # nobody can put them back
    remove_files_and_kill(host)
    eventually(lambda: host.status()["proxy"]["starts"] == 2, "it is started again")
    assert serial_shown(cluster) == ""
    eventually(lambda: is_said(host, "other"), "status says so", within_s=PATIENCE_S)
    os.chown(host.certs, *proxy_user())
    eventually(lambda: is_held_shown(host, cluster), "it shows the held one", within_s=PATIENCE_S)
    host.verb("renew")
    eventually(
        lambda: is_held_shown(host, cluster), "the renewed one is shown", within_s=PATIENCE_S
    )
    assert host.status()["proxy"]["starts"] == 2
