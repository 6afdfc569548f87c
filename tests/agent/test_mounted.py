"""A host whose certificate somebody else renews, in files or by a secret server."""

import pytest

from istio_hostagent.cli import report
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CERTS, CLUSTER, HOSTAGENT, OWN, TEXTS

LIFE_S = 3600.0


@pytest.fixture
def host() -> MemoryHost:
    made = MemoryHost()
    made.ca = machine.Ca.REFUSING  # whoever asks it is found out
    text = f"FILE_MOUNTED_CERTS=true\nPROV_CERT={machine.MOUNTED}\n"
    made.write(HOSTAGENT, OWN + text.encode())
    made.write(CLUSTER, TEXTS["A"])
    return made


def serial(host: MemoryHost) -> str:
    return str(host.status["certificate"]["serial"])


def test_it_joins_with_what_is_there_and_follows_each_change_at_once(host: MemoryHost) -> None:
    host.put("a1", LIFE_S)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    told = host.status["certificate"]
    assert (told["serial"], told["renewed_in"], told["credentials"]) == (
        "a1",
        machine.MOUNTED,
        [],
    )
    assert told["directory"] == CERTS
    assert f"renewed by whoever writes to {machine.MOUNTED}" in report.render(host.status)
    host.run(60.0)
    host.put("a2", LIFE_S)
    host.until(lambda: serial(host) == "a2", 2.0, "what is there now")
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")


def test_it_waits_for_the_first_one_and_joins_when_it_is_there(host: MemoryHost) -> None:
    host.start()
    host.until(lambda: "told certificate-untrusted" in host.summary, 30.0, "what is missing")
    host.put("b1", LIFE_S)
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")


def test_one_that_nobody_renews_is_named_when_it_is_over_and_the_next_one_mends_it(
    host: MemoryHost,
) -> None:
    host.put("c1", LIFE_S)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    host.run(LIFE_S + 10.0)
    assert not host.is_in_mesh
    assert "certificate: told certificate-untrusted" in host.summary
    assert host.status["certificate"]["state"] == "expired"
    host.put("c2", LIFE_S)
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")


def test_what_was_renewed_while_no_agent_ran_is_found_by_the_next_one(host: MemoryHost) -> None:
    host.put("d1", LIFE_S)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    host.kill()
    host.put("d2", LIFE_S)
    host.start()
    host.until(lambda: host.is_in_mesh and serial(host) == "d2", 30.0, "what is there now")


def test_a_change_that_no_event_tells_is_found_all_the_same(host: MemoryHost) -> None:
    host.put("e1", 10 * LIFE_S)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    now = host.clock.now()
    host.mounted = machine.Certificate(machine.MOUNTED_IDENTITY, "e2", now, now + LIFE_S)
    host.until(lambda: serial(host) == "e2", 700.0, "what is there now")


def test_renew_looks_at_the_files_and_says_what_is_held(host: MemoryHost) -> None:
    host.put("f1", LIFE_S)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    assert host.answer("renew")["certificate"]["serial"] == "f1"


@pytest.fixture
def told_nothing() -> MemoryHost:
    """One that asks another agent's secret server, which tells of nothing new by itself."""
    made = MemoryHost()
    made.ca = machine.Ca.REFUSING
    made.write(HOSTAGENT, OWN + b"WORKLOAD_IDENTITY_SOCKET_FILE=/run/spire/api.sock\n")
    made.write(CLUSTER, TEXTS["A"])
    return made


def test_a_secret_server_is_asked_so_often_that_no_renewal_is_missed(
    told_nothing: MemoryHost,
) -> None:
    host = told_nothing
    host.put("f0", 120.0)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    told = host.status["certificate"]
    assert (told["renewed_in"], told["renewed_by"], told["credentials"]) == (
        "/run/spire/api.sock",
        "the secret server at /run/spire/api.sock",
        [],
    )
    assert "renewed by the secret server at /run/spire/api.sock" in report.render(host.status)
    for number in range(1, 20):
        # As SPIRE does it: with half of the life left.
        host.run(60.0)
        host.put(f"f{number}", 120.0)
        host.until(lambda number=number: serial(host) == f"f{number}", 15.0, "the next one")  # type: ignore[misc]
        assert host.is_in_mesh


def test_a_secret_server_that_appears_is_asked_at_once(told_nothing: MemoryHost) -> None:
    host = told_nothing
    host.start()
    host.until(lambda: "told certificate-untrusted" in host.summary, 30.0, "what is missing")
    host.run(300.0)
    host.put("a1", LIFE_S)
    host.write("/run/spire/api.sock", b"")
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
