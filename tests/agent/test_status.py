"""The table of `status`: one screen that says how a host stands, what is wrong and what to do."""

import re

from istio_hostagent.cli import report
from istio_hostagent.hints import HINTS
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, TEXTS

SCREEN = 24


def rows(host: MemoryHost) -> dict[str, list[str]]:
    """The texts of the table by the word in front of them."""
    shown = report.render(host.status)
    assert shown.count("\n") < SCREEN
    found: dict[str, list[str]] = {}
    for line in shown.splitlines():
        found.setdefault(line[:14].rstrip(), []).append(line[15:])
    return found


def names(host: MemoryHost) -> list[str]:
    return [cause["code"] for cause in host.status["causes"]]


def test_a_host_in_the_mesh_says_all_that_one_asks_of_it(host: MemoryHost) -> None:
    host.join()
    seen = rows(host)
    assert seen["mesh"][0].startswith("in the mesh as spiffe://")
    assert re.fullmatch(r"\S+, in the mesh since .* UTC; istio-hostagent \S+ .*", seen["host"][0])
    assert CLUSTER in seen["configuration"][0]
    assert seen["redirection"][0].startswith("proven, packets sent last 2027-01-15 08:00:0")
    assert seen["inbound"] == ["port 8080 to 15006, REDIRECT"]
    assert seen["outbound"] == ["10.96.0.0/12 to 15001"]
    assert seen["identity"] == ["spiffe://cluster.local/ns/default/sa/default"]
    assert seen["proxy"][0].startswith("envoy ready, pid ")
    assert "(mutual TLS)" in seen["encryption"][0] or "encrypted" in seen["encryption"][0]
    assert seen["last event"][0].endswith(": joined the mesh")
    assert "to do" not in seen
    assert names(host) == []


def test_since_when_it_is_in_the_mesh_or_not_is_kept(host: MemoryHost) -> None:
    host.start()
    begun = host.status["since"]
    assert begun == host.status["started"]
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    joined = host.status["since"]
    host.run(300.0)
    assert host.status["since"] == joined
    host.ca = machine.Ca.REFUSING
    host.run(machine.CERTIFICATE_S)
    status = host.status
    assert not status["in_mesh"]
    assert status["since"] > joined
    assert status["started"] == begun


def test_every_cause_has_its_name_and_what_to_do() -> None:
    host = MemoryHost()
    host.start()
    host.settle()
    assert names(host) == ["config-missing"]
    host.programs.clear()
    host.write(CLUSTER, b"ISTIO_SERVICE_CIDR=nonsense\n")
    host.settle()
    assert names(host) == ["config-invalid"]
    host.write(CLUSTER, TEXTS["A"])
    host.until(lambda: "no envoy" in host.summary, 5.0, "the proxy is missing")
    assert "proxy-missing" in names(host)
    assert f"proxy-missing: {HINTS['proxy-missing']}" in rows(host)["to do"]
    host.mend()
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")
    assert names(host) == []


def test_causes_that_leave_a_host_in_the_mesh_are_named_too(host: MemoryHost) -> None:
    host.join()
    host.ca = machine.Ca.REFUSING
    assert not host.answer("renew")["ok"]
    assert host.is_in_mesh
    assert names(host) == ["certificate-refused"]
    host.ca = machine.Ca.GOOD
    assert host.answer("renew")["ok"]
    host.steal("10.96.")
    host.until(lambda: not host.is_in_mesh, 5.0, "packets show it")
    assert names(host) == ["still-drifted"]
    assert rows(host)["last event"][0].endswith("redirection not proven (not-proven)")
    host.steal(None)
    host.until(lambda: host.is_in_mesh, 60.0, "packets show it again")


def test_what_has_happened_last_is_kept_in_order(host: MemoryHost) -> None:
    host.join()
    before = len(host.status["last_events"])
    assert before > 1
    host.run(30.0)
    host.lose_rule()
    host.run(5.0)
    kept = host.status["last_events"]
    assert [each["at"] for each in kept] == sorted(each["at"] for each in kept)
    assert kept[-1]["at"] > kept[0]["at"] + 20
    assert len(kept) == 5
