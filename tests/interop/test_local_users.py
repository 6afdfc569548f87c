"""A user of the host where the real pilot-agent runs: what serves it and its Envoy is not for him."""

import pytest

from istio_hostagent.host import sockdiag
from tests.lab import admin, servers
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually

from .conftest import HOST_ADDRESS, is_answered
from .istiod import Istiod

NOBODY = 65534
ADDRESSES = ("127.0.0.1", "::1", HOST_ADDRESS)
# What ends, closes, tells or floods.
ATTACKS = [
    (15000, "POST /quitquitquit"),
    (15000, "POST /drain_listeners"),
    (15000, "POST /healthcheck/fail"),
    (15000, "POST /logging?level=trace"),
    (15000, "GET /config_dump"),
    (15000, "GET /certs"),
    (15004, "GET /debug/syncz"),
    (15020, "POST /quitquitquit"),
    (15020, "POST /drain"),
    (15020, "GET /debug/ndsz"),
]
# Where it is reached by everybody: captured traffic, the tunnel, readiness, metrics.
OPEN = {15001, 15006, 15008, 15021, 15090}
PRIVATE = {15000, 15004, 15020}


def ask(host: Host, address: str, port: int, request: str, user: int = NOBODY) -> servers.Reply:
    return servers.ask(
        host.namespace, address, port, payload=to_http(request), user=user, timeout_s=30.0
    )


def to_http(request: str) -> str:
    return (
        f"{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )


def test_he_can_neither_end_nor_steer_nor_read_it(joined: Host, istiod: Istiod) -> None:
    eventually(lambda: is_answered(istiod), "the application is answered")
    before = joined.status()["proxy"]
    targets = [
        servers.Target(address, port, payload=to_http(request))
        for address in ADDRESSES
        for port, request in ATTACKS
    ]
    replies = servers.ask_all(joined.namespace, targets, user=NOBODY)
    assert {reply.outcome for reply in replies} == {"refused"}
    for port, request in ((15021, "GET /healthz/ready"), (15090, "GET /stats/prometheus")):
        assert ask(joined, "127.0.0.1", port, request).received.startswith("HTTP/1.1 200")
    assert is_answered(istiod)
    assert joined.status()["proxy"] == before
    eventually(lambda: joined.verb("verify", is_checked=False).returncode == 0, "verified")


def test_every_port_on_which_the_proxy_listens_is_open_or_private(joined: Host) -> None:
    listeners = joined.namespace.inside(sockdiag.probe_listeners)
    ports = {each.port for each in listeners if each.uid == proxy_user()[0]}
    assert {15000, 15020, 15021, 15090} <= ports <= OPEN | PRIVATE


@pytest.mark.parametrize("user", [0, proxy_user()[0]])
def test_root_and_the_proxy_itself_are_served(joined: Host, user: int) -> None:
    for port, request in ((15000, "GET /config_dump"), (15020, "GET /healthz/ready")):
        assert ask(joined, "127.0.0.1", port, request, user).received.startswith("HTTP/1.1 200")
    assert admin.ask_port(joined.namespace, "/certs")[0] == 200


def test_metrics_are_read_from_outside_and_by_whom_a_key_admits(
    joined: Host, istiod: Istiod
) -> None:
    with istiod.network.connect(HOST_ADDRESS, 15020, timeout_s=20) as client:
        client.sendall(to_http("GET /stats/prometheus").encode())
        assert client.recv(16).startswith(b"HTTP/1.1 200")
    proxy = joined.status()["proxy"]["pid"]
    text = joined.sidecar_env.read_text()
    joined.write_sidecar(f"{text}ISTIO_HOSTAGENT_LOCAL_PORTS=15020\n")
    joined.verb("reload")
    reply = ask(joined, "127.0.0.1", 15020, "GET /stats/prometheus")
    assert reply.received.startswith("HTTP/1.1 200")
    assert ask(joined, "127.0.0.1", 15000, "GET /ready").outcome == "refused"
    assert joined.status()["proxy"]["pid"] == proxy
