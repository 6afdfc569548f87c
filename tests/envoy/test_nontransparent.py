"""Applications that speak to the proxy by themselves, on two hosts without any rule."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from istio_hostagent.config import direct, model

from . import authority, network, proxy
from .test_traffic import SECRET, answer_http, assert_heard_at_once, greet, is_closed

pytestmark = pytest.mark.envoy

Mesh = tuple[proxy.Proxy, proxy.Proxy]
Serve = Callable[..., network.Server]
FAMILIES = pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
NAME = "b.onprem"
MYSQL, HTTP, BESIDE, TAKEN, PROXY = 8001, 8002, 8080, 8443, 15080


@pytest.fixture(scope="module")
def hosts(envoy: str) -> Iterator[tuple[network.Host, network.Host]]:
    with network.pair() as made:
        yield made


def of_upstreams(b: network.Host) -> direct.Direct:
    return direct.Direct(
        upstreams=(
            direct.Upstream(MYSQL, b.v4, 3306),
            direct.Upstream(HTTP, b.v6, TAKEN),
            direct.Upstream(8003, b.v4, BESIDE, is_plain=True),
            direct.Upstream(8004, b.v4, BESIDE),
        ),
        http_port=PROXY,
        plain=(b.v6, "*.elsewhere"),
    )


OF_B = direct.Direct(
    inbound=(
        direct.Inbound(3306, "127.0.0.1", 3307),
        direct.Inbound(TAKEN, "127.0.0.1", 8081),
        direct.Inbound(BESIDE, "127.0.0.1", BESIDE),
    )
)


def facts_of(host: network.Host) -> model.HostFacts:
    addresses = (ip_address(host.v4), ip_address(host.v6))
    return proxy.FACTS._replace(addresses=addresses)


@pytest.fixture
def mesh(a: proxy.Proxy, b: proxy.Proxy, request: pytest.FixtureRequest) -> Mesh:
    """Both proxies; `b` accepts mutual TLS alone, unless the test says otherwise."""
    mtls = getattr(request, "param", model.Mtls.STRICT)
    b.start(
        proxy.SETTINGS._replace(mesh=model.CidrSet(), direct=OF_B, mtls=mtls), facts_of(b.host)
    )
    a.start(proxy.SETTINGS._replace(direct=of_upstreams(b.host)), facts_of(a.host))
    return a, b


def serve_on_loopback(
    host: network.Host, port: int, answer: Callable[[socket.socket, str], None]
) -> network.Server:
    return network.Server(host, port, answer, address="127.0.0.1")


@pytest.fixture
def applications(mesh: Mesh) -> Iterator[None]:
    _, b = mesh
    with contextlib.ExitStack() as opened:
        for port, answer in ((3307, greet), (8081, answer_http), (BESIDE, answer_http)):
            opened.callback(serve_on_loopback(b.host, port, answer).close)
        yield


def ask(client: socket.socket, head: str) -> bytes:
    with client:
        client.sendall(f"{head} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n".encode())
        return network.receive(client)


def assert_encrypted(seen: bytes) -> None:
    assert b"\x17\x03\x03" in seen  # TLS application data
    assert SECRET not in seen


@FAMILIES
def test_a_port_of_an_upstream_leads_there_by_mutual_tls(
    mesh: Mesh, applications: object, capture: network.Capture, loopback: str
) -> None:
    a, b = mesh
    assert SECRET in ask(a.host.connect(loopback, HTTP, uid=65534), "GET /")
    assert_encrypted(capture.data())
    assert a.finished("upstream", HTTP)["peer"] == b.spiffe_id
    inbound = b.finished("inbound", TAKEN)
    assert (inbound["peer"], inbound["downstream_tls"]) == (a.spiffe_id, "TLSv1.3")


def test_a_server_that_speaks_first_is_heard_at_once(mesh: Mesh, applications: object) -> None:
    a, _ = mesh
    assert_heard_at_once(lambda: a.host.connect("127.0.0.1", MYSQL))


def test_the_application_has_the_port_of_the_proxy_on_loopback(
    mesh: Mesh, applications: object, capture: network.Capture
) -> None:
    a, b = mesh
    assert SECRET in ask(a.host.connect("127.0.0.1", 8004), "GET /")
    assert_encrypted(capture.data())
    assert b.finished("inbound", BESIDE)["destination"] == f"{b.host.v4}:{BESIDE}"


def test_plain_connections_are_refused_by_a_strict_host(mesh: Mesh, applications: object) -> None:
    a, b = mesh
    for port in (TAKEN, BESIDE, 3306):
        assert is_closed(a.host.connect(b.host.v4, port))
    # An upstream that is said not to be in the mesh is no exception.
    assert is_closed(a.host.connect("127.0.0.1", 8003))
    with pytest.raises(ConnectionRefusedError):
        a.host.connect(b.host.v4, 8081)


@pytest.mark.parametrize("mesh", [model.Mtls.PERMISSIVE], indirect=True)
def test_plain_connections_reach_a_permissive_host(
    mesh: Mesh, applications: object, capture: network.Capture
) -> None:
    a, b = mesh
    assert SECRET in ask(a.host.connect("127.0.0.1", 8003), "GET /")
    assert SECRET in capture.data()
    assert a.finished("upstream", 8003)["upstream_tls"] is None
    assert_heard_at_once(lambda: a.host.connect(b.host.v4, 3306), within_s=1.3)


@FAMILIES
def test_connect_leads_through_both_proxies(
    mesh: Mesh, applications: object, capture: network.Capture, loopback: str
) -> None:
    a, b = mesh
    client = a.host.connect(loopback, PROXY)
    client.sendall(f"CONNECT {b.host.v4}:3306 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = network.receive(client, SECRET)
    client.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert SECRET in answer  # the server has spoken first
    assert_encrypted(capture.data())
    assert b.finished("inbound", 3306)["peer"] == a.spiffe_id


def test_requests_with_a_whole_url_lead_through_both_proxies(
    mesh: Mesh, applications: object, capture: network.Capture
) -> None:
    a, b = mesh
    answer = ask(a.host.connect("127.0.0.1", PROXY), f"GET http://{b.host.v4}:{TAKEN}/x")
    assert SECRET in answer
    assert_encrypted(capture.data())
    assert b.finished("inbound", TAKEN)["peer"] == a.spiffe_id


def test_a_url_without_a_port_means_that_of_http(a: proxy.Proxy, b: proxy.Proxy) -> None:
    inbound = direct.Direct(inbound=(direct.Inbound(80, "127.0.0.1", 8081),))
    b.host.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=80")
    b.start(proxy.SETTINGS._replace(direct=inbound), facts_of(b.host))
    a.start(proxy.SETTINGS._replace(direct=of_upstreams(b.host)), facts_of(a.host))
    application = serve_on_loopback(b.host, 8081, answer_http)
    answer = ask(a.host.connect("127.0.0.1", PROXY), f"GET http://{b.host.v4}/x")
    application.close()
    assert SECRET in answer
    assert b.finished("inbound", 80)["peer"] == a.spiffe_id


def test_a_request_for_a_host_that_is_not_in_the_mesh_goes_as_it_is(
    mesh: Mesh, serve: Serve, capture: network.Capture
) -> None:
    a, b = mesh
    serve(b.host, 9000, answer_http)
    serve(b.host, 9002, greet)
    assert SECRET in ask(a.host.connect("127.0.0.1", PROXY), f"GET http://[{b.host.v6}]:9000/")
    assert SECRET in capture.data()
    # By its other address it is in the mesh, and nobody speaks TLS there.
    answer = ask(a.host.connect("127.0.0.1", PROXY), f"GET http://{b.host.v4}:9002/")
    assert answer.startswith(b"HTTP/1.1 503")


def test_a_request_for_the_proxy_itself_does_not_go_round_and_round(a: proxy.Proxy) -> None:
    made = direct.Direct(http_port=PROXY, plain=("*",))
    a.start(proxy.SETTINGS._replace(direct=made), facts_of(a.host))
    answer = ask(a.host.connect("127.0.0.1", PROXY), f"GET http://127.0.0.1:{PROXY}/")
    assert answer.startswith(b"HTTP/1.1 508")


def test_a_peer_of_another_trust_domain_is_refused(
    a: proxy.Proxy, b: proxy.Proxy, ca: authority.Authority
) -> None:
    b.start(proxy.SETTINGS._replace(direct=OF_B, mtls=model.Mtls.STRICT), facts_of(b.host))
    a.rotate(san="spiffe://elsewhere.example/ns/vms/sa/a0")
    a.start(proxy.SETTINGS._replace(direct=of_upstreams(b.host)), facts_of(a.host))
    application = serve_on_loopback(b.host, 8081, answer_http)
    assert is_closed(a.host.connect("127.0.0.1", HTTP))
    application.close()
    assert application.connections == 0
    assert b.finished("inbound", TAKEN)["downstream_failure"]


def test_a_name_is_resolved_by_the_proxy_and_a_missing_one_keeps_nobody_waiting(
    a: proxy.Proxy, b: proxy.Proxy
) -> None:
    b.start(proxy.SETTINGS._replace(direct=OF_B), facts_of(b.host))
    upstreams = (
        direct.Upstream(HTTP, "localhost", 9001),
        direct.Upstream(8005, "nowhere.invalid", 80),
    )
    made = direct.Direct(upstreams, http_port=PROXY, plain=("*",))
    upstreams_of_a = made._replace(upstreams=(upstreams[0]._replace(is_plain=True), upstreams[1]))
    a.start(proxy.SETTINGS._replace(direct=upstreams_of_a), facts_of(a.host))
    application = serve_on_loopback(a.host, 9001, answer_http)
    proxy.wait_until(
        lambda: SECRET in ask(a.host.connect("127.0.0.1", HTTP), "GET /"), "localhost"
    )
    assert SECRET in ask(a.host.connect("127.0.0.1", PROXY), "GET http://localhost:9001/")
    assert is_closed(a.host.connect("127.0.0.1", 8005))
    application.close()


def test_two_proxies_share_no_port(a: proxy.Proxy, hosts: tuple[network.Host, ...]) -> None:
    a.start(proxy.SETTINGS._replace(direct=of_upstreams(hosts[1])), facts_of(a.host))
    second = proxy.Proxy(a._envoy, a.host, a.ca)
    second.rotate()
    other = proxy.SETTINGS._replace(direct=of_upstreams(hosts[1]), status_port=15031)
    second.launch(other, facts_of(a.host))
    try:
        proxy.wait_until(lambda: "Address already in use" in second.log(), "it says so")
    finally:
        second.close()
