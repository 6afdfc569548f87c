"""What the proxy of a host in memory shows: asked for in time, mended, or said."""

from istio_hostagent.cli import report
from istio_hostagent.lifecycle import serving
from tests.agent.host import MemoryHost
from tests.agent.machine import Loads
from tests.agent.texts import HOSTAGENT, OWN, OWN_AUTO, PILOT_AGENT


def state(host: MemoryHost) -> str:
    return str(host.status["served_certificate"]["state"])


def asked(host: MemoryHost) -> float:
    return float(host.status["served_certificate"]["asked"])


def serials(host: MemoryHost) -> tuple[list[str], str]:
    status = host.status
    return status["served_certificate"]["serials"], status["certificate"]["serial"]


def test_it_is_asked_after_each_start_and_renewal(host: MemoryHost) -> None:
    host.join()
    assert state(host) == "unknown"
    host.until(lambda: state(host) == "held", 3.0, "what it shows after its start")
    assert host.answer("renew")["ok"]
    assert state(host) == "unknown"
    host.until(lambda: state(host) == "held", 3.0, "what it shows after the renewal")
    assert serials(host) == (["2"], "2")


def test_it_is_asked_once_an_hour_without_a_wakeup_but_for_the_answer(host: MemoryHost) -> None:
    host.life_s = 10 * 24 * 3600.0
    host.join()
    host.run(120.0)
    first = asked(host)
    before = host.wakeups
    host.run(600.0)
    ten_minutes = host.wakeups - before
    assert asked(host) == first
    before = host.wakeups
    host.run(6 * 600.0)
    assert serving.AGAIN_S <= asked(host) - first < serving.AGAIN_S + 120.0
    assert host.wakeups - before <= 6 * ten_minutes + 2


def test_one_that_misses_the_renewal_is_told_and_goes_on(host: MemoryHost) -> None:
    host.join()
    starts = host.status["proxy"]["starts"]
    host.loads = Loads.ASKED
    assert host.answer("renew")["ok"]
    host.until(lambda: state(host) == "held", 5.0, "the renewed one")
    assert serials(host) == (["2"], "2")
    assert host.status["proxy"]["starts"] == starts


def test_one_that_shows_the_next_one_before_its_worker_has_ended_is_not_suspected(
    host: MemoryHost,
) -> None:
    host.join()
    host.until(lambda: state(host) == "held", 3.0, "what it shows after its start")
    host.certificate_says_s = 3.0
    caller = host.ask("renew")
    host.ask("reload")
    host.until(lambda: not caller.is_open, 10.0, "it is renewed")
    host.until(lambda: state(host) == "held", 10.0, "what it shows after the renewal")
    assert serials(host) == (["2"], "2")
    assert not any("instead of" in line for line in host.log.lines)


def test_one_that_does_not_listen_is_replaced_once(host: MemoryHost) -> None:
    host.join()
    starts = host.status["proxy"]["starts"]
    host.loads = Loads.NEVER
    assert host.answer("renew")["ok"]
    host.until(lambda: not host.is_in_mesh, 3.0, "it is said")
    assert "shows certificate 1 instead of 2, which is held" in host.summary
    assert state(host) == "other"
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh again")
    assert serials(host) == (["2"], "2")
    host.run(900.0)
    assert host.status["proxy"]["starts"] == starts + 1


def test_one_that_nothing_helps_is_replaced_ever_more_seldom_and_said(host: MemoryHost) -> None:
    host.loads = Loads.NEVER
    host.is_wrong_at_start = True
    host.start()
    host.until(lambda: state(host) == "other", 30.0, "it is seen")
    host.until(lambda: "also after it was replaced" in host.summary, 60.0, "it is said")
    assert host.summary.startswith("degraded: proxy: envoy shows no certificate instead of 1,")
    assert "shows no certificate" in report.render(host.status)
    starts = host.status["proxy"]["starts"]
    host.run(900.0)
    assert 1 <= host.status["proxy"]["starts"] - starts <= 4
    host.is_wrong_at_start = False
    host.until(lambda: host.is_in_mesh, serving.LONGEST_REPLACE_S + 60.0, "in the mesh")


