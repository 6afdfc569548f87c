"""The real pilot-agent takes the secrets of its Envoy from the shipped secret server.

It looks for a socket when it starts and connects to it by gRPC for at most a second; if that works,
its own server has no certificate to give out (istio/istio, pkg/istio-agent/agent.go, checkSocket).
"""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.demo import evidence
from tests.lab import secretserver
from tests.lab.host import Host, proxy_user
from tests.lab.secretserver import SecretServer
from tests.lab.waiting import eventually

from .conftest import JOIN_LIMIT_S

FOUND = "Existing workload SDS socket found"
NOT_REMOVED = "existing SDS socket could not be removed"


Start = Callable[[], SecretServer]


@pytest.fixture
def start(host: Host) -> Iterator[Start]:
    """Start the secret server whose socket the files of `host` name; the socket is always there."""
    place = host.directory / "secrets"
    place.mkdir()
    host.hostagent_env.write_text(
        f"{host.hostagent_env.read_text()}ISTIO_HOSTAGENT_SECRET_SOCKET={place}/socket\n"
    )
    uid, _ = proxy_user()
    with (
        secretserver.listen(place / "socket", uid) as listener,
        contextlib.ExitStack() as stack,
    ):

        def begin() -> SecretServer:
            # The agent tells it which directory that is.
            current = host.state / "certs" / "current"
            made = SecretServer(current, place / "socket", uid, listener=listener)
            stack.callback(made.kill)
            return made

        yield begin


def is_shown(host: Host) -> bool:
    """Whether Envoy shows the certificate that the agent holds, and no other."""
    return evidence.held_serials(host) == {int(host.status()["certificate"]["serial"], 16)}


def join(host: Host) -> None:
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: is_shown(host), "the certificate is shown")


def test_it_uses_the_server_and_follows_renewals(host: Host, start: Start) -> None:
    server = start()
    join(host)
    assert FOUND in host.log_text()
    pid = host.status()["proxy"]["pid"]
    for _ in range(3):
        host.verb("renew")
        eventually(lambda: is_shown(host), "the renewed certificate is shown")
    assert host.status()["proxy"]["pid"] == pid
    eventually(lambda: bool(host.status()["in_mesh"]), "in the mesh")
    assert "refuses" not in server.log()


def test_the_server_may_go_and_come_back(host: Host, start: Start) -> None:
    server = start()
    join(host)
    server.kill()
    host.verb("renew")
    # Nobody else tells Envoy, which goes on with what it has.
    assert not is_shown(host)
    eventually(lambda: "secret server" in host.status()["summary"], "status says why")
    start()
    eventually(lambda: is_shown(host), "the renewed certificate is shown")
    eventually(lambda: bool(host.status()["in_mesh"]), "status says so")
    assert host.status()["proxy"]["starts"] == 1


def test_pilot_agent_ends_without_an_answer_and_puts_no_server_in_its_place(
    host: Host, start: Start
) -> None:
    host.start()
    eventually(lambda: NOT_REMOVED in host.log_text(), "pilot-agent says why", within_s=60)
    assert FOUND not in host.log_text()
    # Once one answers, the host joins by itself.
    start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: is_shown(host), "the certificate is shown")
