"""Single lives of a host in memory, most of them found by `test_whole`: what went wrong there."""

import pytest

from istio_hostagent.redirect import takeover
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CERTS, CLUSTER, ENVOY, TEXTS


def test_a_host_that_leaves_right_after_its_disk_was_full_leaves_no_mark(host: MemoryHost) -> None:
    host.join()
    host.disk.is_full = True
    host.write(CLUSTER, TEXTS["rules"])
    host.until(lambda: "cannot change" in host.summary, 60.0, "the disk is full")
    host.disk.is_full = False
    host.stop()
    assert not host.has_rules
    assert [name for name in ("joined", "joining", "guard.nft") if host.has(name)] == []


def test_another_proxy_is_tried_where_the_one_before_refused_its_bootstrap(
    host: MemoryHost,
) -> None:
    host.proxy = machine.Proxy.REFUSING
    host.start()
    host.until(lambda: "do not like it" in host.summary, 30.0, "what is wrong")
    host.run(60.0)
    host.proxy = machine.Proxy.GOOD
    host.install(ENVOY)
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_a_proxy_that_is_replaced_while_it_validates_is_asked_again(host: MemoryHost) -> None:
    host.proxy = machine.Proxy.REFUSING
    host.start()
    host.until(lambda: "do not like it" in host.summary, 30.0, "what is wrong")
    host.run(60.0)
    host.ask("reload")
    # The check of the old program is under way now, and says no in a moment.
    host.proxy = machine.Proxy.GOOD
    host.install(ENVOY)
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_files_that_change_while_what_they_said_before_is_validated(host: MemoryHost) -> None:
    host.join()
    host.write(CLUSTER, TEXTS["B"])
    host.settle()
    assert "is being tried" in host.summary
    host.write(CLUSTER, TEXTS["proxy"])
    # What becomes of the validation of B wakes nobody, over and over (`host.MOST_TURNS`).
    host.until(lambda: "proxy" in host.proxies_of and host.is_in_mesh, 60.0, "what they say now")


def test_a_host_in_the_mesh_wakes_up_at_most_twelve_times_a_minute(host: MemoryHost) -> None:
    host.join()
    host.run(120.0)
    before = host.wakeups
    host.run(600.0)
    assert 0 < host.wakeups - before <= 120


def test_a_store_of_certificates_that_somebody_removed_keeps_nobody_waiting(
    host: MemoryHost,
) -> None:
    host.join()
    host.stores.clear()
    host.write(CLUSTER, TEXTS["rules"])
    assert host.answer("reload")["ok"]
    assert "rules" in host.rules_of


def test_a_service_manager_that_is_away_keeps_the_host_out_until_it_is_back() -> None:
    host = MemoryHost(is_owner=True)
    host.write(CLUSTER, TEXTS["A"])
    host.start()
    host.notifier.is_away = True
    host.until(lambda: "did not take" in host.summary, 30.0, "what is wrong")
    assert not host.has("joined")
    host.notifier.is_away = False
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_ready_is_said_in_time_while_a_ca_is_silent(host: MemoryHost) -> None:
    host.ca = machine.Ca.SILENT
    host.start()
    host.run(14.5)
    assert "READY" not in host.notifier.said
    host.run(1.0)
    assert host.notifier.said["READY"] == "1"
    host.until(lambda: "authority-unavailable" in host.summary, 10.0, "what it waits for")


def test_a_file_that_could_not_be_read_for_a_while_is_read_again_by_itself(
    host: MemoryHost,
) -> None:
    host.unreadable.add(CLUSTER)
    host.start()
    host.until(lambda: "cannot be read" in host.summary, 30.0, "what is wrong")
    host.run(100.0)
    # No change of the file tells that.
    host.unreadable.clear()
    host.until(lambda: host.is_in_mesh, 120.0, "in the mesh")


def test_files_that_others_can_change_are_read_by_a_worker_that_may_fail_for_a_while(
    host: MemoryHost,
) -> None:
    host.foreign.add(CLUSTER)
    host.reader = machine.Reader.CRASHING
    host.start()
    host.until(lambda: "cannot be read" in host.summary, 30.0, "what is wrong")
    host.reader = machine.Reader.GOOD
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")
    host.reader = machine.Reader.HANGING
    host.write(CLUSTER, TEXTS["rules"])
    host.until(lambda: "cannot be read" in host.summary, 30.0, "what is wrong")
    assert host.is_in_mesh
    assert "A" in host.rules_of
    host.reader = machine.Reader.GOOD
    host.until(lambda: "rules" in host.rules_of and host.is_in_mesh, 120.0, "what they say now")


