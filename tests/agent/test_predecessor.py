"""A host on which the service of another Istio agent runs: replaced as a whole, or left alone."""

import pytest

from tests.agent.host import MemoryHost
from tests.agent.machine import Ca, Proxy
from tests.agent.texts import CLUSTER, ENVOY, TEXTS
from tests.fakes.machine import FakePredecessors
from tests.fakes.rules import FakeRules

UNITS = FakePredecessors.units


@pytest.fixture(params=(*UNITS[:1], UNITS), ids=["alone", "classic pair"])
def served(request: pytest.FixtureRequest, host: MemoryHost) -> MemoryHost:
    host.others.running = request.param if isinstance(request.param, tuple) else (request.param,)
    host.others.lacks_port = request.param is UNITS
    return host


def test_it_is_replaced_once_all_is_there_that_joining_needs(served: MemoryHost) -> None:
    served.ca = Ca.SILENT
    served.start()
    served.run(60.0)
    assert served.others.running
    assert not served.has_rules
    served.ca = Ca.GOOD
    served.until(lambda: served.is_in_mesh, 60.0, "in the mesh")
    assert not served.others.running
    assert not served.others.held
    assert served.status["predecessor"]["state"] == "replaced"
    assert served.status["predecessor"]["held_s"] == 1


def test_two_proxies_are_never_there_at_once(served: MemoryHost) -> None:
    served.start()

    def is_in_mesh() -> bool:
        assert not (served.running and served.others.running)
        return served.is_in_mesh

    served.until(is_in_mesh, 120.0, "in the mesh")


def test_connections_are_held_until_ours_serves(served: MemoryHost) -> None:
    served.proxy = Proxy.SLOW
    served.start()
    served.until(lambda: bool(served.running), 60.0, "it is started")

    def is_ready() -> bool:
        assert served.others.held or served.ready
        return bool(served.ready)

    served.until(is_ready, 60.0, "it is ready")
    served.until(lambda: not served.others.held, 5.0, "let in")


def test_rules_go_in_and_out_while_connections_are_held_that_only_they_lead_somewhere(
    served: MemoryHost,
) -> None:
    served.proxy = Proxy.EXITING
    served.start()

    def is_over() -> bool:
        assert served.others.held or not (served.has_rules and served.others.lacks_port)
        return bool(served.others.running) and not served.has_rules

    served.until(lambda: served.has_rules, 60.0, "our rules are in")
    served.until(is_over, 180.0, "our rules are out again")
    served.until(lambda: not served.others.held, 5.0, "let in")


def test_where_ours_does_not_serve_it_is_started_again_and_left_alone(served: MemoryHost) -> None:
    before = served.others.running
    served.proxy = Proxy.EXITING
    served.start()
    served.until(lambda: served.others.held, 60.0, "held")
    served.until(lambda: not served.others.held, 120.0, "let in again")
    assert served.others.running == before
    served.until(lambda: not served.has_rules, 5.0, "our rules are out")
    served.run(600.0)
    assert served.others.running == before
    assert not served.others.held
    served.proxy = Proxy.GOOD
    served.ask("reload")
    served.until(lambda: served.is_in_mesh, 60.0, "once somebody asks")
    assert not served.others.running


def test_one_that_does_not_end_goes_on(served: MemoryHost) -> None:
    served.others_end = False
    served.start()
    served.until(lambda: "does not end" in served.summary, 60.0, "what is wrong")
    served.run(120.0)
    assert served.others.running
    assert not served.others.held
    assert not served.has_rules
    assert "reload" in served.summary


def test_one_that_does_not_come_back_keeps_nobody_waiting(served: MemoryHost) -> None:
    served.others_return = False
    served.proxy = Proxy.EXITING
    served.start()
    served.until(lambda: served.others.held, 60.0, "held")
    served.until(lambda: not served.others.held, 120.0, "let in")
    served.run(60.0)
    assert not served.has_rules


def test_whenever_the_agent_is_killed_the_next_one_ends_what_it_began(served: MemoryHost) -> None:
    served.install(ENVOY)
    for count in range(60):
        served.kill_after = count
        if served.agent is None:
            served.start()
        served.run(30.0)
        is_through = served.agent is not None
        if served.agent is None:
            served.start()
        served.until(lambda: served.is_in_mesh, 300.0, "in the mesh")
        assert not served.others.held
        assert not served.others.running
        if is_through:
            return
        served.kill_after = None
        served.stop()
        served.write(CLUSTER, TEXTS["A"])
        served.others.running = UNITS


def test_after_a_boot_in_between_the_host_joins(served: MemoryHost) -> None:
    served.start()
    served.until(lambda: served.others.held, 60.0, "held")
    served.boot()
    served.others.running, served.others.held = (), False
    served.start()
    served.until(lambda: served.is_in_mesh, 60.0, "in the mesh")


def test_rules_in_legacy_tables_take_nobodys_place(
    served: MemoryHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRules, "is_polled", True)
    served.start()
    served.until(lambda: "legacy tables" in served.summary, 60.0, "what is wrong")
    served.run(120.0)
    assert served.others.running
    assert not served.has_rules
    served.others.running = ()
    served.until(lambda: served.has_rules, 120.0, "once it was stopped")


def test_one_that_is_killed_while_connections_are_held_gives_all_of_them_back(
    served: MemoryHost,
) -> None:
    before = served.others.running
    served.proxy = Proxy.EXITING
    served.start()
    served.until(lambda: served.others.held, 60.0, "held")
    served.until(lambda: not served.others.running, 60.0, "theirs has ended")
    served.kill()
    served.start()
    served.until(lambda: not served.others.held, 180.0, "let in again")
    assert served.others.running == before


def test_asked_to_try_once_more_it_gives_back_once_more(served: MemoryHost) -> None:
    before = served.others.running
    served.proxy = Proxy.EXITING
    served.start()
    for _ in range(2):
        served.until(lambda: served.others.held, 120.0, "held")
        served.until(lambda: not served.others.held, 120.0, "let in again")
        assert served.others.running == before
        served.until(lambda: not served.has_rules, 5.0, "our rules are out")
        served.answer("reload")


def test_where_they_cannot_be_let_in_it_is_tried_until_they_can(served: MemoryHost) -> None:
    served.proxy = Proxy.EXITING
    served.others_let_in = False
    served.start()
    served.until(lambda: served.others.held, 60.0, "held")
    served.run(200.0)
    assert served.others.held
    served.others_let_in = True
    served.until(lambda: not served.others.held, 10.0, "let in again")
