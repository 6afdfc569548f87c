"""Units that are left alone on a host in memory: they start and stop while the agent runs."""

import logging

import pytest

from istio_hostagent.agent import events
from istio_hostagent.config import model as config
from istio_hostagent.redirect import model
from tests.agent.host import MemoryHost
from tests.agent.machine import Rules
from tests.agent.texts import GROUP, HOSTAGENT, OWN, UNIT
from tests.fakes.caller import FakeCaller


@pytest.fixture
def excluding(host: MemoryHost) -> MemoryHost:
    """A host that has joined, and leaves a unit alone that does not run yet."""
    host.join()
    return host


def exclude(host: MemoryHost, *units: str) -> None:
    """Let the files name these units instead of the one."""
    host.write(HOSTAGENT, OWN.replace(UNIT.encode(), ",".join(units).encode()))


def number(host: MemoryHost) -> int:
    """The group that the unit has now."""
    (found,) = host.groups.follow(config.Units((UNIT,)))
    return found.number


def test_a_unit_is_left_alone_as_soon_as_it_runs_and_after_each_start(
    excluding: MemoryHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "istio_hostagent")
    begun = len(excluding.log.lines)
    assert excluding.status["redirection"]["excluded_units"] == {UNIT: ""}
    for _ in range(3):
        excluding.groups.start(GROUP)
        excluding.run(0.05)
        assert excluding.left_alone() == {number(excluding)}
        assert excluding.left_alone(model.GUARD_TABLE, "ISTIO_GUARD") == {number(excluding)}
        assert excluding.status["redirection"]["excluded_units"] == {UNIT: GROUP}
        excluding.run(1.0)
        excluding.groups.stop(GROUP)
        excluding.run(0.05)
        assert excluding.left_alone() == set()
        excluding.run(1.0)
    assert excluding.is_in_mesh
    said = excluding.log.lines[begun:]
    words = ("degraded", "not proven", "redirection proven", "changed by somebody else")
    assert said
    assert not [line for line in said if any(each in line for each in words)], said
    assert len(excluding.running) == 1, "no proxy was started for it"


@pytest.mark.parametrize("has_ended", [False, True])
def test_verify_takes_no_unit_that_starts_meanwhile_for_a_difference(
    excluding: MemoryHost, *, has_ended: bool
) -> None:
    caller = FakeCaller("verify")
    excluding.inbox.post(events.Asked(caller))
    excluding.run(0.02)
    assert caller.is_open, "its worker is at work"
    excluding.groups.start(GROUP)
    excluding.run(0.015)
    if has_ended:
        # When the answer comes all is as it was when it was asked for.
        excluding.groups.stop(GROUP)
    excluding.until(lambda: not caller.is_open, 60.0, "the answer")
    assert caller.answers[0]["verification"]["in_place"], caller.answers


def test_verify_waits_for_rules_that_are_changing(excluding: MemoryHost) -> None:
    excluding.rules = Rules.LATE
    excluding.groups.start(GROUP)
    excluding.run(0.1)
    assert not excluding.left_alone()
    assert excluding.answer("verify")["verification"]["in_place"]
    assert excluding.left_alone() == {number(excluding)}


def test_a_plan_knows_the_units_of_files_that_are_not_in_force_yet(host: MemoryHost) -> None:
    exclude(host)
    host.groups.start(GROUP)
    host.join()
    host.watcher.is_deaf = True
    exclude(host, UNIT)
    planned = host.answer("plan")
    assert any("an excluded unit" in line for line in planned["lines"]), planned


def test_the_guard_of_early_boot_knows_no_unit(host: MemoryHost) -> None:
    host.groups.start(GROUP)
    host.join()
    assert host.left_alone(model.GUARD_TABLE, "ISTIO_GUARD") == {number(host)}
    path = "/state/guard.nft"
    assert b"cgroup" not in host.disk.files[path]
    assert b"reject" in host.disk.files[path]
    written = host.disk.written[path]
    host.groups.stop(GROUP)
    host.groups.start(GROUP)
    host.run(10.0)
    assert host.disk.written[path] == written, "no write for a unit that starts"


