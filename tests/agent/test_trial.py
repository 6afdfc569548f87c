"""A changed configuration on a host that works: what happens until it has worked, and if not.

What only a real Envoy, kernel or CA can show of it is in tests/netns/test_trial.py.
"""

import signal

from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import BAD, CLUSTER, ENVOY, HOSTAGENT, PILOT_AGENT, TEXTS, TOKEN


def test_what_comes_with_a_refused_bootstrap_touches_neither_rules_nor_proxy(
    host: MemoryHost,
) -> None:
    host.join()
    host.proxy, host.is_proxy_picky = machine.Proxy.REFUSING, True
    transactions, proxy = host.space.transactions, host.status["proxy"]
    host.write(CLUSTER, TEXTS["B"])
    for verb in ("apply", "reload"):
        answer = host.answer(verb)
        assert answer["exit_status"] == 78
        assert "do not like it" in answer["message"]
    assert host.is_in_mesh
    assert host.space.transactions == transactions
    assert host.status["proxy"] == proxy
    assert "rejected" in host.summary


def test_what_works_is_repaired_while_something_else_is_validated(host: MemoryHost) -> None:
    host.join()
    host.check_s = 10.0
    host.write(CLUSTER, TEXTS["B"])
    host.settle()
    assert host.is_in_mesh
    assert "being tried" in host.summary
    host.flush()
    host.settle()
    assert "A" in host.rules_of
    host.until(lambda: host.is_in_mesh and "B" in host.rules_of, 30.0, "it has passed")


def test_a_start_with_changed_files_begins_with_the_rules_that_have_worked(
    host: MemoryHost,
) -> None:
    host.join()
    host.kill()
    host.space.flush()
    host.write(CLUSTER, TEXTS["B"])
    host.check_s = 5.0
    host.start()
    host.run(3.0)
    assert "A" in host.rules_of
    host.until(lambda: host.is_in_mesh and "B" in host.rules_of, 30.0, "what the files say now")


def test_a_refused_configuration_stays_so_over_restarts_until_somebody_asks(
    host: MemoryHost,
) -> None:
    host.join()
    host.proxy, host.is_proxy_picky = machine.Proxy.EXITING, True
    host.write(CLUSTER, TEXTS["B"])
    answer = host.answer("reload")
    assert answer["exit_status"] == 78
    assert "cannot go on" in answer["message"]
    host.until(lambda: host.is_in_mesh and "A" in host.proxies_of, 60.0, "the one before serves")
    for _ in range(2):
        host.kill()
        host.join()
        host.write(TOKEN, b"another")
        host.run(60.0)
        assert host.status["proxy"]["starts"] == 1
        assert "rejected" in host.summary
        assert host.accepted == "A"
    host.proxy = machine.Proxy.GOOD
    assert host.answer("reload")["ok"]
    assert "B" in host.proxies_of
    assert host.status["configuration"]["problems"] == []


def test_a_proxy_that_is_not_there_is_refused_where_one_serves(host: MemoryHost) -> None:
    host.join()
    host.write(HOSTAGENT, host.disk.files[HOSTAGENT] + b"ISTIO_HOSTAGENT_ENVOY=/none/envoy\n")
    host.write(CLUSTER, TEXTS["B"])
    answer = host.answer("reload")
    assert answer["exit_status"] == 78
    assert "/none/envoy" in answer["message"]
    assert host.is_in_mesh
    assert "A" in host.rules_of


def test_a_proxy_that_fails_can_be_corrected(host: MemoryHost) -> None:
    host.write(CLUSTER, TEXTS["B"])
    host.join()
    host.proxy, host.is_proxy_picky = machine.Proxy.EXITING, True
    for child, _, _ in host.running:
        child.finish(-signal.SIGKILL)
    host.until(lambda: host.status["proxy"]["starts"] > 3, 60.0, "it ends again and again")
    host.write(CLUSTER, TEXTS["A"])
    assert host.answer("reload")["ok"]
    assert host.is_in_mesh


