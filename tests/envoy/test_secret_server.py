"""Real Envoys that take their secrets from the shipped secret server, with traffic going on."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab import secretserver, soak
from tests.lab.secretserver import SecretServer

from . import authority, network, proxy
from .test_traffic import PORT, SECRET, Serve, answer_http, ask_http

pytestmark = pytest.mark.envoy

RENEWALS = soak.times(24, 100)
THREADS = 4
UID = proxy.PROXY_UID

Start = Callable[..., SecretServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the server of a host."""
    with contextlib.ExitStack() as stack:

        def begin(host: proxy.Proxy, **more: object) -> SecretServer:
            if not (host.output_dir / "..data").exists():
                host.rotate()
            made = SecretServer(host.output_dir, host.secret_socket, UID, **more)  # type: ignore[arg-type]
            stack.callback(made.kill)
            return made

        yield begin


def serials(host: proxy.Proxy) -> set[int]:
    """The serial numbers that the Envoy of a host shows to others."""
    certificates = json.loads(host.ask("/certs"))["certificates"]
    shown = [each for entry in certificates for each in entry["cert_chain"]]
    return {int(each["serial_number"], 16) for each in shown}


def rotate_and_wait(host: proxy.Proxy, ca: authority.Authority | None = None) -> float:
    """Give it a new certificate; the seconds until Envoy shows it and no other."""
    before = serials(host)
    begin = time.monotonic()
    host.rotate(ca)
    proxy.wait_until(
        lambda: (now := serials(host)) and not now & before, "the new serial number alone in use"
    )
    return time.monotonic() - begin


class Traffic:
    """New connections of one host to another, one after another, each with its own handshake."""

    def __init__(self, a: network.Host, b: network.Host) -> None:
        self._a, self._b = a, b
        self.failures: list[str] = []
        self.answers = 0
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(THREADS)]

    def _ask_on(self) -> None:
        while not self._done.is_set():
            try:
                if SECRET not in ask_http(self._a.connect(self._b.v4, PORT)):
                    self.failures.append("empty answer")
            except OSError as error:
                self.failures.append(repr(error))
            self.answers += 1

    def wait_for_more(self, number: int) -> None:
        before = self.answers
        proxy.wait_until(lambda: self.answers >= before + number, "more answers", 30)

    def __enter__(self) -> "Traffic":
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)
        rate = self.answers / (time.monotonic() - self._began)
        print(f"{self.answers} handshakes, {rate:.0f} each second, failed: {len(self.failures)}")


def begin(a: proxy.Proxy, b: proxy.Proxy, start: Start) -> tuple[SecretServer, SecretServer]:
    servers = start(a), start(b)
    for host in (a, b):
        host.start(host.with_server())
    return servers


@pytest.mark.soak
def test_renewals_under_traffic_fail_no_handshake(
    a: proxy.Proxy, b: proxy.Proxy, start: Start, serve: Serve
) -> None:
    serve(b.host, PORT, answer_http)
    servers = begin(a, b, start)
    pids = a.pid, b.pid
    with Traffic(a.host, b.host) as traffic:
        traffic.wait_for_more(5)
        for number in range(RENEWALS):
            rotate_and_wait((a, b)[number % 2])
            traffic.wait_for_more(5)
        assert traffic.answers > RENEWALS * 5
    assert traffic.failures == []
    assert (a.pid, b.pid) == pids
    # Mutual TLS, with the identity of the other side.
    assert b.finished("inbound", PORT)["peer"] == a.spiffe_id
    assert all("refuses" not in each.log() for each in servers)


def test_new_roots_by_way_of_both_fail_no_handshake(
    a: proxy.Proxy, b: proxy.Proxy, ca: authority.Authority, start: Start, serve: Serve
) -> None:
    serve(b.host, PORT, answer_http)
    begin(a, b, start)
    successor = authority.Authority("successor")

    def install(host: proxy.Proxy, issuer: authority.Authority, *trusted: bytes) -> None:
        files = issuer.issue(host.spiffe_id)
        files["root-cert.pem"] = b"".join(trusted)
        before = serials(host)
        authority.install(files, host.output_dir, UID)
        proxy.wait_until(lambda: not serials(host) & before, "new certificate in use")

    old, new = (
        ca.issue("spiffe://x/")["root-cert.pem"],
        successor.issue("spiffe://x/")["root-cert.pem"],
    )
    with Traffic(a.host, b.host) as traffic:
        traffic.wait_for_more(5)
        for issuer, trusted in ((ca, (old, new)), (successor, (old, new)), (successor, (new,))):
            for host in (a, b):
                install(host, issuer, *trusted)
                traffic.wait_for_more(5)
    assert traffic.failures == []
    # The old root is worth nothing any more: who still has it is not let in.
    install(a, ca, old, new)
    proxy.wait_until(lambda: not is_answered(a, b), "a certificate of the old root is refused")


