"""What everybody may see of a host: fresh, without secrets, and what plugins make of it."""

import json

import pytest

from istio_hostagent.cli import check, report
from istio_hostagent.errors import WrongUsage
from istio_hostagent.host import published
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, OWN

Level = check.Level


def ask(host: MemoryHost, *words: str) -> tuple[check.Level, str]:
    found = published.Found(host.published.state, "" if host.published.state else "no agent")
    return check.judge(found, check.parse(words), host.clock.now())


def test_it_says_what_status_says_without_words_of_others(host: MemoryHost) -> None:
    host.join()
    seen, status = host.published.state, host.status
    assert seen is not None
    for name in ("in_mesh", "joined", "summary", "since", "product", "host"):
        assert seen[name] == status[name]
    assert seen["control_plane"].items() <= status["control_plane"].items()
    assert seen["certificate"].items() <= status["certificate"].items()
    host.kill()
    host.proxy = machine.Proxy.CRASHING
    host.start()
    host.until(lambda: bool((host.published.state or {})["causes"]), 30.0, "it is said")
    seen = host.published.state
    assert seen is not None
    assert [each["code"] for each in seen["causes"]] == ["child-failed"]
    assert all(each.keys() == {"part", "code"} for each in seen["causes"])
    assert "last_error" not in json.dumps(seen)
    assert "to do          child-failed" in report.render_public(seen)