def test_a_broken_proxy_does_not_keep_the_operator_from_capturing_less(host: MemoryHost) -> None:
    host.join()
    host.kill()
    host.programs.clear()
    host.start()
    host.until(lambda: "no envoy found" in host.summary, 30.0, "what is wrong")
    host.write(CLUSTER, TEXTS["rules"])
    answer = host.answer("reload")
    assert answer["exit_status"] == 75, "taken, and the host is not whole"
    assert "rules" in host.rules_of


def test_an_error_of_the_rules_before_is_not_one_of_the_new_ones(host: MemoryHost) -> None:
    host.join()
    host.steal("10.96.")
    host.until(lambda: "10.96" in host.status["redirection"]["last_error"], 30.0, "noticed")
    host.write(CLUSTER, TEXTS["B"])
    assert host.answer("reload")["ok"]
    assert host.is_in_mesh


def test_a_proxy_is_not_replaced_for_rules_that_do_not_hold(host: MemoryHost) -> None:
    host.join()
    proxy = host.status["proxy"]
    host.steal("10.99.")
    host.write(CLUSTER, TEXTS["B"])
    assert host.answer("reload")["exit_status"] == 78
    host.until(lambda: host.is_in_mesh and "A" in host.rules_of, 60.0, "the one before works")
    assert host.status["proxy"] == proxy


def test_what_serves_goes_on_while_a_silent_ca_is_asked_for_another_identity(
    host: MemoryHost,
) -> None:
    host.join()
    transactions, proxy = host.space.transactions, host.status["proxy"]
    host.ca = machine.Ca.SILENT
    host.write(CLUSTER, TEXTS["B"])
    host.until(lambda: host.status["configuration"]["state"] == "trial", 30.0, "tried")
    host.until(lambda: "rejected" in host.summary, 70.0, "given up")
    host.until(lambda: host.is_in_mesh, 30.0, "the one before works")
    assert host.space.transactions == transactions
    assert host.status["proxy"] == proxy
    # What a CA kept out by being away is tried again by itself.
    host.ca = machine.Ca.GOOD
    host.until(lambda: host.accepted == "B" and host.is_in_mesh, 600.0, "tried again")


def test_a_new_port_of_sshd_puts_no_half_of_a_trial_into_force(host: MemoryHost) -> None:
    host.write(CLUSTER, TEXTS["all"])
    host.join()
    proxy = host.status["proxy"]
    host.ca = machine.Ca.SILENT
    host.write(CLUSTER, TEXTS["B"])
    host.until(lambda: host.status["configuration"]["state"] == "trial", 30.0, "tried")
    before = dict(host.space.tables)
    host.machine.facts = host.machine.facts._replace(ssh_ports=(22, 2222))
    host.answer("reload")
    host.until(lambda: "rejected" in host.summary and host.is_in_mesh, 90.0, "given up")
    assert host.space.tables != before, "the port is left alone"
    assert "all" in host.rules_of
    assert host.status["proxy"] == proxy


def test_a_token_that_comes_after_the_file_that_needs_it_is_in_time(host: MemoryHost) -> None:
    host.join()
    host.ca = machine.Ca.REFUSING
    host.write(CLUSTER, TEXTS["B"])
    host.until(
        lambda: bool(host.status["certificate"]["last_error"]), 20.0, "the old one is no good"
    )
    host.ca = machine.Ca.GOOD
    host.write(TOKEN, b"for B")
    host.until(lambda: host.accepted == "B" and host.is_in_mesh, 25.0, "the new one is taken")


def test_the_identity_of_before_comes_back_without_asking_the_ca(host: MemoryHost) -> None:
    host.join()
    serial = host.status["certificate"]["serial"]
    host.proxy, host.is_proxy_picky = machine.Proxy.EXITING, True
    host.write(CLUSTER, TEXTS["B"])
    host.until(lambda: "B" in host.rules_of, 30.0, "it has its certificate")
    host.ca = machine.Ca.REFUSING
    host.until(lambda: host.is_in_mesh and "A" in host.proxies_of, 60.0, "the one before works")
    assert host.status["certificate"]["serial"] == serial