def test_a_unit_that_starts_again_and_again_does_not_keep_the_agent_busy(
    excluding: MemoryHost,
) -> None:
    excluding.run(1.0)
    before = excluding.space.transactions
    for _ in range(100):
        excluding.groups.start(GROUP)
        excluding.run(0.01)
        excluding.groups.stop(GROUP)
        excluding.run(0.01)
    assert excluding.space.transactions - before <= 20, "in 2 s"
    excluding.groups.start(GROUP)
    excluding.run(1.1)
    assert excluding.left_alone() == {number(excluding)}
    assert excluding.is_in_mesh


def test_where_nobody_tells_of_a_start_it_is_found_soon(excluding: MemoryHost) -> None:
    excluding.groups.last_error = "no inotify instance"
    excluding.run(60.0)
    excluding.groups.start(GROUP)
    excluding.until(lambda: bool(excluding.left_alone()), 5.5, "left alone")


def test_an_agent_that_comes_back_finds_what_has_started_meanwhile(excluding: MemoryHost) -> None:
    excluding.groups.start(GROUP)
    excluding.run(1.0)
    excluding.kill()
    excluding.groups.stop(GROUP)
    excluding.groups.start(GROUP)
    excluding.start()
    excluding.until(lambda: excluding.is_in_mesh, 30.0, "in the mesh")
    assert excluding.left_alone() == {number(excluding)}


def test_a_unit_that_files_name_later_is_left_alone_at_once(host: MemoryHost) -> None:
    exclude(host)
    host.groups.start(GROUP)
    host.join()
    assert host.left_alone() == set()
    exclude(host, UNIT)
    host.until(lambda: host.left_alone() == {number(host)}, 30.0, "left alone")
    exclude(host)
    host.until(lambda: not host.left_alone(), 30.0, "captured again")
    host.groups.stop(GROUP)
    host.groups.start(GROUP)
    host.run(1.0)
    assert host.left_alone() == set()


def test_an_agent_in_an_excluded_unit_says_what_its_packets_cannot_show(host: MemoryHost) -> None:
    exclude(host, "system.slice")
    host.groups.start("/system.slice")
    host.join()
    assert host.status["redirection"]["state"] == "proven in part"
    why = "sent from system.slice, which is excluded"
    assert any(why in finding for finding in host.status["redirection"]["findings"])


def include(host: MemoryHost, *units: str) -> None:
    """Let the files have these units captured alone."""
    own = OWN.replace(b"ISTIO_HOSTAGENT_EXCLUDE_UNITS", b"ISTIO_HOSTAGENT_INCLUDE_UNITS")
    host.write(HOSTAGENT, own.replace(UNIT.encode(), ",".join(units).encode()))


def test_with_included_units_every_other_is_left_alone_once_it_is_seen(host: MemoryHost) -> None:
    include(host, "app.service")
    agent = host.machine.facts.own_group
    for path in (agent, "/system.slice/ssh.service"):
        host.groups.start(path)
    host.join()
    assert host.status["redirection"]["included_units"] == {"app.service": ""}
    (ssh,) = host.others_left_alone()
    host.groups.start("/system.slice/app.service")
    host.run(0.1)
    assert host.others_left_alone() == {ssh}, "it is captured from its first packet on"
    assert host.status["redirection"]["included_units"] == {
        "app.service": "/system.slice/app.service"
    }
    host.groups.start("/system.slice/cron.service")
    host.run(0.1)
    assert len(host.others_left_alone()) == 2
    assert host.is_in_mesh
    assert host.status["redirection"]["state"] == "proven"


# -- what the kernel refuses ----------------------------------------------------------------------