def test_a_copied_disk_joins_with_a_certificate_of_its_own_and_says_so_until_then(
    host: MemoryHost,
) -> None:
    host.join()
    host.stop()
    (template,) = host.certificates[CERTS]
    template.is_copied = True
    host.ca = machine.Ca.REFUSING
    host.start()
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh with what came with the disk")
    told = host.status["certificate"]
    assert told["serial"] == template.serial
    assert "told certificate-refused" in told["last_error"]
    assert "by another machine" in told["last_error"]
    host.ca = machine.Ca.GOOD
    host.until(lambda: host.certificates[CERTS][-1] is not template, 400.0, "one of its own")
    assert host.status["certificate"]["last_error"] == ""


def test_rules_that_a_worker_puts_in_are_waited_for_and_proven_before_the_proxy_starts(
    host: MemoryHost,
) -> None:
    host.rules = machine.Rules.LATE
    host.start()
    host.until(lambda: host.has_rules, 30.0, "the rules")
    assert not host.running
    assert "not in the mesh" in host.summary
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    host.flush()
    host.settle()
    host.until(lambda: host.has_rules and host.is_in_mesh, 30.0, "put back and proven")
    host.write(CLUSTER, TEXTS["rules"])
    host.until(lambda: host.accepted == "rules", 60.0, "another configuration")
    host.stop()
    assert not host.has_rules
    assert not host.has("joined")


def test_rules_that_never_come_are_given_up_named_and_tried_again(host: MemoryHost) -> None:
    host.rules = machine.Rules.HANGING
    host.start()
    host.until(lambda: "gave no answer in time" in host.summary, 30.0, "what is wrong")
    assert not host.running
    host.rules = machine.Rules.TAKEN
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_a_look_at_the_rules_that_never_ends_takes_in_the_mesh_back(host: MemoryHost) -> None:
    host.join()
    host.rules = machine.Rules.HANGING
    host.flush()
    host.until(lambda: "gave no answer in time" in host.summary, 30.0, "what is wrong")
    assert not host.is_in_mesh
    host.rules = machine.Rules.LATE
    host.until(lambda: host.has_rules and host.is_in_mesh, 60.0, "in the mesh")


def test_what_others_do_to_the_rules_while_they_are_put_in_is_put_right(host: MemoryHost) -> None:
    host.join()
    host.rules = machine.Rules.LATE
    host.write(CLUSTER, TEXTS["rules"])
    host.until(lambda: "rules" in host.rules_of, 30.0, "the rules, not said yet")
    host.flush()
    host.run(0.1)
    assert not host.has_rules
    host.until(lambda: "rules" in host.rules_of and host.is_in_mesh, 30.0, "put back")


def test_files_that_change_while_rules_are_put_in_get_rules_of_their_own(host: MemoryHost) -> None:
    host.join()
    host.rules = machine.Rules.LATE
    host.write(CLUSTER, TEXTS["rules"])
    host.run(0.5)
    host.write(CLUSTER, TEXTS["all"])
    host.until(lambda: host.accepted == "all" and host.is_in_mesh, 90.0, "what they say now")
    assert "all" in host.rules_of


def test_a_refusal_that_comes_late_ends_the_attempt_to_join(host: MemoryHost) -> None:
    host.rules = machine.Rules.LATE_REFUSED
    host.start()
    host.until(lambda: "the kernel refuses" in host.summary, 30.0, "what is wrong")
    host.rules = machine.Rules.LATE
    host.until(lambda: host.is_in_mesh, 90.0, "in the mesh")


def test_two_who_ask_for_the_rules_at_once_are_both_answered(host: MemoryHost) -> None:
    host.join()
    host.rules = machine.Rules.LATE
    callers = [host.ask("apply"), host.ask("apply")]
    host.until(lambda: not any(each.is_open for each in callers), 30.0, "both answers")
    assert [each.answers[0]["ok"] for each in callers] == [True, True]
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")


@pytest.mark.parametrize("rules", [machine.Rules.HANGING, machine.Rules.LATE_REFUSED])
def test_a_host_whose_rules_do_not_go_out_ends_in_time_and_leaves_their_mark(
    host: MemoryHost, rules: machine.Rules
) -> None:
    host.join()
    host.rules = rules
    host.stop()  # within what the service manager waits
    assert host.has_rules
    assert host.has("joining")
    host.rules = machine.Rules.TAKEN
    host.remove(CLUSTER)
    host.start()
    host.until(lambda: not host.has_rules, 30.0, "taken out by the next start")


