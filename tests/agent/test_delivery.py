"""Who else gets the certificate after each renewal, and who is told of it."""

from typing import Any

import pytest

from istio_hostagent.cli import report
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CERTS, CLUSTER, HOSTAGENT, OWN_ALONE, TEXTS

PEM, KEYSTORE = "/etc/haproxy/mesh.pem", "/etc/tomcat/mesh.p12"


def make(**keys: str) -> MemoryHost:
    host = MemoryHost()
    own = "".join(f'ISTIO_HOSTAGENT_{key}="{value}"\n' for key, value in keys.items())
    host.write(HOSTAGENT, OWN_ALONE + own.encode())
    host.write(CLUSTER, TEXTS["A"])
    return host


def serial(host: MemoryHost) -> str:
    return str(host.status["certificate"]["serial"])


def hook(host: MemoryHost) -> dict[str, Any]:
    found = host.status["renew_hook"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def host() -> MemoryHost:
    return make(OUTPUTS=f"pem:{PEM} pkcs12:{KEYSTORE}", RENEW_HOOK="/bin/tell 'a b'")


def test_outputs_are_written_with_each_renewal_and_then_the_hook_runs(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    assert host.outputs == {PEM: serial(host), KEYSTORE: serial(host)}
    [call] = host.told
    assert call[-2:] == ("/bin/tell", "a b")
    assert f"ISTIO_HOSTAGENT_CERTS={CERTS}" in call
    assert f"ISTIO_HOSTAGENT_SERIAL={serial(host)}" in call
    before = serial(host)
    assert host.answer("renew")["ok"]
    host.run(5.0)
    assert serial(host) != before
    assert host.outputs == {PEM: serial(host), KEYSTORE: serial(host)}
    assert len(host.told) == 2
    assert (host.status["outputs"]["state"], hook(host)["state"]) == ("written", "done")


def test_a_restart_tells_nothing_anew_and_a_renewal_before_a_crash_is_told_after_it(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(5.0)
    host.kill()
    host.start()
    host.run(20.0)
    assert host.is_in_mesh
    assert len(host.told) == 1
    host.hook = machine.Hook.HANGING
    assert host.answer("renew")["ok"]
    host.until(lambda: len(host.told) == 2, 5.0, "the hook has begun")
    host.kill()
    host.hook = machine.Hook.GOOD
    host.start()
    host.run(20.0)
    assert f"ISTIO_HOSTAGENT_SERIAL={serial(host)}" in host.told[-1]
    assert len(host.told) == 3


def test_a_hook_that_hangs_is_ended_after_its_time_and_keeps_nothing_waiting(
    host: MemoryHost,
) -> None:
    host.hook = machine.Hook.HANGING
    host.join()
    host.run(5.0)
    assert hook(host)["state"] == "running"
    assert host.answer("renew")["ok"]
    host.run(70.0)
    assert host.is_in_mesh
    told = hook(host)
    assert (told["state"], told["failures"]) == ("failed", 1)
    assert "/bin/tell did not end in time" in told["last_error"]
    assert "renewal hook" in report.render(host.status)


def test_a_hook_that_fails_says_why_and_is_tried_again_ever_more_seldom(host: MemoryHost) -> None:
    host.hook = machine.Hook.FAILING
    host.join()
    host.run(1500.0)  # the next renewal comes later
    told = hook(host)
    assert told["state"] == "failed"
    assert "no such luck" in told["last_error"]
    assert len(host.told) == 5
    assert host.is_in_mesh
    assert "no such luck" not in host.summary  # the mesh does not suffer from it
    host.hook = machine.Hook.GOOD
    host.until(lambda: hook(host)["state"] == "done", 3700.0, "done")
    assert hook(host)["last_error"] == ""


def test_an_output_that_cannot_be_written_is_named_and_tried_again(host: MemoryHost) -> None:
    host.unwritable.add(PEM)
    host.join()
    host.run(5.0)
    told = host.status["outputs"]
    assert told["state"] == "failed"
    assert [each["last_error"] for each in told["files"]] == [f"{PEM} shut", ""]
    assert f"{PEM} shut" in report.render(host.status)
    assert host.outputs == {KEYSTORE: serial(host)}
    assert len(host.told) == 1
    host.unwritable.clear()
    host.until(lambda: host.status["outputs"]["state"] == "written", 40.0, "written")
    host.run(5.0)
    assert host.outputs[PEM] == serial(host)
    assert len(host.told) == 2  # whoever reads it is told that it is there


def test_what_became_of_other_outputs_is_not_said_of_those_that_are_wanted_now(
    host: MemoryHost,
) -> None:
    host.unwritable.add(PEM)
    host.join()
    host.ca = machine.Ca.REFUSING
    host.run(machine.CERTIFICATE_S + 100.0)  # until there is nothing to write
    assert [each["last_error"] for each in host.status["outputs"]["files"]] == [f"{PEM} shut", ""]
    keys = f'ISTIO_HOSTAGENT_OUTPUTS="pkcs12:{KEYSTORE} pem:/etc/other.pem"\n'
    host.write(HOSTAGENT, OWN_ALONE + keys.encode())

    def told() -> list[tuple[str, str]]:
        return [(each["path"], each["last_error"]) for each in host.status["outputs"]["files"]]

    host.until(lambda: len(told()) == 2 and told()[0][0] == KEYSTORE, 30.0, "the new outputs")
    assert told() == [(KEYSTORE, ""), ("/etc/other.pem", "")]
    assert host.status["outputs"]["state"] == "pending"


def test_what_has_failed_is_not_tried_while_there_is_nothing_to_hand_on(host: MemoryHost) -> None:
    host.unwritable.add(PEM)
    host.hook = machine.Hook.FAILING
    host.join()
    host.ca = machine.Ca.REFUSING
    host.run(machine.CERTIFICATE_S + 100.0)
    assert host.status["certificate"]["state"] == "expired"
    calls, turns = len(host.told), host.wakeups
    host.run(1000.0)
    assert len(host.told) == calls
    assert host.wakeups - turns < 300
    host.unwritable.clear()
    host.hook = machine.Hook.GOOD
    host.ca = machine.Ca.GOOD
    host.until(lambda: hook(host)["state"] == "done", 700.0, "done")
    assert host.outputs[PEM] == serial(host)


def test_another_hook_and_an_operators_reload_mend_at_once_what_has_failed() -> None:
    host = make(RENEW_HOOK="/bin/tell")
    host.hook = machine.Hook.FAILING
    host.join()
    host.run(200.0)
    calls = len(host.told)
    assert host.answer("reload")["ok"]
    host.run(2.0)
    assert len(host.told) == calls + 1
    host.hook = machine.Hook.GOOD
    host.write(HOSTAGENT, OWN_ALONE + b"ISTIO_HOSTAGENT_RENEW_HOOK=/bin/other\n")
    host.until(lambda: host.told[-1][-1] == "/bin/other", 30.0, "the other hook")
    host.until(lambda: hook(host)["state"] == "done", 30.0, "done")


def test_reload_looks_whether_the_outputs_are_still_there(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    del host.outputs[PEM]
    assert host.answer("reload")["ok"]
    host.run(5.0)
    assert host.outputs[PEM] == serial(host)


def test_units_are_reloaded_by_root_and_one_that_does_not_run_is_left_alone() -> None:
    host = make(RENEW_HOOK="unit:nginx.service unit:haproxy.service")
    host.join()
    host.run(5.0)
    calls = [call[1:] for call in host.told]
    assert calls == [("reload", "--", "nginx.service"), ("reload", "--", "haproxy.service")]
    host.hook = machine.Hook.ASLEEP
    assert host.answer("renew")["ok"]
    host.run(5.0)
    assert hook(host)["state"] == "done"
    host.hook = machine.Hook.FAILING
    assert host.answer("renew")["ok"]
    host.run(5.0)
    assert "systemctl reload nginx.service" in hook(host)["last_error"]


def test_what_was_added_to_the_configuration_gets_what_is_held() -> None:
    host = make()
    host.join()
    host.run(5.0)
    assert (host.outputs, host.told) == ({}, [])
    assert (host.status["outputs"]["state"], hook(host)["state"]) == ("none", "none")
    keys = f"ISTIO_HOSTAGENT_OUTPUTS=pem:{PEM}\nISTIO_HOSTAGENT_RENEW_HOOK=/bin/tell\n"
    host.write(HOSTAGENT, OWN_ALONE + keys.encode())
    host.until(lambda: bool(host.told), 30.0, "the hook")
    assert host.outputs == {PEM: serial(host)}


def test_an_output_that_is_named_no_more_goes_once_what_is_in_force_has_worked(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(5.0)
    host.write(HOSTAGENT, OWN_ALONE + f"ISTIO_HOSTAGENT_OUTPUTS=pem:{PEM}\n".encode())
    host.run(60.0)
    assert host.outputs == {PEM: serial(host)}
    host.write(HOSTAGENT, OWN_ALONE)
    host.run(60.0)
    assert host.outputs == {}


def test_an_output_is_removed_at_a_start_if_it_was_named_before_it(host: MemoryHost) -> None:
    host.join()
    host.run(5.0)
    host.kill()
    host.write(HOSTAGENT, OWN_ALONE)
    host.start()
    host.run(60.0)
    assert host.outputs == {}


@pytest.mark.parametrize("is_asked", [False, True], ids=["by itself", "reload"])
def test_an_output_that_could_not_be_removed_is_named_and_tried_again(
    host: MemoryHost, *, is_asked: bool
) -> None:
    """Its key lies there, and a passing failure may have kept it."""
    host.join()
    host.run(5.0)
    host.unwritable = {PEM}
    host.write(HOSTAGENT, OWN_ALONE)
    host.run(60.0)
    assert host.outputs.keys() == {PEM}
    assert host.status["outputs"]["state"] == "failed"
    assert f"{PEM} stays" in report.render(host.status)
    host.run(600.0)
    assert sum("not removed" in line for line in host.log.lines) == 1
    host.unwritable = set()
    if is_asked:
        host.ask("reload")
    host.until(lambda: host.outputs == {}, 5.0 if is_asked else 3600.0, "it is removed")
    assert host.status["outputs"]["state"] == "none"


def test_where_no_systemctl_can_be_started_the_hook_has_failed() -> None:
    host = make(RENEW_HOOK="unit:nginx.service")
    host.unstartable = {"/usr/bin/systemctl"}
    host.join()
    host.run(5.0)
    assert hook(host)["state"] == "failed"
    assert "/usr/bin/systemctl" in hook(host)["last_error"]
    host.unstartable = set()
    host.until(lambda: hook(host)["state"] == "done", 600.0, "it is told")
