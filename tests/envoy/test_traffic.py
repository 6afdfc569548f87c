"""What applications notice of the two proxies, and what the link between them shows."""

import contextlib
import functools
import resource
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from istio_hostagent.config import model

from . import authority, network, proxy

pytestmark = pytest.mark.envoy

Mesh = tuple[proxy.Proxy, proxy.Proxy]
Serve = Callable[..., network.Server]

PORT = 8080
SECRET = b"a word that must not be readable on the way"
STRICT = proxy.SETTINGS._replace(mtls=model.Mtls.STRICT)
FAMILIES = pytest.mark.parametrize("family", ["v4", "v6"])


def answer_http(connection: socket.socket, address: str) -> None:
    network.receive(connection, b"\r\n\r\n")
    body = f"seen from {address}".encode()
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + SECRET + body)


def greet(connection: socket.socket, address: str) -> None:
    connection.sendall(SECRET + b"\n")
    network.receive(connection)


def echo_after_end(connection: socket.socket, address: str) -> None:
    connection.sendall(network.receive(connection))


def ask_http(client: socket.socket) -> bytes:
    with client:
        client.sendall(b"GET /" + SECRET.replace(b" ", b"-") + b" HTTP/1.0\r\n\r\n")
        return network.receive(client)


def is_closed(client: socket.socket, question: bytes = b"GET / HTTP/1.0\r\n\r\n") -> bool:
    """Whether the other end closes without an answer; a time-out (5 s) raises."""
    with client:
        try:
            client.sendall(question)
            return network.receive(client) == b""
        except (ConnectionResetError, BrokenPipeError):
            return True


def address_of(host: network.Host, family: str) -> str:
    return str(getattr(host, family))


@FAMILIES
def test_request_goes_through_both_proxies_with_mutual_tls(
    mesh: Mesh, serve: Serve, capture: network.Capture, family: str
) -> None:
    a, b = mesh
    serve(b.host, PORT, answer_http)
    answer = ask_http(a.host.connect(address_of(b.host, family), PORT))
    source = {"v4": "::ffff:127.0.0.6", "v6": "::6"}[family]
    assert answer.endswith(SECRET + f"seen from {source}".encode())
    seen = capture.data()
    assert b"\x16\x03\x01" in seen  # a TLS handshake record
    assert b"\x17\x03\x03" in seen  # TLS application data
    assert SECRET not in seen
    assert SECRET.replace(b" ", b"-") not in seen

    inbound = b.finished("inbound", PORT)
    assert inbound["peer"] == a.spiffe_id
    assert inbound["downstream_tls"] == "TLSv1.3"
    assert inbound["bytes_sent"] == len(answer)
    outbound = a.finished("outbound", PORT)
    assert outbound["peer"] == b.spiffe_id
    assert str(outbound["upstream"]).endswith(f":{PORT}")


def test_hosts_without_ipv6_reach_one_another(
    a: proxy.Proxy, b: proxy.Proxy, serve: Serve
) -> None:
    facts = proxy.FACTS._replace(has_ipv6=False)
    a.start(proxy.SETTINGS, facts)
    b.start(proxy.SETTINGS, facts)
    serve(b.host, PORT, answer_http)
    assert SECRET in ask_http(a.host.connect(b.host.v4, PORT))
    with pytest.raises(ConnectionRefusedError):
        a.host.connect("::1", proxy.SETTINGS.status_port)


@pytest.mark.parametrize("settings", [proxy.SETTINGS, STRICT], ids=["permissive", "strict"])
@FAMILIES
def test_server_that_speaks_first_is_heard_at_once(
    a: proxy.Proxy, b: proxy.Proxy, serve: Serve, settings: model.ProxySettings, family: str
) -> None:
    a.start(settings)
    b.start(settings)
    serve(b.host, 3306, greet)
    assert_heard_at_once(lambda: a.host.connect(address_of(b.host, family), 3306))


def test_plain_client_hears_a_permissive_server_that_speaks_first(
    b: proxy.Proxy, serve: Serve, hosts: tuple[network.Host, network.Host]
) -> None:
    b.start(proxy.SETTINGS)
    serve(b.host, 3306, greet)
    # Until then it may be a mesh host whose first words were lost on the way.
    connect = functools.partial(hosts[0].connect, b.host.v4, 3306, uid=proxy.PROXY_UID)
    assert_heard_at_once(connect, within_s=1.3)