def is_answered(a: proxy.Proxy, b: proxy.Proxy) -> bool:
    with contextlib.suppress(OSError):
        return SECRET in ask_http(a.host.connect(b.host.v4, PORT))
    return False


def test_with_the_server_killed_traffic_goes_on_and_the_next_one_renews(
    a: proxy.Proxy, b: proxy.Proxy, start: Start, serve: Serve
) -> None:
    serve(b.host, PORT, answer_http)
    for host in (a, b):
        host.rotate()
    # As a socket unit does it: the socket outlives the server.
    with secretserver.listen(b.secret_socket, UID) as listener:
        first = start(b, listener=listener)
        start(a)
        for host in (a, b):
            host.start(host.with_server())
        with Traffic(a.host, b.host) as traffic:
            traffic.wait_for_more(5)
            first.kill()
            held = serials(b)
            b.rotate()
            traffic.wait_for_more(20)
            assert serials(b) == held
            start(b, listener=listener)
            proxy.wait_until(lambda: not serials(b) & held, "the new one, after the restart")
            traffic.wait_for_more(5)
        assert traffic.failures == []


def test_envoy_that_starts_before_the_first_certificate_serves_once_it_is_there(
    a: proxy.Proxy, b: proxy.Proxy, start: Start, serve: Serve
) -> None:
    serve(b.host, PORT, answer_http)
    begin(a, b, start)
    b.stop()
    for name in ("..data", "key.pem", "cert-chain.pem", "root-cert.pem"):
        (b.output_dir / name).unlink()
    server = SecretServer(b.output_dir, b.secret_socket, UID)
    try:
        b.launch(b.with_server())
        server.wait_log("No such file")
        b.rotate()
        proxy.wait_until(lambda: b.ready() == 200, f"ready: {b.log()}")
        proxy.wait_until(lambda: is_answered(a, b), "a handshake with the first certificate")
    finally:
        server.kill()


def test_what_envoy_refuses_is_told_with_its_reason_and_the_next_one_is_taken(
    a: proxy.Proxy, start: Start
) -> None:
    server = start(a)
    a.start(a.with_server())
    held = serials(a)
    mixed = a.ca.issue(a.spiffe_id) | {"key.pem": a.ca.issue(a.spiffe_id)["key.pem"]}
    authority.install(mixed, a.output_dir, UID)
    server.wait_log("refuses what it was sent")
    assert serials(a) == held
    assert server.log().count("refuses what it was sent") == 1
    assert "PRIVATE" not in server.log()
    rotate_and_wait(a)


def test_delta_is_spoken_too(a: proxy.Proxy, start: Start) -> None:
    start(a)
    a.is_delta = True
    a.start(a.with_server())
    assert '"DELTA_GRPC"' in (a.directory / "bootstrap.json").read_text()
    for _ in range(5):
        rotate_and_wait(a)


def documented(mark: str) -> object:
    """The example of docs/identity.md that begins with this line."""
    text = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
    (found,) = (part for part in text.split("```") if part.startswith(f"yaml\n{mark}\n"))
    return yaml.safe_load(found.removeprefix("yaml\n"))


def test_the_documented_example_is_one_that_envoy_takes(a: proxy.Proxy, start: Start) -> None:
    start(a)
    example = json.loads(
        json.dumps(documented("clusters:")).replace(
            "/run/istio-hostagent/secrets.sock", str(a.secret_socket)
        )
    )
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    secret = documented("tls_certificate_sds_secret_configs:")
    listener = {
        "name": "example",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 9443}},
        "filter_chains": [
            {
                "transport_socket": {
                    "name": "tls",
                    "typed_config": {"@type": kind, "common_tls_context": secret},
                }
            }
        ],
    }
    bootstrap = {
        "node": {"id": "a", "cluster": "b"},
        "admin": {"address": {"pipe": {"path": str(a.admin_socket)}}},
        "static_resources": {**example, "listeners": [listener]},
    }
    file = a.directory / "example.json"
    file.write_text(json.dumps(bootstrap))
    a.run_envoy(["-c", str(file), "--concurrency", "1", "--disable-hot-restart"])
    proxy.wait_until(a.admin_socket.exists, f"its admin interface: {a.log()}")
    proxy.wait_until(lambda: serials(a), f"a certificate: {a.log()}")
