"""The capture ports of a host in memory: held in time, taken by strangers, listened on."""

from istio_hostagent.agent import events
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, TEXTS
from tests.fakes.caller import FakeCaller

PORTS = {15001, 15006}


def test_nobody_gets_the_ports_of_a_host_that_has_joined(host: MemoryHost) -> None:
    host.join()
    assert host.ports.held == PORTS
    assert not host.ports.take(15001)
    host.processes.end_all()
    assert not host.ports.take(15001)
    assert host.status["capture_ports"] == {
        "state": "held",
        "ports": [15001, 15006],
        "taken_by": None,
        "last_error": "",
        "trouble": "",
    }


def test_sockets_that_the_service_manager_keeps_outlive_a_kill() -> None:
    host = MemoryHost(is_owner=True)
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    host.kill()
    assert not host.ports.take(15001)
    host.start()
    assert not host.ports.take(15006)
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_a_port_that_somebody_has_keeps_the_rules_out_and_names_him(host: MemoryHost) -> None:
    assert host.ports.take(15006)
    host.start()
    host.until(lambda: "nc (pid 4711) of user stranger (1000)" in host.summary, 30.0, "who it is")
    assert "0.0.0.0:15006" in host.summary
    host.run(600.0)
    assert host.space.transactions == 0
    found = host.status["capture_ports"]
    assert found["state"] == "taken"
    assert found["taken_by"] == {
        "port": 15006,
        "address": "0.0.0.0",
        "uid": 1000,
        "user": "stranger",
        "pid": 4711,
        "program": "nc",
    }
    host.ports.taken.clear()
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh once it is free")


def test_a_taken_port_is_tried_ever_more_seldom(host: MemoryHost) -> None:
    host.ports.take(15001)
    host.start()
    host.run(300.0)
    before = host.wakeups
    host.run(600.0)
    assert host.wakeups - before <= 40


def test_a_port_that_is_free_again_is_tried_at_once_when_somebody_asks(host: MemoryHost) -> None:
    host.ports.take(15001)
    host.start()
    host.run(300.0)
    host.ports.taken.clear()
    host.ask("reload")
    host.until(lambda: host.has_rules, 1.0, "the attempt")


def test_a_changed_port_is_held_before_its_rules_and_the_one_before_is_given_back(
    host: MemoryHost,
) -> None:
    host.join()
    host.write(CLUSTER, TEXTS["B"])
    host.until(lambda: "B" in host.rules_of and host.is_in_mesh, 60.0, "the other port")
    host.until(lambda: host.ports.held == {15101, 15006}, 60.0, "given back")


def test_a_changed_port_that_is_taken_leaves_what_works(host: MemoryHost) -> None:
    host.join()
    host.ports.take(15101)
    host.write(CLUSTER, TEXTS["B"])
    host.until(lambda: "port 15101" in host.summary, 60.0, "what is wrong")
    host.until(lambda: "A" in host.rules_of and host.is_in_mesh, 60.0, "what has worked")
    host.ports.taken.clear()
    host.until(lambda: "B" in host.rules_of and host.is_in_mesh, 300.0, "tried again by itself")


def test_a_host_that_joined_keeps_its_rules_where_a_port_was_taken_while_nobody_held_it(
    host: MemoryHost,
) -> None:
    host.join()
    host.kill()
    assert host.ports.take(15001)
    host.start()
    host.until(lambda: "nc (pid 4711)" in host.summary, 60.0, "who it is")
    assert not host.is_in_mesh
    assert "A" in host.rules_of


def test_a_host_that_could_not_join_gives_the_ports_back(host: MemoryHost) -> None:
    host.proxy = machine.Proxy.EXITING
    host.start()
    host.until(lambda: "could not join" in " ".join(host.log.lines), 60.0, "the attempt")
    host.until(lambda: not host.has_rules and not host.ports.held, 60.0, "given back")


def test_a_proxy_that_does_not_listen_is_not_ready(host: MemoryHost) -> None:
    host.proxy = machine.Proxy.DRAINED
    host.start()
    host.until(lambda: "does not listen on ports 15001, 15006" in host.summary, 30.0, "said")
    host.until(lambda: not host.has_rules, 60.0, "the way back")
    assert not host.has("joined")


def test_a_proxy_whose_listeners_are_closed_is_replaced_although_it_says_that_it_is_ready(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(60.0)
    (child, _, _) = host.running[-1]
    host.proxy = machine.Proxy.DRAINED
    host.until(lambda: not host.is_in_mesh, 7.0, "in the mesh is taken back")
    assert child.status is None
    host.until(lambda: child.status is not None, 10.0, "it is ended")
    host.proxy = machine.Proxy.GOOD
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh with another one")


def test_verify_says_that_the_proxy_serves(host: MemoryHost) -> None:
    host.join()
    found = host.answer("verify")["verification"]
    assert found["in_place"], found
    assert found["proxy"] == {
        "state": "serving",
        "required": True,
        "closed_ports": [],
        "last_error": "",
    }


def test_verify_names_the_ports_that_a_drained_proxy_has_closed(host: MemoryHost) -> None:
    host.join()
    host.proxy = machine.Proxy.DRAINED
    found = host.answer("verify")["verification"]
    assert not found["in_place"]
    assert (found["differences"], found["broken"]) == ([], [])
    assert found["proxy"]["closed_ports"] == [15001, 15006]
    assert "15001, 15006" in found["proxy"]["last_error"]


def test_verify_and_status_agree_on_a_proxy_that_does_not_answer(host: MemoryHost) -> None:
    host.join()
    host.proxy = machine.Proxy.HUNG
    host.until(lambda: not host.is_in_mesh, 10.0, "status says so")
    found = host.answer("verify")["verification"]
    assert not found["in_place"]
    assert found["proxy"]["state"] == "not ready"
    assert found["proxy"]["last_error"]
    host.proxy = machine.Proxy.GOOD
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh again")
    assert host.answer("verify")["verification"]["in_place"]


def test_status_believes_what_verify_has_found(host: MemoryHost) -> None:
    """Nobody tells of a change that is in no table: packets alone see it."""
    host.join()
    host.run(60.0)
    host.thief = "10.96."
    assert host.answer("verify")["verification"]["broken"]
    host.until(lambda: not host.is_in_mesh, 2.0, "status says so, too")
    host.thief = None
    assert host.answer("verify")["verification"]["in_place"]


def test_verify_does_not_call_good_what_no_packet_could_show(host: MemoryHost) -> None:
    host.join()
    before = host.status["redirection"]["proven_at"]
    host.run(60.0)
    host.sends_nothing = True
    found = host.answer("verify")["verification"]
    assert found["untested"] and not found["in_place"]
    assert host.status["redirection"]["proven_at"] == before


def test_verify_is_answered_although_the_files_go_meanwhile(host: MemoryHost) -> None:
    host.ca = machine.Ca.REFUSING
    host.start()
    host.run(1.0)
    caller = FakeCaller("verify")
    host.callers.append(caller)
    host.inbox.post(events.Asked(caller))
    host.remove(CLUSTER)
    host.until(lambda: not caller.is_open, 10.0, "the answer")
    assert caller.answers[0]["verification"]["proxy"]["state"] == "not ready"