def assert_heard_at_once(connect: Callable[[], socket.socket], within_s: float = 0.3) -> None:
    """The server's first words come in a moment; once in fifty times will do on a busy machine."""
    took_s: list[float] = []
    while not took_s or min(took_s) >= within_s:
        assert len(took_s) < 50, took_s
        started = time.monotonic()
        with connect() as client:
            assert network.receive(client, b"\n") == SECRET + b"\n"
        took_s.append(time.monotonic() - started)


@FAMILIES
def test_plain_client_is_served_by_a_permissive_host(
    b: proxy.Proxy, serve: Serve, hosts: tuple[network.Host, network.Host], family: str
) -> None:
    b.start(proxy.SETTINGS)
    serve(b.host, PORT, answer_http)
    client = hosts[0].connect(address_of(b.host, family), PORT, uid=proxy.PROXY_UID)
    assert SECRET in ask_http(client)
    line = b.finished("inbound", PORT)
    assert (line["peer"], line["downstream_tls"]) == (None, None)


@FAMILIES
def test_plain_client_is_closed_by_a_strict_host(
    b: proxy.Proxy, serve: Serve, hosts: tuple[network.Host, network.Host], family: str
) -> None:
    b.start(STRICT)
    server = serve(b.host, PORT, answer_http)
    client = hosts[0].connect(address_of(b.host, family), PORT, uid=proxy.PROXY_UID)
    assert is_closed(client)
    assert server.connections == 0
    assert b.finished("inbound", PORT)["flags"] == "UH"


def test_application_keeps_its_own_tls(
    mesh: Mesh, serve: Serve, ca: authority.Authority, tmp_path: Path
) -> None:
    # From outside the mesh: the certificate that the client sees is the application's.
    outside, b = mesh
    with own_tls_server(b, serve, ca, tmp_path) as trusted:
        raw = outside.host.connect(b.host.v4, 8443, uid=proxy.PROXY_UID)
        with trusted.wrap_socket(raw, server_hostname=b.host.v4) as client:
            assert SECRET in ask_http(client)
    assert b.finished("inbound", 8443)["downstream_tls"] is None


def test_application_keeps_its_own_tls_inside_ours(
    mesh: Mesh, serve: Serve, ca: authority.Authority, tmp_path: Path
) -> None:
    a, b = mesh
    with own_tls_server(b, serve, ca, tmp_path) as trusted:
        raw = a.host.connect(b.host.v4, 8443)
        with trusted.wrap_socket(raw, server_hostname=b.host.v4) as client:
            assert SECRET in ask_http(client)
    assert b.finished("inbound", 8443)["peer"] == a.spiffe_id


@contextlib.contextmanager
def own_tls_server(
    b: proxy.Proxy, serve: Serve, ca: authority.Authority, directory: Path
) -> Iterator[ssl.SSLContext]:
    for name, data in ca.issue(b.host.v4).items():
        (directory / name).write_bytes(data)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "cert-chain.pem", directory / "key.pem")

    def answer(connection: socket.socket, address: str) -> None:
        with context.wrap_socket(connection, server_side=True) as inside:
            answer_http(inside, address)

    serve(b.host, 8443, answer)
    yield ssl.create_default_context(cafile=str(directory / "root-cert.pem"))


