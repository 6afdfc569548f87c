"""An ordinary user who wants a capture port, in a loop that never rests.

As soon as he gets one, at any address, he takes what arrives there. While the agent is started,
restarted, killed and stopped he must never get anything.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import admin, netns, soak
from tests.lab.host import Host
from tests.lab.manager import Manager
from tests.lab.thief import SCRIPT
from tests.lab.waiting import eventually
from tests.netns.conftest import NOBODY, MakeHost, configure, join, running
from tests.netns.test_agent import TABLES

CAPTURED = "10.96.0.9"
# A tenth of these are restarts of each kind.
ROUNDS = soak.times(12, 1000)

CLIENT = """
import socket, sys, time
while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.3) as made:
            made.sendall(b"secret")
            made.settimeout(0.3)
            made.recv(100)
    except OSError:
        pass
    time.sleep(0.002)
"""


class Thief:
    """What he has written down."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    @property
    def ports(self) -> list[str]:
        return [line for line in self.lines if line.startswith("has ")]

    @property
    def loot(self) -> list[str]:
        return [line for line in self.lines if line.startswith("got ")]


@contextlib.contextmanager
def thief(host: Host, *ports: int, number: int = 11) -> Iterator[Thief]:
    log = host.directory / "thief.log"
    places = f"0.0.0.0,127.0.0.1,10.78.0.{number},::,::1,127.0.0.6"
    with running(host.namespace, SCRIPT, ",".join(map(str, ports)), places, log=log):
        found = Thief(log)
        eventually(lambda: "ready" in found.lines, "the thief runs")
        yield found


@contextlib.contextmanager
def traffic(host: Host, cluster: netns.Network, number: int = 11) -> Iterator[None]:
    """Connections of ordinary users in both directions."""
    with (
        running(host.namespace, CLIENT, CAPTURED, "80"),
        running(cluster, CLIENT, f"10.78.0.{number}", "8080"),
    ):
        yield


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as made:
        yield made


@pytest.fixture
def managed(make_host: MakeHost, envoy: str, manager: Manager) -> Host:
    """A host that has joined, and whose descriptors are kept."""
    host = make_host(envoy=envoy)
    host.manager = manager
    join(host)
    return host


@pytest.mark.envoy
@pytest.mark.soak
def test_he_gets_nothing_while_proxy_and_agent_are_killed_and_restarted(
    managed: Host, manager: Manager, cluster: netns.Network
) -> None:
    host = managed
    with thief(host, 15001, 15006) as found, traffic(host, cluster):
        for number in range(ROUNDS):
            match number % 4:
                case 0:
                    os.kill(host.status()["proxy"]["pid"], signal.SIGKILL)
                case 1:
                    host.kill()
                    host.start()
                case 2:
                    host.stop()
                    host.start()
                case 3:
                    host.write_sidecar(f"ISTIO_INBOUND_PORTS=8080,{9000 + number}\n")
                    host.verb("reload", is_checked=False)
            host.verb("wait", "--timeout", "40")
            assert found.ports == [], f"round {number}"
        host.stop()
        manager.end()
        eventually(lambda: found.ports != [], "once the host has left, the port is anybody's")
        assert "istio_hostagent" not in host.tables()
        assert found.loot == []


@pytest.mark.envoy
def test_he_who_has_it_before_is_named_and_nothing_is_captured_into_it(
    make_host: MakeHost, envoy: str, cluster: netns.Network
) -> None:
    host = make_host(envoy=envoy)
    with thief(host, 15001) as found, traffic(host, cluster):
        eventually(lambda: found.ports != [], "he has the port")
        configure(host)
        host.start()

        taken: dict[str, Any] = {}

        def is_named() -> bool:
            with contextlib.suppress(json.JSONDecodeError):  # as long as the agent does not answer
                taken.update(host.status()["capture_ports"]["taken_by"] or {})
            return bool(taken.get("pid"))

        eventually(is_named, "he is named")
        assert (taken["port"], taken["uid"], taken["user"]) == (15001, NOBODY, "nobody")
        assert taken["program"].startswith("python3")
        summary = host.status()["summary"]
        assert "port 15001 is taken by python3" in summary
        assert "user nobody (65534)" in summary
        # It was tried again meanwhile; nothing ever went in.
        assert host.tables() == set()
        assert "redirection installed" not in host.log_text()
        done = host.verb("apply", is_checked=False)
        assert done.returncode == 75
        assert found.loot == []
    host.verb("wait", "--timeout", "60")
    assert host.tables() == TABLES


@pytest.mark.envoy
def test_without_the_service_apply_refuses_a_port_that_somebody_has(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    configure(host)
    with thief(host, 15006) as found:
        eventually(lambda: found.ports != [], "he has the port")
        done = host.verb("apply", is_checked=False)
        assert done.returncode == 75
        assert "port 15006 is taken" in done.stderr
        assert host.tables() == set()
    host.verb("apply")
    assert "istio_hostagent" in host.tables()
    host.verb("clean")


def test_without_the_service_apply_says_how_to_keep_a_port_from_clients(
    make_host: MakeHost,
) -> None:
    host = make_host()
    configure(host)
    with host.namespace.bind("127.0.0.1", 8080) as server:
        server.listen()
        host.namespace.sysctl("net.ipv4.ip_local_port_range", "15006 15006")
        with host.namespace.connect("127.0.0.1", 8080):
            done = host.verb("apply", is_checked=False)
    assert done.returncode == 75
    assert "port 15006 is the client's port of a connection of user 0" in done.stderr
    assert "net.ipv4.ip_local_reserved_ports" in done.stderr
    assert host.tables() == set()


@pytest.mark.envoy
def test_a_changed_port_is_held_over_a_kill_and_the_one_before_is_given_back(
    managed: Host, manager: Manager, cluster: netns.Network
) -> None:
    host = managed
    configure(host, ENVOY_PORT="15101")
    host.verb("reload")
    host.verb("wait", "--timeout", "40")
    eventually(lambda: "port-15001-v4" not in manager.names, "the one before is given back")
    with thief(host, 15101, 15006) as found, traffic(host, cluster):
        host.kill()
        host.start()
        host.verb("wait", "--timeout", "40")
        assert found.ports == []
        assert found.loot == []


@pytest.mark.envoy
def test_an_envoy_whose_listeners_were_drained_is_replaced(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    before = host.status()["proxy"]["pid"]
    path = admin.find_socket(host.directory / "run")
    assert path is not None
    assert admin.ask(path, "/drain_listeners?inboundonly", "POST")[0] == 200
    eventually(lambda: host.status()["proxy"]["pid"] not in (None, before), "another one")
    host.verb("wait", "--timeout", "60")
    assert "its listeners were closed" in host.log_text() + host.status()["summary"]