def test_one_that_does_not_say_is_said_to_be_untested_and_left_alone(host: MemoryHost) -> None:
    host.loads = Loads.MUTE
    host.join()
    host.run(900.0)
    assert host.is_in_mesh
    assert host.status["proxy"]["starts"] == 1
    assert state(host) == "unknown"
    assert "it is mute" in report.render(host.status)
    assert "mute" not in host.summary


def test_a_host_whose_proxy_shows_a_wrong_one_leaves_like_any_other(host: MemoryHost) -> None:
    host.loads = Loads.NEVER
    host.is_wrong_at_start = True
    host.start()
    host.until(lambda: state(host) == "other", 30.0, "it is seen")
    host.stop()
    assert not host.has_rules


def test_an_operators_reload_asks_again_at_once(host: MemoryHost) -> None:
    host.loads = Loads.NEVER
    host.is_wrong_at_start = True
    host.start()
    host.until(lambda: "also after it was replaced" in host.summary, 60.0, "it is said")
    host.loads = Loads.ALWAYS
    host.ask("reload")
    host.until(lambda: host.is_in_mesh, 5.0, "in the mesh")


def test_pilot_agent_is_asked_and_replaced_alike(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_AUTO)
    host.install(PILOT_AGENT)
    host.join()
    host.until(lambda: state(host) == "held", 3.0, "what it shows")
    host.loads = Loads.NEVER
    assert host.answer("renew")["ok"]
    host.until(lambda: not host.is_in_mesh, 3.0, "it is said")
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh again")
    assert serials(host) == (["2"], "2")
    assert host.status["proxy"]["starts"] == 2


def test_a_stranger_at_the_port_of_the_admin_interface_is_no_witness(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN_AUTO)
    host.install(PILOT_AGENT)
    host.ports.take(15000)
    host.loads = Loads.NEVER
    host.is_wrong_at_start = True
    host.join()
    host.run(600.0)
    assert host.is_in_mesh
    assert host.status["proxy"]["starts"] == 1
    assert "not at 127.0.0.1:15000" in host.status["served_certificate"]["last_error"]


def test_one_whose_secret_server_is_away_is_not_replaced(host: MemoryHost) -> None:
    """The next one would get no certificate at all."""
    host.write(HOSTAGENT, OWN + b"ISTIO_HOSTAGENT_SECRET_SOCKET=/run/x/secrets.sock\n")
    host.join()
    host.until(lambda: state(host) == "held", 3.0, "what it shows after its start")
    host.loads = Loads.NEVER
    assert host.answer("renew")["ok"]
    host.until(lambda: state(host) == "other", 5.0, "it is seen")
    host.run(900.0)
    assert host.status["proxy"]["starts"] == 1
    named = "which is held; the secret server at /run/x/secrets.sock has not given it that"
    assert named in host.summary
    assert not host.is_in_mesh
    # The server is back, which nobody tells the agent.
    host.loads = Loads.ALWAYS
    host.until(lambda: host.is_in_mesh, 2 * serving.PUT_OFF_S, "the renewed one")
    assert host.status["proxy"]["starts"] == 1


def test_one_that_cannot_be_told_is_not_replaced(host: MemoryHost) -> None:
    """What could not be written for it could not be written for the next one either."""
    host.join()
    host.until(lambda: state(host) == "held", 3.0, "what it shows after its start")
    host.loads = Loads.ASKED
    assert host.answer("renew")["ok"]
    host.disk.is_full = True
    host.until(lambda: state(host) == "other", 5.0, "it is seen")
    host.run(300.0)
    assert host.status["proxy"]["starts"] == 1
    assert len(host.ready) == 1
    assert "instead of 2, which is held; it cannot be made to load that one: " in host.summary
    host.disk.is_full = False
    host.until(lambda: state(host) == "held", 2 * serving.PUT_OFF_S, "the renewed one")
    assert host.status["proxy"]["starts"] == 1