def test_tls_of_an_application_is_closed_by_a_strict_host(
    b: proxy.Proxy,
    serve: Serve,
    ca: authority.Authority,
    hosts: tuple[network.Host, network.Host],
    tmp_path: Path,
) -> None:
    b.start(STRICT)
    with (
        own_tls_server(b, serve, ca, tmp_path) as trusted,
        hosts[0].connect(b.host.v4, 8443, uid=proxy.PROXY_UID) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        trusted.wrap_socket(raw, server_hostname=b.host.v4)


@pytest.mark.parametrize("settings", [proxy.SETTINGS, STRICT], ids=["permissive", "strict"])
@pytest.mark.parametrize("liar", ["client", "server"])
@pytest.mark.parametrize(
    "san", ["spiffe://cluster.local.example/ns/vms/sa/web", "spiffe://other/ns/vms/sa/web"]
)
def test_peer_of_another_trust_domain_is_refused(
    a: proxy.Proxy,
    b: proxy.Proxy,
    serve: Serve,
    settings: model.ProxySettings,
    liar: str,
    san: str,
) -> None:
    (a if liar == "client" else b).rotate(san=san)
    a.start(settings)
    b.start(settings)
    server = serve(b.host, PORT, answer_http)
    assert is_closed(a.host.connect(b.host.v4, PORT))
    assert server.connections == 0
    if liar == "client":
        failure = b.finished("inbound", PORT)["downstream_failure"]
    else:
        failure = a.finished("outbound", PORT)["upstream_failure"]
    assert "CERTIFICATE_VERIFY_FAILED" in str(failure)


def test_peer_of_another_root_is_refused(a: proxy.Proxy, b: proxy.Proxy, serve: Serve) -> None:
    stranger = authority.Authority("stranger")
    b.start(proxy.SETTINGS)
    # It trusts us and says that it is one of us; its certificate comes from somebody else.
    files = {
        **stranger.issue(a.spiffe_id),
        "root-cert.pem": b.ca.issue("spiffe://x/")["root-cert.pem"],
    }
    authority.install(files, a.output_dir, proxy.PROXY_UID)
    a.start(proxy.SETTINGS)
    server = serve(b.host, PORT, answer_http)
    assert is_closed(a.host.connect(b.host.v4, PORT))
    assert server.connections == 0
    assert "CERTIFICATE_VERIFY_FAILED" in str(b.finished("inbound", PORT)["downstream_failure"])


def test_mutual_tls_without_a_certificate_is_refused(
    b: proxy.Proxy, serve: Serve, hosts: tuple[network.Host, network.Host]
) -> None:
    b.start(proxy.SETTINGS)
    server = serve(b.host, PORT, answer_http)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["istio"])
    raw = hosts[0].connect(b.host.v4, PORT, uid=proxy.PROXY_UID)
    # With TLS 1.3 the refusal arrives after the client's side of the handshake.
    with pytest.raises((ssl.SSLError, ConnectionError)), context.wrap_socket(raw) as client:
        ask_http(client)
    assert server.connections == 0


def test_no_session_is_resumed(
    a: proxy.Proxy,
    b: proxy.Proxy,
    serve: Serve,
    hosts: tuple[network.Host, network.Host],
    tmp_path: Path,
) -> None:
    # A resumed session would not be judged by the roots of today.
    b.start(proxy.SETTINGS)
    serve(b.host, PORT, answer_http)
    context = context_of_mesh(a, tmp_path)
    session = None
    for _ in range(2):
        raw = hosts[0].connect(b.host.v4, PORT, uid=proxy.PROXY_UID)
        with context.wrap_socket(raw, session=session) as client:
            assert client.session_reused is False
            assert client.selected_alpn_protocol() == "istio"
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert SECRET in network.receive(client)
            session = client.session


def test_a_mesh_client_whose_first_words_come_late_is_no_plain_client(
    a: proxy.Proxy,
    b: proxy.Proxy,
    serve: Serve,
    hosts: tuple[network.Host, network.Host],
    tmp_path: Path,
) -> None:
    """Linux sends a segment that was lost again after 0.2 s, and once more 0.4 s later."""
    b.start(proxy.SETTINGS)
    serve(b.host, PORT, answer_http)
    raw = hosts[0].connect(b.host.v4, PORT, uid=proxy.PROXY_UID)
    time.sleep(0.6)  # what is tried here is time
    with context_of_mesh(a, tmp_path).wrap_socket(raw) as client:
        assert client.selected_alpn_protocol() == "istio"
        assert SECRET in ask_http(client)


def context_of_mesh(a: proxy.Proxy, directory: Path) -> ssl.SSLContext:
    """How a proxy of the mesh begins a connection."""
    for name, data in a.ca.issue(a.spiffe_id).items():
        (directory / name).write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(directory / "root-cert.pem")
    context.load_cert_chain(directory / "cert-chain.pem", directory / "key.pem")
    context.set_alpn_protocols(["istio"])
    return context


def test_more_connections_than_the_default_limits_of_envoy(mesh: Mesh) -> None:
    a, b = mesh
    number = 1100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * number)), hard))
    with contextlib.ExitStack() as stack:
        # Nobody accepts: the kernel completes the connections.
        stack.enter_context(b.host.listen(PORT)).listen(2 * number)
        for _ in range(number):
            stack.enter_context(a.host.connect(b.host.v4, PORT))

        def open_at_the_application() -> int:
            text = b.ask("/stats?filter=inbound_application.upstream_cx_active")
            return int(text.rpartition(" ")[2])

        proxy.wait_until(lambda: open_at_the_application() == number, "all connected", 30)


