"""A port that the kernel gives out again while the connection before is still tracked.

An application and the proxy connect from the same address to the same destination. The first packet
of the one must not be taken for one of the other, which has just had the same port.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.waiting import eventually
from tests.netns import rig as rigs
from tests.netns.rig import APP, PROXY_USER, Rig
from tests.unit.samples import STANDARD

PORT, SILENT_PORT, CAPTURE_PORT = 8443, 8444, 15001
PATIENCE_S = 5.0
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Place:
    """Who is there in one IP version; all listeners are ours."""

    rig: Rig
    source: str
    destination: str
    proxy: socket.socket
    server: socket.socket

    def socket(self, uid: int, port: int = 0) -> socket.socket:
        """A socket of a user on the host, bound to a port."""
        made = self.rig.host.bind(self.source, port, uid=uid)
        made.settimeout(PATIENCE_S)
        return made


@pytest.fixture(params=["v4", "v6"])
def place(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Place]:
    is_v4 = request.param == "v4"
    source, destination, anywhere = (
        (rigs.HOST_V4, rigs.CAPTURED_V4, "0.0.0.0")
        if is_v4
        else (rigs.HOST_V6, rigs.CAPTURED_V6, "::")
    )
    rig.install(STANDARD)
    silence = f"add rule inet silence c tcp dport {SILENT_PORT} drop"
    table = "add table inet silence; add chain inet silence c { type filter hook prerouting priority 0; }"
    rig.neighbour.run(["nft", f"{table}; {silence}"], check=True)
    try:
        with (
            rig.host.bind(anywhere, CAPTURE_PORT, uid=PROXY_USER) as proxy,
            rig.neighbour.bind(destination, PORT) as server,
        ):
            for listener in (proxy, server):
                listener.settimeout(PATIENCE_S)
                listener.listen()
            yield Place(rig, source, destination, proxy, server)
    finally:
        rig.neighbour.run(["nft", "delete table inet silence"])
        rig.clean()


def reset(listener: socket.socket) -> None:
    """Accept one connection and end it with a reset."""
    accepted, _ = listener.accept()
    with accepted:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def end_by_reset(place: Place, uid: int, listener: socket.socket) -> int:
    """Connect, be reset by the other end, and give the port that is free again."""
    with place.socket(uid) as client:
        client.connect((place.destination, PORT))
        reset(listener)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        return int(client.getsockname()[1])


def assert_arrives(place: Place, uid: int, port: int, listener: socket.socket) -> None:
    """Whoever connects from this port of his gets to this listener."""
    with place.socket(uid, port) as client:
        client.connect((place.destination, PORT))
        accepted, peer = listener.accept()
        accepted.close()
        assert peer[1] == port


def test_an_application_gets_the_port_of_a_connection_of_the_proxy_that_was_reset(
    place: Place,
) -> None:
    port = end_by_reset(place, PROXY_USER, place.server)
    assert_arrives(place, APP, port, place.proxy)


def test_the_proxy_gets_the_port_of_a_captured_connection_that_was_reset(place: Place) -> None:
    port = end_by_reset(place, APP, place.proxy)
    assert_arrives(place, PROXY_USER, port, place.server)


def test_an_attempt_of_the_proxy_that_was_given_up_is_soon_forgotten(place: Place) -> None:
    with place.socket(PROXY_USER) as attempt:
        port = attempt.getsockname()[1]
        attempt.setblocking(False)
        assert attempt.connect_ex((place.destination, SILENT_PORT)) == errno.EINPROGRESS
    family = "ipv6" if ":" in place.source else "ipv4"
    listing = ["conntrack", "-L", "-f", family, "-p", "tcp", "--orig-port-src", str(port)]
    eventually(
        lambda: not place.rig.host.run(listing).stdout.strip(),
        "the attempt is forgotten",
        within_s=PATIENCE_S,
    )
    with place.socket(APP, port) as client:
        client.connect((place.destination, SILENT_PORT))
        place.proxy.accept()[0].close()