def test_a_pilot_agent_that_is_installed_does_not_replace_the_envoy_that_serves(
    host: MemoryHost,
) -> None:
    host.write(HOSTAGENT, host.disk.files[HOSTAGENT] + b"ISTIO_HOSTAGENT_PROXY=auto\n")
    host.join()
    host.install(PILOT_AGENT)
    assert host.answer("reload")["ok"]
    host.run(60.0)
    assert host.is_in_mesh
    assert host.status["proxy"]["starts"] == 1
    assert host.status["proxy"]["binary"] == ENVOY


def test_two_changes_at_once_end_with_the_second(host: MemoryHost) -> None:
    host.join()
    host.write(CLUSTER, TEXTS["B"])
    host.write(CLUSTER, TEXTS["proxy"])
    assert host.answer("reload")["ok"]
    assert host.is_in_mesh
    assert "proxy" in host.proxies_of


def test_bad_and_missing_files_leave_what_works(host: MemoryHost) -> None:
    host.join()
    transactions, proxy = host.space.transactions, host.status["proxy"]
    host.write(CLUSTER, BAD)
    host.until(lambda: CLUSTER in host.summary, 2.0, "the mistake is said")
    host.remove(CLUSTER)
    host.until(lambda: "is gone" in host.summary, 2.0, "the loss is said")
    for _ in range(2):
        assert host.is_in_mesh
        assert host.space.transactions == transactions
        assert host.status["proxy"]["state"] == proxy["state"]
        host.kill()
        host.join()


def test_a_validation_that_was_killed_is_no_verdict_on_a_joined_host(host: MemoryHost) -> None:
    host.join()
    host.kill()
    host.proxy = machine.Proxy.UNDECIDED
    host.start()
    host.until(lambda: "SIGKILL" in host.status["proxy"]["last_error"], 30.0, "what happened")
    assert not host.is_in_mesh
    assert host.status["proxy"]["bootstrap"] == "unknown"
    host.proxy = machine.Proxy.GOOD
    host.until(lambda: host.is_in_mesh, 60.0, "tried again by itself")


def test_a_shortage_of_the_machine_is_no_verdict_on_a_bootstrap(host: MemoryHost) -> None:
    host.proxy = machine.Proxy.UNWATCHED
    host.start()
    host.until(lambda: "fs.inotify.max_user_watches" in host.summary, 30.0, "what mends it")
    host.proxy = machine.Proxy.GOOD
    host.until(lambda: host.is_in_mesh, 120.0, "tried again by itself")


def test_a_shortage_of_the_machine_is_no_verdict_on_a_changed_configuration(
    host: MemoryHost,
) -> None:
    host.join()
    host.proxy, host.is_proxy_picky = machine.Proxy.EXITING_UNWATCHED, True
    host.write(CLUSTER, TEXTS["B"])
    answer = host.answer("reload")
    assert answer["exit_status"] == 75
    assert "fs.inotify.max_user_watches" in answer["message"]
    host.until(lambda: host.is_in_mesh and "A" in host.proxies_of, 60.0, "the one before serves")
    host.proxy = machine.Proxy.GOOD
    host.until(lambda: host.accepted == "B" and host.is_in_mesh, 120.0, "tried again by itself")


def test_a_configuration_that_a_full_disk_does_not_take_is_not_blamed_on_the_proxy(
    host: MemoryHost,
) -> None:
    host.join()
    host.disk.is_full = True
    host.write(CLUSTER, TEXTS["rules"])
    answer = host.answer("reload")
    assert answer["exit_status"] == 75
    assert "No space left on device" in answer["message"]
    assert "journalctl" not in answer["message"]
    host.disk.is_full = False
    host.until(
        lambda: host.accepted == "rules" and host.is_in_mesh, 120.0, "tried again by itself"
    )


def test_a_validation_that_was_killed_is_no_verdict_on_a_changed_configuration(
    host: MemoryHost,
) -> None:
    host.join()
    host.proxy = machine.Proxy.UNDECIDED
    host.write(CLUSTER, TEXTS["B"])
    answer = host.answer("reload")
    assert answer["exit_status"] == 75
    assert "SIGKILL" in answer["message"]
    assert host.is_in_mesh
    host.proxy = machine.Proxy.GOOD
    host.until(lambda: host.accepted == "B" and host.is_in_mesh, 120.0, "tried again by itself")
    assert host.status["configuration"]["problems"] == []