def test_legacy_rules_that_come_before_ours_are_noticed_although_nobody_tells(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(120.0)
    host.thief = "10."
    host.run(120.0)
    assert host.is_in_mesh  # nothing tells of it yet
    host.legacy_rules = ("nat",)
    host.until(lambda: not host.is_in_mesh, 90.0, "the proof is broken")
    host.thief = None
    host.legacy_rules = ()
    host.until(lambda: host.is_in_mesh, 90.0, "in the mesh again")


PARTS = tuple(takeover.Part)


@pytest.mark.parametrize("part", PARTS)
def test_what_istios_scripts_have_left_goes_once_ours_are_in(
    host: MemoryHost, part: takeover.Part
) -> None:
    host.run_istio(part)
    host.join()
    assert not host.left_by_istio
    # Its worker takes out nothing while ours are not there.
    assert not [line for line in host.log.lines if "not taken over" in line]
    said = ["23 rules of istio-iptables in iptables-legacy"]
    assert host.status["redirection"]["taken_over"] == said


def test_what_istios_scripts_write_later_goes_within_a_minute(host: MemoryHost) -> None:
    host.join()
    host.run(120.0)
    host.run_istio(takeover.Part.LEGACY_V4)
    host.until(lambda: not host.left_by_istio, 61.0, "taken out")
    assert host.is_in_mesh


@pytest.mark.parametrize("kind", [each for each in machine.Takeover if each.value != "good"])
def test_what_cannot_be_taken_out_is_named_and_tried_again(
    host: MemoryHost, kind: machine.Takeover
) -> None:
    """Packets show that ours hold all the same, so that is no reason to stay out."""
    host.takeover = kind
    host.run_istio(takeover.Part.LEGACY_V4)
    host.join()
    assert host.left_by_istio
    said = host.status["redirection"]["left_by_istio"]
    assert said in host.summary
    expected = {
        machine.Takeover.LOCKED: "could not be taken out (another program holds the lock",
        machine.Takeover.CRASHING: "is not known: worker takeover was ended by SIGSEGV",
        machine.Takeover.HANGING: "is not known: worker takeover did not end in time",
    }
    assert expected[kind] in said
    host.takeover = machine.Takeover.GOOD
    host.until(lambda: not host.left_by_istio, 120.0, "taken out")
    host.until(lambda: not host.status["redirection"]["left_by_istio"], 1.0, "and said")


def test_plan_says_if_it_is_not_known_what_is_to_be_taken_over(host: MemoryHost) -> None:
    host.join()
    assert host.answer("plan")["warnings"] == []
    host.takeover = machine.Takeover.CRASHING
    host.run_istio(takeover.Part.LEGACY_V4)
    (said,) = host.answer("plan")["warnings"]
    assert said.startswith("what Istio's scripts may have left is not known: worker takeover was")


def test_apply_says_what_it_took_over_and_fails_where_it_could_not(host: MemoryHost) -> None:
    host.join()
    host.run_istio(takeover.Part.LEGACY_V4)
    line = "-23 rules of istio-iptables in iptables-legacy"
    planned = host.answer("plan")
    assert (planned["lines"][-1], planned["taken_over"]) == (line, [line[1:]])
    host.takeover = machine.Takeover.LOCKED
    refused = host.answer("apply")
    assert (refused["code"], refused["exit_status"]) == ("not-taken-over", 75)
    host.run(1.0)  # the proof behind it tries as well
    host.takeover = machine.Takeover.GOOD
    assert host.answer("apply")["lines"] == [line]


@pytest.mark.parametrize(
    "names",
    [("joined",), ("guard.nft",), ("accepted.json",), ("joined", "guard.nft", "accepted.json")],
)
def test_marks_that_somebody_removes_are_there_again_within_a_minute(
    host: MemoryHost, names: tuple[str, ...]
) -> None:
    host.join()
    host.run(100.0)
    before = {name: host.disk.files[f"/state/{name}"] for name in ("guard.nft", "accepted.json")}
    host.lose_marks(*names)
    host.run(61.0)
    assert host.has("joined")
    assert {name: host.disk.files[f"/state/{name}"] for name in before} == before
    assert host.is_in_mesh
    assert [line for line in host.log.lines if "removed files from the state directory" in line]
    host.boot()
    host.start()
    assert host.has_rules, "a boot begins closed"


def test_marks_that_cannot_be_written_again_are_tried_until_they_are_there(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(100.0)
    host.disk.is_full = True
    host.lose_marks("guard.nft")
    host.run(120.0)
    assert not host.has("guard.nft")
    assert "guard.nft" in host.summary
    host.disk.is_full = False
    host.until(lambda: host.has("guard.nft"), 10.0, "written again")


def test_a_mark_that_somebody_puts_back_is_not_called_removed_once_more(host: MemoryHost) -> None:
    host.join()
    host.run(100.0)
    host.disk.is_full = True
    host.lose_marks("joined")
    host.run(120.0)
    host.disk.files["/state/joined"] = b"by hand\n"
    host.run(120.0)
    said = [line for line in host.log.lines if "removed files from the state directory" in line]
    assert len(said) == 1


@pytest.mark.parametrize("lives_asleep", [0.6, 3.0])
def test_a_host_that_has_slept_renews_at_once(host: MemoryHost, lives_asleep: float) -> None:
    """Timers stand still while a machine is suspended; its certificate does not."""
    host.join()
    serial = host.status["certificate"]["serial"]
    host.clock.set_wall(lives_asleep * machine.CERTIFICATE_S)
    host.until(lambda: host.status["certificate"]["serial"] != serial, 60.0, "another one")
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