def test_it_is_written_at_once_when_something_changes_and_seldom_otherwise(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(120.0)
    writes = host.published.writes
    host.run(600.0)
    assert 10 <= host.published.writes - writes <= 12
    host.ca = machine.Ca.REFUSING
    assert not host.answer("renew")["ok"]
    assert host.published.state is not None
    assert host.published.state["certificate"]["renewal"] == "failing"


def test_it_ends_with_the_agent_and_outlasts_a_kill(host: MemoryHost) -> None:
    host.join()
    host.kill()
    assert host.published.state is not None  # readers see that its writer is gone
    host.start()
    host.stop()
    assert host.published.state is None


def test_a_full_run_is_said_once_and_tried_again(host: MemoryHost) -> None:
    host.join()
    host.published.is_full = True
    host.run(300.0)
    said = [line for line in host.log.lines if "see nothing of this host" in line]
    assert len(said) == 1
    host.published.is_full = False
    writes = host.published.writes
    host.run(70.0)
    assert host.published.writes > writes
    assert host.is_in_mesh


def test_a_host_in_the_mesh_is_ok_and_one_that_is_not_is_critical(host: MemoryHost) -> None:
    host.start()
    assert ask(host, "in-mesh")[0] is Level.CRITICAL
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    level, line = ask(host, "in-mesh", "cert=1m", "proof=1h", "control-plane")
    assert level is Level.OK
    assert line.startswith("MESH OK - in the mesh as spiffe://")
    assert "\n" not in line
    assert "| in_mesh=1 cert_left=3" in line
    host.stop()
    level, line = ask(host, "in-mesh", "cert")
    assert (level, line) == (Level.CRITICAL, "MESH CRITICAL - no agent")
    assert ask(host, "cert=24h") == (Level.UNKNOWN, "MESH UNKNOWN - no agent")


def test_a_dead_ca_is_a_warning_first_and_critical_once_the_certificate_has_ended(
    host: MemoryHost,
) -> None:
    host.join()
    host.ca = machine.Ca.SILENT
    host.run(machine.CERTIFICATE_S * 0.6)
    assert host.is_in_mesh
    for word in ("in-mesh", "cert"):
        assert ask(host, word)[0] is Level.WARNING, word
    level, line = ask(host, "cert=1h,30m", "in-mesh")
    assert level is Level.CRITICAL
    assert line.startswith("MESH CRITICAL - certificate for 23 min more, renewal fails since")
    host.run(machine.CERTIFICATE_S * 0.6)
    assert ask(host, "in-mesh")[0] is Level.CRITICAL
    level, line = ask(host, "cert=24h")
    assert level is Level.CRITICAL
    assert "the certificate ended" in line


def test_a_certificate_that_ends_between_two_looks_is_not_called_good(host: MemoryHost) -> None:
    host.join()
    found = published.Found(host.published.state, "")
    after = host.clock.now() + machine.CERTIFICATE_S + 1
    for word in ("in-mesh", "cert"):
        assert check.judge(found, check.parse([word]), after)[0] is Level.CRITICAL


def test_how_old_the_last_proof_is(host: MemoryHost) -> None:
    host.join()
    host.run(600.0)
    assert ask(host, "proof=1h")[0] is Level.OK
    level, line = ask(host, "proof=5m")
    assert level is Level.WARNING
    assert "redirection proven 10 min ago" in line
    assert ask(host, "proof=1m,5m")[0] is Level.CRITICAL
    assert host.answer("verify")["ok"]
    assert ask(host, "proof=5m")[0] is Level.OK
    host.steal("10.96.")
    host.until(lambda: not host.is_in_mesh, 5.0, "packets show it")
    assert ask(host, "proof=1h")[0] is Level.CRITICAL


def test_a_clock_that_was_put_back_makes_nothing_good(host: MemoryHost) -> None:
    host.join()
    found = published.Found(host.published.state, "")
    before = host.clock.now() - 3600.0
    level, line = check.judge(found, check.parse(["proof=1h"]), before)
    assert level is Level.WARNING
    assert "the clock was put back" in line
    state = dict(host.published.state or {})
    state["control_plane"] = {"state": "away", "away_since": host.clock.now()}
    found = published.Found(state, "")
    assert check.judge(found, check.parse(["control-plane=10m"]), before)[0] is Level.WARNING


def test_without_a_configuration_nobody_knows_of_a_control_plane(host: MemoryHost) -> None:
    host.write(CLUSTER, b"nonsense")
    host.start()
    host.run(5.0)
    assert ask(host, "control-plane")[0] is Level.UNKNOWN


def test_what_could_not_be_published_leaves_nothing_that_was_good(host: MemoryHost) -> None:
    host.join()
    host.published.is_full = True
    host.steal("10.96.")
    host.until(lambda: not host.is_in_mesh, 5.0, "packets show it")
    assert host.published.state is None
    host.published.is_full = False
    host.until(lambda: host.published.state is not None, 20.0, "written again")


def test_the_control_plane(host: MemoryHost) -> None:
    host.join()
    assert ask(host, "control-plane")[1].endswith("this proxy has no control plane")
    state = dict(host.published.state or {})
    for away_s, words, expected in (
        (20.0, "control-plane", Level.WARNING),
        (20.0, "control-plane=10m", Level.OK),
        (700.0, "control-plane=10m", Level.WARNING),
        (700.0, "control-plane=1m,10m", Level.CRITICAL),
    ):
        since = host.clock.now() - away_s
        state["control_plane"] = {"state": "away", "away_since": since}
        found = published.Found(state, "")
        assert check.judge(found, check.parse([words]), host.clock.now())[0] is expected, words
    state["control_plane"] = {"state": "unknown", "away_since": None}
    found = published.Found(state, "")
    assert check.judge(found, check.parse(["control-plane"]), 0.0)[0] is Level.UNKNOWN


def test_what_is_known_and_bad_comes_before_what_is_not_known(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN)
    host.join()
    host.write(CLUSTER, b"nonsense")
    host.until(lambda: bool(host.published.state and host.published.state["causes"]), 5.0, "said")
    state = dict(host.published.state or {})
    state["control_plane"] = {"state": "unknown", "away_since": None}
    found = published.Found(state, "")
    level, line = check.judge(found, check.parse(["control-plane", "in-mesh"]), host.clock.now())
    assert level is Level.WARNING
    assert line.index(CLUSTER) < line.index("nothing is known of the control plane")


@pytest.mark.parametrize(
    "word", ["", "mesh", "in-mesh=1h", "cert=", "cert=1", "cert=1h,2h,3h", "proof", "proof=soon"]
)
def test_what_cannot_be_checked_is_said(word: str) -> None:
    with pytest.raises(WrongUsage):
        check.parse([word])