def test_destination_outside_the_mesh_stays_plain(
    a: proxy.Proxy, b: proxy.Proxy, serve: Serve, capture: network.Capture
) -> None:
    a.start(proxy.SETTINGS._replace(mesh=model.CidrSet()))
    b.start(proxy.SETTINGS)
    serve(b.host, PORT, answer_http)
    assert SECRET in ask_http(a.host.connect(b.host.v4, PORT))
    assert SECRET in capture.data()


def test_port_of_sshd_stays_plain_between_mesh_hosts(mesh: Mesh, serve: Serve) -> None:
    a, b = mesh
    serve(b.host, proxy.PLAIN_PORT, greet)
    with a.host.connect(b.host.v4, proxy.PLAIN_PORT) as client:
        network.receive(client, b"\n")
    assert a.finished("outbound", proxy.PLAIN_PORT)["upstream_tls"] is None


@pytest.mark.parametrize("port", [15001, 15006])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "own v4", "own v6"])
def test_connection_to_a_capture_port_is_closed(a: proxy.Proxy, address: str, port: int) -> None:
    a.start(proxy.SETTINGS)
    own = {"own v4": a.host.v4, "own v6": a.host.v6}
    assert is_closed(a.host.connect(own.get(address, address), port))
    assert all_connections(a) == 1


@pytest.mark.parametrize("port", [15001, 15006])
def test_connection_from_outside_to_a_capture_port_is_closed(
    a: proxy.Proxy, b: proxy.Proxy, port: int
) -> None:
    b.start(proxy.SETTINGS)
    assert is_closed(a.host.connect(b.host.v4, port, uid=proxy.PROXY_UID))
    assert all_connections(b) == 1


def all_connections(host: proxy.Proxy) -> int:
    """The connections that the two capturing listeners have accepted, once all have ended.

    Envoy counts a connection some time after it has closed it.
    """

    def count(what: str) -> int:
        names = f"^listener.(inbound|outbound).downstream_cx_{what}$"
        text = host.ask(f"/stats?filter={names}")
        return sum(int(line.rpartition(" ")[2]) for line in text.splitlines())

    proxy.wait_until(lambda: 0 < count("total") == count("destroy"), "all have ended")
    return count("total")


def test_connection_to_a_port_without_server_is_closed(mesh: Mesh) -> None:
    a, b = mesh
    assert is_closed(a.host.connect(b.host.v4, 9))


@FAMILIES
def test_end_of_one_direction_leaves_the_other_open(mesh: Mesh, serve: Serve, family: str) -> None:
    a, b = mesh
    serve(b.host, PORT, echo_after_end)
    data = SECRET * 50_000
    with a.host.connect(address_of(b.host, family), PORT) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert network.receive(client) == data


def test_readiness_is_all_that_is_seen_of_the_admin_interface(a: proxy.Proxy) -> None:
    a.start(proxy.SETTINGS)
    port = proxy.SETTINGS.status_port
    for address in ("127.0.0.1", "::1", a.host.v4, a.host.v6):
        assert a.get(port, "/healthz/ready", address) == (200, "LIVE\n")
    with a.host.connect("127.0.0.1", port) as client:
        client.sendall(b"GET /healthz/ready HTTP/1.0\r\n\r\n")
        assert network.receive(client).startswith(b"HTTP/1.0 200")
    assert a.get(port, "/quitquitquit")[0] == 404
    assert a.get(port, "/healthz/ready/../../quitquitquit")[0] in (400, 404)
    assert stat.S_IMODE(a.admin_socket.stat().st_mode) == 0o600
    assert a.admin_socket.stat().st_uid == proxy.PROXY_UID


def test_number_of_statistics_does_not_grow_with_traffic(mesh: Mesh, serve: Serve) -> None:
    a, b = mesh
    serve(b.host, PORT, answer_http)
    ask_http(a.host.connect(b.host.v4, PORT))
    before = a.ask("/stats").count("\n")
    for port in range(20_000, 20_050):
        assert is_closed(a.host.connect(b.host.v4, port))
    assert a.ask("/stats").count("\n") < before + 20
