"""What a user of this machine cannot do to the proxy: answer in its place, or use its private ports.

He listens where it would, while it is away, in every way that he can; what others send must never
reach him. That packets show it, too, is said by test_probes.py.
"""

import contextlib
import stat
from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from istio_hostagent.config.model import Redirection
from istio_hostagent.host import sockdiag
from istio_hostagent.redirect import model
from tests.lab import admin, netns, servers
from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns import rig as rigs
from tests.netns.conftest import MakeHost, join
from tests.netns.rig import APP, PROXY_GROUP, PROXY_USER, Rig, target, words
from tests.unit.samples import STANDARD, cidrs

CAPTURED = (rigs.CAPTURED_V4, rigs.CAPTURED_V6)
OWN = (rigs.HOST_V4, rigs.HOST_V6)
LOCALHOST = ("127.0.0.1", "::1")
CAPTURE_PORTS = (15001, 15006)
HOST_ADDRESS = "10.78.0.11"  # of the host that `make_host` makes
PRIVATE, OPEN = (15000, 15004, 15020), (15021, 15090)
# He needs no answer sooner: what is dropped is sent again after a second.
TIMEOUT_S = 1.5


@pytest.fixture
def rig(rig: Rig) -> Iterator[Rig]:
    yield rig
    rig.clean()


@contextlib.contextmanager
def listening(
    rig: Rig, ports: Sequence[int], user: int, backlog: int = 512
) -> Iterator[servers.Server]:
    (host, port), *also = [(each, port) for port in ports for each in ("0.0.0.0", "::")]
    kind = servers.Kind.RECORD
    with servers.Server(
        rig.host, kind, host, port, also=also, banner="here\n", user=user, backlog=backlog
    ) as server:
        yield server


def ask(rig: Rig, *places: tuple[str, int], user: int = APP) -> list[str]:
    """What is said at each place, to one client after another."""
    targets = [target(*place, payload="secret", timeout_s=TIMEOUT_S) for place in places]
    return [words(reply) for reply in servers.ask_all(rig.host, targets, user=user)]


def ask_from_outside(rig: Rig, *places: tuple[str, int]) -> list[str]:
    targets = [target(*place, payload="secret", timeout_s=TIMEOUT_S) for place in places]
    return [words(reply) for reply in servers.ask_all(rig.neighbour, targets)]


# With a queue of no length every answer is a SYN cookie, which belongs to no socket.
@pytest.mark.parametrize(
    ("backlog", "cookies"),
    [
        pytest.param(512, "1", id="as-usual"),
        pytest.param(0, "1", id="queue-of-no-length"),
        pytest.param(512, "2", id="cookies-always"),
        pytest.param(1, "0", id="cookies-never"),
    ],
)
def test_who_listens_in_the_place_of_the_proxy_gets_nothing(
    rig: Rig, backlog: int, cookies: str
) -> None:
    ruleset = rig.install(STANDARD)
    with rig.kernel() as kernel:  # the guard would do it alone
        rig.apply(kernel, model.Ruleset(ruleset.tables[:1], ruleset.loopback_addresses))
    rig.host.sysctl("net.ipv4.tcp_syncookies", cookies)
    try:
        with listening(rig, CAPTURE_PORTS, APP, backlog) as thief:
            here = [*product(CAPTURED, [80]), *product(LOCALHOST, CAPTURE_PORTS)]
            assert ask(rig, *here) == ["timeout"] * len(here)
            assert ask(rig, *here[:2], user=0) == ["timeout"] * 2
            assert ask_from_outside(rig, *product(OWN, [8080, 15006])) == ["timeout"] * 4
            assert thief.accepted() == 0
    finally:
        rig.host.sysctl("net.ipv4.tcp_syncookies", "1")


def test_who_is_in_the_group_of_the_proxy_is_not_the_proxy(rig: Rig) -> None:
    rig.install(STANDARD)
    with listening(rig, CAPTURE_PORTS, PROXY_GROUP) as thief:
        assert ask(rig, *product(CAPTURED, [80])) == ["timeout"] * 2
        assert thief.accepted() == 0


def test_the_guard_keeps_him_from_answering_without_the_main_table(rig: Rig) -> None:
    ruleset = rig.install(STANDARD)
    with rig.kernel() as kernel:
        rig.apply(kernel, model.Ruleset(ruleset.tables[1:], ruleset.loopback_addresses))
    with listening(rig, CAPTURE_PORTS, APP, backlog=0) as thief:
        assert ask(rig, *product(LOCALHOST, CAPTURE_PORTS)) == ["timeout"] * 4
        assert ask_from_outside(rig, *product(OWN, [15006])) == ["timeout"] * 2
        assert thief.accepted() == 0


def test_the_proxy_answers_as_ever(rig: Rig) -> None:
    rig.install(STANDARD)
    with listening(rig, CAPTURE_PORTS, PROXY_USER) as proxy:
        assert ask(rig, *product(CAPTURED, [80])) == ["here"] * 2
        assert ask_from_outside(rig, *product(OWN, [8080])) == ["here"] * 2
        assert proxy.accepted() == 4


@pytest.mark.parametrize("user", [APP, PROXY_GROUP])
def test_a_private_port_is_refused_to_everybody_else(rig: Rig, user: int) -> None:
    rig.install(STANDARD)
    with listening(rig, (*PRIVATE, *OPEN), PROXY_USER) as proxy:
        places = list(product((*LOCALHOST, *OWN), PRIVATE))
        assert ask(rig, *places, user=user) == ["refused"] * len(places)
        assert proxy.accepted() == 0
        assert ask(rig, *product(LOCALHOST, OPEN), user=user) == ["here"] * 4


