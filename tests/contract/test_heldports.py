"""What is promised of ports that are held: of real ones in a namespace, and of those in memory."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from istio_hostagent.errors import KernelBusy, PortTaken
from istio_hostagent.host import heldports, ports, sockdiag
from istio_hostagent.host.processes import User
from tests.fakes.heldports import STRANGER_UID, FakeHeldPorts, FakePorts
from tests.lab import layers, netns

PORT, OTHER = 15001, 15006
PROXY = User(998, 997)


class Host(Protocol):
    def begin(self) -> ports.HeldPorts:
        """Another agent, with what the service manager has kept."""

    def keep(self, made: dict[str, int]) -> None:
        """Give descriptors to the service manager."""

    def take(self, port: int) -> bool:
        """A stranger tries to listen on a port in every way there is."""

    def free(self) -> None:
        """The stranger ends."""

    def listen(self, port: int) -> None:
        """The proxy listens."""


class HeldPortsContract:
    def test_nobody_else_gets_a_port_that_is_held(self, host: Host) -> None:
        held = host.begin()
        assert held.ports == frozenset()
        assert held.hold(PORT)
        assert held.ports == {PORT}
        assert not host.take(PORT)
        assert host.take(OTHER)

    def test_the_proxy_gets_it_and_is_seen_to_listen(self, host: Host) -> None:
        held = host.begin()
        held.hold(PORT)
        assert held.find_listening(PORT) is False
        host.listen(PORT)
        assert held.find_listening(PORT) is True
        assert not host.take(PORT)

    def test_one_that_is_taken_is_an_error_with_who_has_it(self, host: Host) -> None:
        held = host.begin()
        assert host.take(PORT)
        with pytest.raises(PortTaken) as raised:
            held.hold(PORT)
        assert raised.value.port == PORT
        assert raised.value.uid == STRANGER_UID
        assert raised.value.inode
        assert held.ports == frozenset()
        assert held.find_listening(PORT) is False
        host.free()
        held.hold(PORT)
        assert held.ports == {PORT}

    def test_to_hold_it_again_changes_nothing(self, host: Host) -> None:
        held = host.begin()
        names = held.hold(PORT).keys()
        assert held.hold(PORT).keys() == names
        assert held.ports == {PORT}

    def test_one_that_was_let_go_is_anybodys(self, host: Host) -> None:
        held = host.begin()
        names = held.hold(PORT).keys()
        held.hold(OTHER)
        assert set(held.let_go(PORT)) == names
        assert held.ports == {OTHER}
        assert host.take(PORT)
        assert not host.take(OTHER)

    def test_what_the_service_manager_keeps_outlives_the_agent(self, host: Host) -> None:
        first = host.begin()
        host.keep(dict(first.hold(PORT)))
        first.hold(OTHER)
        second = host.begin()
        assert second.ports == {PORT}
        assert not host.take(PORT)
        assert host.take(OTHER)


class FakeHost:
    def __init__(self) -> None:
        self._space = FakePorts()
        self._stored: dict[str, int] = {}
        self._open: set[int] = set()
        self._space.listening = self._open.__contains__

    def begin(self) -> FakeHeldPorts:
        return FakeHeldPorts(self._space, self._stored)

    def keep(self, made: dict[str, int]) -> None:
        self._stored |= made

    def take(self, port: int) -> bool:
        return self._space.take(port)

    def free(self) -> None:
        self._space.taken.clear()

    def listen(self, port: int) -> None:
        self._open.add(port)


ADDRESSES = ("0.0.0.0", "127.0.0.1", "10.1.0.2", "::", "::1", "fd00:1::2")


class RealHost:
    def __init__(self, space: netns.Namespace, held: contextlib.ExitStack) -> None:
        self._space = space
        self._held = held
        self._stored: dict[str, int] = {}
        self._agent: heldports.HeldPorts | None = None
        self._strangers: list[socket.socket] = []

    def begin(self) -> Any:
        if self._agent is not None:
            self._agent.close()
        stored = {name: socket.socket(fileno=os.dup(fd)) for name, fd in self._stored.items()}
        self._agent = heldports.HeldPorts(stored, PROXY)
        self._held.callback(self._agent.close)
        return _Inside(self._space, self._agent)

    def keep(self, made: dict[str, int]) -> None:
        for name, descriptor in made.items():
            self._stored[name] = os.dup(descriptor)
            self._held.callback(os.close, self._stored[name])

    def take(self, port: int) -> bool:
        return any(
            self._space.inside(lambda: self._try(address, port, *options))  # noqa: B023 - at once
            for address in ADDRESSES
            for options in itertools.product((False, True), repeat=3)
        )

    def _try(self, address: str, port: int, *options: bool) -> bool:
        made = bind_as(STRANGER_UID, address, port, *options)
        if made is not None:
            self._strangers.append(self._held.enter_context(made))
        return made is not None

    def free(self) -> None:
        for each in self._strangers:
            each.close()

    def listen(self, port: int) -> None:
        made = self._space.inside(lambda: bind_as(PROXY.uid, "::", port, True, True, False))
        assert made is not None
        self._held.enter_context(made)


def bind_as(
    uid: int, address: str, port: int, reuses: bool, shares: bool, is_alone: bool
) -> socket.socket | None:
    """Listen as a user, or do not get the port."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    os.fchown(made.fileno(), uid, uid)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuses))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(is_alone))
    try:
        made.bind((address, port))
        made.listen()
    except OSError:
        made.close()
        return None
    return made


