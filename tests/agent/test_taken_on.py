"""A proxy that has a unit of its own: it outlives its agent, and the next one takes it on."""

from collections.abc import Callable

import pytest

from tests.agent.host import MemoryHost
from tests.agent.machine import Proxy
from tests.agent.texts import (
    CLUSTER,
    HOSTAGENT,
    NAME_SERVERS,
    OWN_DIRECTED,
    PILOT_AGENT,
    TEXTS,
)
from tests.fakes.processes import UNIT, FakeChild


@pytest.fixture
def host() -> MemoryHost:
    """A host whose service manager owns the rules and has units, in the mesh."""
    made = MemoryHost(is_owner=True)
    made.write(CLUSTER, TEXTS["A"])
    made.join()
    return made


def proxy(host: MemoryHost) -> FakeChild:
    """The one that runs."""
    (found,) = [child for child, _, _ in host.running if child.status is None]
    return found


def again(host: MemoryHost) -> None:
    host.kill()
    host.start()


ACTS = {"restart": MemoryHost.restart, "kill -9": again}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_the_next_agent_takes_it_on_and_changes_nothing(
    host: MemoryHost, act: Callable[[MemoryHost], None]
) -> None:
    before, said = proxy(host), len(host.log.lines)
    act(host)
    assert before.status is None
    host.until(lambda: host.is_in_mesh, 5.0, "in the mesh")
    assert proxy(host) is before
    told = host.status["proxy"]
    assert (told["pid"], told["unit"], told["starts"]) == (before.pid, UNIT, 1)
    assert not any("proxy started" in line for line in host.log.lines[said:])
    # It is looked after as one of the agent's own.
    before.finish(-9)
    host.settle()
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
    assert proxy(host) is not before


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_one_that_has_ended_meanwhile_is_started_anew(
    host: MemoryHost, act: Callable[[MemoryHost], None]
) -> None:
    before = proxy(host)
    before.finish(-9)
    act(host)
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
    assert proxy(host) is not before


def test_one_that_ends_before_packets_have_shown_the_rules_waits_for_that(
    host: MemoryHost,
) -> None:
    """Invariant 1, which the host checks with each start."""
    before = proxy(host)
    host.kill()
    host.shown = None
    host.start()
    before.finish(-9)
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
    assert proxy(host) is not before


def test_one_that_is_started_as_something_else_goes_on_until_it_may_be_replaced(
    host: MemoryHost,
) -> None:
    before = proxy(host)
    host.kill()
    host.write(CLUSTER, TEXTS["proxy"])
    host.start()
    host.until(lambda: host.accepted == "proxy" and host.is_in_mesh, 60.0, "the other one")
    assert host.proxies_of == {"proxy"}
    host.until(lambda: before.status is not None, 60.0, "it has drained")
    assert before.status == 0
    assert proxy(host) is not before


def test_one_that_hangs_is_replaced(host: MemoryHost) -> None:
    before = proxy(host)
    again(host)
    host.until(lambda: host.is_in_mesh, 5.0, "in the mesh")
    host.proxy = Proxy.HUNG
    host.until(lambda: before.status is not None, 20.0, "it is ended")
    host.mend()
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_an_envoy_goes_on_where_pilot_agent_was_installed_meanwhile(host: MemoryHost) -> None:
    before = proxy(host)
    host.kill()
    host.install(PILOT_AGENT)
    host.start()
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
    assert proxy(host) is before


def test_of_a_host_that_was_joining_it_is_ended_behind_its_rules(host: MemoryHost) -> None:
    host.stop()
    host.boot()
    host.proxy = Proxy.UNREADY
    host.start()
    host.until(lambda: bool(host.running), 20.0, "it is started")
    begun = proxy(host)
    host.kill()
    host.proxy = Proxy.GOOD
    host.start()
    host.until(lambda: begun.status is not None, 10.0, "it is ended")
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")


def test_a_stop_ends_it_and_a_start_begins_anew(host: MemoryHost) -> None:
    before = proxy(host)
    host.stop()
    assert before.status is not None
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")


def test_a_child_is_replaced_by_a_unit_and_back_by_a_key(host: MemoryHost) -> None:
    assert host.status["proxy"]["unit"] == UNIT
    host.write(
        "/etc/hostagent.env",
        host.disk.files["/etc/hostagent.env"] + b"ISTIO_HOSTAGENT_PROXY_UNIT=no\n",
    )
    host.until(lambda: host.is_in_mesh and host.status["proxy"]["unit"] == "", 60.0, "a child")


@pytest.fixture
def asking() -> MemoryHost:
    """One with units whose queries for names are captured."""
    made = MemoryHost(is_owner=True)
    made.write(HOSTAGENT, OWN_DIRECTED)
    made.write(CLUSTER, TEXTS["names"])
    made.machine.facts = made.machine.facts._replace(name_servers=NAME_SERVERS[0])
    made.join()
    return made


def resolver(host: MemoryHost) -> FakeChild:
    return host.units.servers["resolver"][1]


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_the_resolver_of_names_goes_on_as_well(
    asking: MemoryHost, act: Callable[[MemoryHost], None]
) -> None:
    before = resolver(asking)
    act(asking)
    assert before.status is None
    asking.until(lambda: asking.is_in_mesh, 5.0, "in the mesh")
    asking.run(60.0)
    assert before.status is None
    assert resolver(asking) is before
    told = asking.status["resolver"]
    assert (told["state"], told["pid"], told["answers"]) == ("running", before.pid, True)
    # It is looked after as one of the agent's own.
    before.finish(-9)
    asking.settle()
    asking.until(lambda: resolver(asking) is not before, 10.0, "another one")
    after = resolver(asking)
    # With queries captured no more none is wanted.
    asking.write(CLUSTER, TEXTS["A"])
    asking.until(lambda: after.status is not None, 60.0, "it was ended")


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_resolver_that_has_ended_meanwhile_is_started_anew(
    asking: MemoryHost, act: Callable[[MemoryHost], None]
) -> None:
    before = resolver(asking)
    before.finish(-9)
    act(asking)
    asking.until(lambda: asking.is_in_mesh, 10.0, "in the mesh")
    assert resolver(asking) is not before