@pytest.mark.parametrize("user", [0, PROXY_USER])
def test_a_private_port_serves_root_and_the_proxy(rig: Rig, user: int) -> None:
    rig.install(STANDARD)
    with listening(rig, PRIVATE, PROXY_USER):
        assert ask(rig, *product(LOCALHOST, PRIVATE), user=user) == ["here"] * 6


def test_what_is_reached_from_outside_does_not_change(rig: Rig) -> None:
    """Metrics are read there; who may is for the firewall of the host to say."""
    places = list(product(OWN, (*PRIVATE, *OPEN)))
    with listening(rig, (*PRIVATE, *OPEN), PROXY_USER):
        before = ask_from_outside(rig, *places)
        rig.install(STANDARD)
        assert ask_from_outside(rig, *places) == before == ["here"] * len(places)


def test_a_private_port_is_not_reached_by_way_of_the_proxy(rig: Rig) -> None:
    """Whoever names an address of loopback has it captured, and the proxy may go anywhere."""
    rig.install(Redirection(outbound=cidrs("127.0.0.1/32", "::1/128")))
    with listening(rig, CAPTURE_PORTS, PROXY_USER) as proxy:
        places = list(product(LOCALHOST, PRIVATE))
        assert ask(rig, *places) == ["refused"] * len(places)
        assert proxy.accepted() == 0
        assert ask(rig, *product(LOCALHOST, [80])) == ["here"] * 2


def test_only_what_is_private_is_refused(rig: Rig) -> None:
    rig.install(STANDARD._replace(private_ports=(15000,)))
    with listening(rig, PRIVATE, PROXY_USER):
        answers = dict(zip(PRIVATE, ask(rig, *product(["127.0.0.1"], PRIVATE)), strict=True))
    assert answers == {15000: "refused", 15004: "here", 15020: "here"}


def test_a_server_of_another_port_answers_whoever_has_it(rig: Rig) -> None:
    rig.install(STANDARD)
    with listening(rig, [15002], APP, backlog=0) as server:
        assert ask(rig, *product(LOCALHOST, [15002])) == ["here"] * 2
        assert server.accepted() == 2


@pytest.mark.envoy
class TestEnvoyOfOurs:
    """He and the real agent with the real Envoy."""

    def test_its_admin_interface_is_not_reached(self, make_host: MakeHost, envoy: str) -> None:
        host = make_host(envoy=envoy)
        join(host)
        before = host.status()["proxy"]
        socket = admin.find_socket(host.runtime)
        assert socket is not None
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert socket.stat().st_uid == socket.parent.stat().st_uid == proxy_user()[0]
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        for path in ("/quitquitquit", "/drain_listeners", "/healthcheck/fail"):
            asked = [netns.PYTHON, "-I", "-c", ASK_SOCKET, str(socket), path]
            assert host.namespace.run(asked, user=APP).stdout == "PermissionError\n"
        uid = proxy_user()[0]
        listeners = host.namespace.inside(sockdiag.probe_listeners)
        ports = {each.port for each in listeners if each.uid == uid}
        assert {15001, 15006, 15021} <= ports
        assert not any(is_ended_by(host, port) for port in sorted(ports))
        assert host.status()["proxy"] == before
        assert host.status()["in_mesh"]
        assert "listeners" in admin.ask(socket, "/help")[1]
        assert admin.ask(socket, "/quitquitquit", "POST")[0] == 200
        eventually(lambda: host.status()["proxy"]["starts"] == 2, "root has ended it")

    def test_he_gets_nothing_while_agent_and_proxy_are_away(
        self, make_host: MakeHost, envoy: str, cluster: netns.Network
    ) -> None:
        host = make_host(envoy=envoy)
        join(host)
        host.kill()
        eventually(lambda: all_free(host.namespace, CAPTURE_PORTS), "its proxy has ended, too")
        places = [("0.0.0.0", port) for port in CAPTURE_PORTS]
        kind = servers.Kind.RECORD
        for backlog in (0, 512):
            with servers.Server(
                host.namespace, kind, *places[0], also=places[1:], user=APP, backlog=backlog
            ) as thief:
                targets = [target("10.96.0.5", 80, timeout_s=TIMEOUT_S, payload="secret")] * 3
                replies = servers.ask_all(host.namespace, targets, user=0)
                assert [reply.outcome for reply in replies] == ["timeout"] * 3
                with pytest.raises(TimeoutError):
                    cluster.connect(HOST_ADDRESS, 8080, timeout_s=TIMEOUT_S)
                assert thief.accepted() == 0
        host.start()
        host.verb("wait", "--timeout", "60")


ASK_SOCKET = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    try:
        client.connect(sys.argv[1])
        client.sendall(f"POST {sys.argv[2]} HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n".encode())
        print(client.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""


def is_ended_by(host: Host, port: int) -> bool:
    """Whether a user who asks for it at a port is told that it is done."""
    request = "POST /quitquitquit HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
    reply = servers.ask(
        host.namespace, "127.0.0.1", port, payload=request, timeout_s=TIMEOUT_S, until=12, user=APP
    )
    return " 200" in reply.received


def all_free(space: netns.Namespace, ports: Sequence[int]) -> bool:
    taken = {each.port for each in space.inside(sockdiag.probe_listeners)}
    return not taken & set(ports)