def bound_as(uid: int, address: str, port: int) -> socket.socket:
    """Have a port without listening there, in a way that lets others in who ask for it."""
    made = socket.socket()
    os.fchown(made.fileno(), uid, uid)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    return made


class _Inside:
    """What is asked of it is done in the namespace."""

    def __init__(self, space: netns.Namespace, held: heldports.HeldPorts) -> None:
        self._space = space
        self._agent = held

    def __getattr__(self, name: str) -> Any:
        found = self._space.inside(lambda: getattr(self._agent, name))
        if not callable(found):
            return found
        return lambda *arguments: self._space.inside(lambda: found(*arguments))


class TestFakeHeldPorts(HeldPortsContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost()


@pytest.fixture
def space() -> Iterator[netns.Namespace]:
    layers.require_namespaces()
    with netns.Namespace("ports") as made:
        made.ip("link", "add", "br0", "type", "bridge")
        made.ip("link", "set", "br0", "up")
        made.add_address("br0", "10.1.0.2/24")
        made.add_address("br0", "fd00:1::2/64")
        yield made


@pytest.mark.netns
class TestHeldPorts(HeldPortsContract):
    @pytest.fixture
    def host(self, space: netns.Namespace) -> Iterator[Host]:
        with contextlib.ExitStack() as held:
            yield RealHost(space, held)

    def test_it_is_held_with_ipv6_switched_off_and_on_again(
        self, host: RealHost, space: netns.Namespace
    ) -> None:
        space.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
        host.begin().hold(PORT)
        space.sysctl("net.ipv6.conf.all.disable_ipv6", "0")
        assert not host.take(PORT)

    def test_a_connection_that_uses_the_port_is_not_in_the_way(
        self, host: RealHost, space: netns.Namespace
    ) -> None:
        """On kernels before 6.17 so are those of an earlier proxy that are being closed."""
        with space.bind("10.1.0.2", 8080) as server, space.bind("10.1.0.2", PORT) as client:
            server.listen()
            client.connect(("10.1.0.2", 8080))
            held = host.begin()
            held.hold(PORT)
            assert held.ports == {PORT}
            assert not host.take(PORT)
            host.listen(PORT)

    def test_a_client_that_got_the_port_is_named_with_how_to_keep_it_from_clients(
        self, host: RealHost, space: netns.Namespace
    ) -> None:
        """With net.ipv4.ip_local_port_range = 1024 65535, as many tuning guides have it."""
        held = host.begin()
        with space.bind("10.1.0.2", 8080) as server:
            server.listen()
            space.sysctl("net.ipv4.ip_local_port_range", f"{PORT} {PORT}")
            with space.connect("10.1.0.2", 8080) as client:
                with pytest.raises(PortTaken, match="client's port") as raised:
                    held.hold(PORT)
                assert raised.value.inode == os.fstat(client.fileno()).st_ino
                assert "ip_local_reserved_ports" in raised.value.hint

    def test_a_listener_of_the_user_that_shares_nothing_is_not_called_a_client(
        self, host: RealHost, space: netns.Namespace
    ) -> None:
        """A proxy that somebody has started by hand, say; what it has accepted has its port."""
        held = host.begin()
        with contextlib.ExitStack() as opened:
            listener = opened.enter_context(space.bind("10.1.0.2", PORT))
            os.fchown(listener.fileno(), PROXY.uid, PROXY.gid)
            listener.listen()
            opened.enter_context(space.connect("10.1.0.2", PORT))
            accepted = opened.enter_context(listener.accept()[0])
            os.fchown(accepted.fileno(), PROXY.uid, PROXY.gid)
            with pytest.raises(
                PortTaken, match="another program of the proxy's user 998"
            ) as raised:
                held.hold(PORT)
            assert raised.value.inode == os.fstat(listener.fileno()).st_ino
            assert "end that program" in raised.value.hint

    def test_where_the_kernel_does_not_tell_who_has_a_port_it_is_not_held(
        self, host: RealHost, space: netns.Namespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stranger that only binds would let us in beside it, and could listen before us."""
        # What a kernel without sock_diag answers, and one that hides /proc/net.
        monkeypatch.setattr(sockdiag, "_BY_FAMILY", 99)
        monkeypatch.setattr(sockdiag, "_TABLES", ("/proc/none",))
        held = host.begin()
        stranger = space.inside(lambda: bound_as(STRANGER_UID, "10.1.0.2", PORT))
        with stranger, pytest.raises(KernelBusy, match="no telling which ports are in use"):
            held.hold(PORT)
        assert held.ports == frozenset()
        held.hold(PORT)

    def test_sockets_of_another_user_or_purpose_are_not_taken_over(
        self, host: RealHost, space: netns.Namespace
    ) -> None:
        held = space.inside(lambda: heldports.HeldPorts({}, User(4711, 4711)))
        made = space.inside(lambda: held.hold(PORT))
        host.keep(dict(made))
        held.close()
        with space.bind("10.1.0.2", 8080) as other:
            host.keep({"port-8080-v4": other.fileno()})
        found = host.begin()
        assert found.ports == frozenset()
        assert set(found.useless) == {*made, "port-8080-v4"}