def test_a_kernel_that_knows_no_control_groups_leaves_the_rest_as_it_was(
    excluding: MemoryHost, caplog: pytest.LogCaptureFixture
) -> None:
    excluding.space.has_groups = False
    begun = len(excluding.log.lines)
    for _ in range(3):
        excluding.groups.start(GROUP)
        excluding.run(5.0)
        assert excluding.is_in_mesh
        assert excluding.has_rules
        excluding.groups.stop(GROUP)
        excluding.run(5.0)
    excluding.groups.start(GROUP)
    excluding.run(40.0)
    status = excluding.status
    assert status["redirection"]["state"] == "proven"
    assert "units are not left alone: no socket cgroupv2" in status["summary"]
    said = [
        line
        for line in excluding.log.lines[begun:]
        if line.startswith("WARNING units are not left alone")
    ]
    assert len(said) == 1, "not with each start"
    excluding.lose_rule()
    excluding.until(lambda: bool(excluding.rules_of), 1.0, "repaired")
    excluding.until(lambda: excluding.is_in_mesh, 10.0, "in the mesh")


def test_where_units_are_refused_from_the_start_a_host_joins_without_them(
    host: MemoryHost,
) -> None:
    host.space.has_groups = False
    host.groups.start(GROUP)
    host.join()
    assert host.left_alone() == set()
    assert "units are not left alone" in host.status["summary"]
    host.space.has_groups = True
    host.answer("reload")
    host.until(lambda: host.left_alone() == {number(host)}, 5.0, "left alone")
    assert "units are not left alone" not in host.status["summary"]


def test_units_alone_are_not_captured_with_all_others_where_that_is_refused(
    host: MemoryHost,
) -> None:
    include(host, "app.service")
    host.groups.start("/system.slice/ssh.service")
    host.space.has_groups = False
    host.start()
    host.run(30.0)
    assert not host.has_rules
    assert "no socket cgroupv2" in host.status["redirection"]["last_error"]


def test_what_is_refused_of_units_alone_takes_nothing_back(host: MemoryHost) -> None:
    include(host, "app.service")
    host.join()
    host.space.has_groups = False
    host.groups.start("/system.slice/ssh.service")
    host.run(40.0)
    assert host.is_in_mesh
    assert "not all rules are in: no socket cgroupv2" in host.status["summary"]
    assert host.answer("verify")["verification"] is not None
    host.space.has_groups = True
    host.until(lambda: bool(host.others_left_alone()), 31.0, "left alone")
    assert "not all rules are in" not in host.status["summary"]


# -- whose doing it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_changed", [False, True])
def test_rules_for_units_that_are_not_in_yet_are_missing_by_nobodys_doing(
    host: MemoryHost, *, is_changed: bool
) -> None:
    include(host, "app.service")
    host.join()
    host.space.has_groups = False
    host.groups.start("/system.slice/ssh.service")
    host.run(10.0)
    begun = len(host.log.lines)
    if is_changed:
        host.lose_rule()
    else:
        host.tell(is_ours=True)
    host.run(5.0)
    is_told = any("changed by somebody else" in line for line in host.log.lines[begun:])
    assert is_told is is_changed
    status = host.status["redirection"]
    assert status["looks"]
    assert status["repaired"] == int(is_changed)
    assert (status["state"] == "proven") is not is_changed


def test_packets_follow_units_that_start_all_the_time_ever_more_seldom(
    excluding: MemoryHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    excluding.run(60.0)
    rounds: list[float] = []
    send = excluding.on_outcomes

    def note(made: object, outcomes: object) -> None:
        rounds.append(excluding.clock.monotonic())
        send(made, outcomes)  # type: ignore[arg-type]

    monkeypatch.setattr(excluding, "on_outcomes", note)
    for _ in range(300):
        excluding.groups.start(GROUP)
        excluding.run(0.5)
        excluding.groups.stop(GROUP)
        excluding.run(0.5)
    assert 1 <= len(rounds) <= 4, "in five minutes"
    before = len(rounds)
    excluding.groups.start(GROUP)
    excluding.run(35.0)
    assert len(rounds) > before, "the last one is followed, too"
    # The guard is put back, and nobody knows what else was changed with it.
    before = len(rounds)
    excluding.lose_guard()
    excluding.run(0.15)
    assert len(rounds) > before
