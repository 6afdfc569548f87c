"""The look at the way to the control plane, against real servers, right and wrong in one thing."""

import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from istio_hostagent.agent import issuance
from istio_hostagent.host import processes
from istio_hostagent.host.answers import reach
from tests.demo import ca_material
from tests.demo.ca import DemoAuthority
from tests.lab import wrongcertificates

from .test_certificate_worker import SERVER_NAME, SUBJECT
from .test_identity_document import settings_of

NAMED = "ISTIO_NAMESPACE=vms\nSERVICE_ACCOUNT=web\n"
CLOSED = 1  # tcpmux: nobody listens there
DAY = timedelta(days=1)


@dataclass
class Rig:
    """A host's directory, with root certificate and token, and the authority it knows."""

    directory: Path
    authority: DemoAuthority

    def look(
        self,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        kind: str = "tls",
        timeout_s: float = 30.0,
        **call: Any,
    ) -> reach.Reached:
        """Run the worker; keywords are of the one call."""
        request = issuance.make_request(
            settings_of(NAMED), "inspect", str(self.directory / "store")
        )
        request |= {
            "token_file": str(self.directory / "token"),
            "root_file": str(self.directory / "root-cert.pem"),
            "output_dir": str(self.directory / "certs"),
        }
        asked = {"host": host, "port": port or self.authority.port, "names": [SERVER_NAME]}
        asked |= {"kind": kind, **call}
        message = {"certificate": request, "timeout_s": timeout_s, "calls": [asked]}
        answer: reach.Reached = processes.Worker("reach", message).run(90.0)
        return answer


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with DemoAuthority.create(tmp_path / "ca") as running:
        (tmp_path / "root-cert.pem").write_bytes(running.material.root_bundle)
        (tmp_path / "token").write_text(running.token(SUBJECT))
        yield Rig(tmp_path, running)


def test_whoever_is_there_is_known_by_name_and_roots(rig: Rig) -> None:
    found = rig.look()
    (call,) = found.calls
    assert (call.stage, call.error, call.name) == ("done", "", SERVER_NAME)
    assert call.address == "127.0.0.1"
    assert call.since is not None
    assert call.until is not None
    assert call.since < datetime.now(UTC).timestamp() < call.until
    assert (found.roots.number, found.roots.error) == (1, "")
    assert found.token is not None
    assert found.token.error == ""
    assert found.token.until is not None


def test_the_second_name_counts_as_well(rig: Rig) -> None:
    (call,) = rig.look(names=["istio-ca", SERVER_NAME]).calls
    assert (call.stage, call.name) == ("done", SERVER_NAME)


def test_another_name_is_told_with_the_one_that_it_shows(rig: Rig) -> None:
    (call,) = rig.look(names=["istio-ca"]).calls
    assert call.stage == "tls"
    assert "istio-ca" in call.error
    assert SERVER_NAME in call.shown


def test_another_root_is_told(rig: Rig, tmp_path: Path) -> None:
    with DemoAuthority.create(tmp_path / "other") as other:
        (call,) = rig.look(port=other.port).calls
    assert call.stage == "tls"
    assert "certificate" in call.error
    assert SERVER_NAME in call.shown


def test_no_root_certificate_is_told_and_nobody_is_known(rig: Rig) -> None:
    (rig.directory / "root-cert.pem").unlink()
    found = rig.look()
    assert "root-cert.pem" in found.roots.error
    assert found.calls[0].stage == "tls"
    assert not found.calls[0].is_done


def test_a_port_where_nobody_listens(rig: Rig) -> None:
    (call,) = rig.look(port=CLOSED).calls
    assert (call.stage, call.error) == ("connection", "Connection refused")


def test_a_name_that_nobody_knows(rig: Rig) -> None:
    (call,) = rig.look(host="no-such-host.invalid").calls
    assert call.stage == "name"
    assert "no address" in call.error
    assert call.addresses == ()


def test_whoever_is_silent_is_waited_for_no_longer_than_said(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (call,) = rig.look(port=silent.getsockname()[1], timeout_s=8.0).calls
    assert call.stage == "tls"
    assert "timed out" in call.error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(None, "does not exist", id="absent"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("expired", "expired on", id="expired"),
        pytest.param("audience", "is meant for", id="audience"),
    ],
)
def test_a_token_that_is_no_good_is_told(rig: Rig, text: str | None, said: str) -> None:
    path = rig.directory / "token"
    now = datetime.now(UTC).replace(microsecond=0)
    match text:
        case None:
            path.unlink()
        case "expired":
            path.write_text(rig.authority.token(SUBJECT, ttl_s=-3600.0))
        case "audience":
            path.write_text(rig.authority.token(SUBJECT, audiences=("somebody",)))
        case _:
            path.write_text(text)
    found = rig.look().token
    assert found is not None
    assert said in found.error
    assert found.until is None or text != "expired" or found.until < now.timestamp()


class Pilot(http.server.BaseHTTPRequestHandler):
    """A Pilot that knows its own service, unless it is said to know another list."""

    status = 200
    listed = b'[{"service-key": "istio-pilot.istio-system.svc.cluster.local|http-discovery"}]'

    def do_GET(self) -> None:
        """Answer as Pilot of 0.2 does."""
        is_known = self.path == "/v1/registration"
        self.send_response(self.status if is_known else 404)
        self.send_header("content-length", str(len(self.listed)))
        self.end_headers()
        self.wfile.write(self.listed)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def pilot() -> Iterator[Callable[..., int]]:
    """Serve with these attributes; gives the port."""
    servers = []

    def serve(**attributes: object) -> int:
        kind = type("Answering", (Pilot,), attributes)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_pilot_answers_the_question_of_the_guide(rig: Rig, pilot: Callable[..., int]) -> None:
    (call,) = rig.look(port=pilot(), kind="pilot").calls
    assert call.stage == "done"
    assert call.date is not None
    assert abs(call.date - datetime.now(UTC).timestamp()) < 60


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        pytest.param({"status": 503}, "status 503", id="refusal"),
        pytest.param({"listed": b"[]"}, "lists no service", id="nothing"),
        pytest.param({"listed": b"<html>"}, "Expecting value", id="no-pilot"),
    ],
)
def test_a_pilot_that_knows_nothing_is_not_well(
    rig: Rig, pilot: Callable[..., int], attributes: dict[str, object], said: str
) -> None:
    (call,) = rig.look(port=pilot(**attributes), kind="pilot").calls
    assert call.stage == "answer"
    assert said in call.error


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        pytest.param(DAY, 2 * DAY, "not valid yet", id="early"),
        pytest.param(-2 * DAY, -DAY, "has ended", id="late"),
    ],
)
def test_a_certificate_outside_its_time_is_told_with_its_time(
    rig: Rig, tmp_path: Path, since: timedelta, until: timedelta, said: str
) -> None:
    """By which a host finds that its clock is wrong."""
    now = datetime.now(UTC).replace(microsecond=0)
    root = ca_material.new_root("Root of a host without a clock", now)
    (tmp_path / "root-cert.pem").write_bytes(root.pem)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + since)
        .not_valid_after(now + until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    (tmp_path / "chain").write_bytes(wrongcertificates.pem(made))
    (tmp_path / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        is_over = threading.Event()
        thread = threading.Thread(target=shake_hands, args=(listening, context, is_over))
        thread.start()
        (call,) = rig.look(port=listening.getsockname()[1]).calls
        is_over.set()
        thread.join()
    assert call.stage == "tls"
    assert said in call.error
    assert call.since is not None
    assert abs(call.since - (now + since).timestamp()) < 2


def shake_hands(
    listening: socket.socket, context: ssl.SSLContext, is_over: threading.Event
) -> None:
    """Serve handshakes, whatever clients make of them."""
    listening.settimeout(0.1)
    while not is_over.is_set():
        try:
            client, _ = listening.accept()
        except TimeoutError:
            continue
        try:
            client.settimeout(60)
            with context.wrap_socket(client, server_side=True) as shown:
                shown.recv(1)
        except OSError:
            client.close()
