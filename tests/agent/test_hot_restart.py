"""The next Envoy takes over from the one that runs: never three, and never none that serves.

The host in memory refuses a third one, one that would wait for ever, and one that finds the mark of
another that has ended on the way (`Machine.program`). Real Envoys are in tests/netns.
"""

import functools

import pytest

from tests.agent.host import MemoryHost
from tests.agent.machine import Proxy
from tests.agent.texts import CLUSTER, ENVOY, HOSTAGENT, OWN, TEXTS
from tests.fakes.processes import UNITS, FakeChild

SHUTDOWN_S = 47.0


@pytest.fixture(params=[True, False], ids=["units", "children"])
def host(request: pytest.FixtureRequest) -> MemoryHost:
    """A host in the mesh, its proxy in units or below the agent."""
    made = MemoryHost(is_owner=request.param)
    made.write(CLUSTER, TEXTS["A"])
    made.write(ENVOY, b"program")
    made.join()
    return made


def alive(host: MemoryHost) -> list[FakeChild]:
    return [child for child, _, _ in host.running if child.status is None]


def epochs(host: MemoryHost) -> list[int]:
    return [spec.epoch for child, spec, _ in host.running if child.status is None]


def is_served(host: MemoryHost) -> bool:
    """Whether a proxy serves where the rules lead."""
    return bool(host.rules_of & host.proxies_of)


def until_one(host: MemoryHost, within_s: float = 120.0) -> FakeChild:
    host.until(lambda: len(alive(host)) == 1 and host.is_in_mesh, within_s, "one, in the mesh")
    return alive(host)[0]


def until_accepted(host: MemoryHost, name: str, within_s: float = 60.0) -> None:
    host.until(lambda: host.accepted == name and host.is_in_mesh, within_s, f"{name} works")


def take_over(host: MemoryHost, name: str = "proxy") -> tuple[FakeChild, FakeChild]:
    """Change the configuration, and give both once the next one serves."""
    host.write(CLUSTER, TEXTS[name])
    host.until(lambda: host.accepted == name and host.is_in_mesh, 60.0, "the next one serves")
    before, after = alive(host)
    return before, after


def test_a_changed_configuration_is_the_next_epoch_and_the_one_before_drains(
    host: MemoryHost,
) -> None:
    (first,) = alive(host)
    before, after = take_over(host)
    assert before is first
    told = host.status["proxy"]
    unit = UNITS[1] if host.is_owner else ""
    assert (told["pid"], told["unit"], told["epoch"]) == (after.pid, unit, 1)
    unit = UNITS[0] if host.is_owner else ""
    assert told["other"] == {"state": "draining", "pid": before.pid, "unit": unit}
    assert told["restart"] == "hot"
    host.run(SHUTDOWN_S - 5.0)
    assert before.status is None
    host.run(10.0)
    assert before.status == 0
    assert host.is_in_mesh
    assert host.status["proxy"]["other"] is None


def test_what_is_not_ready_yet_serves_nobody_and_the_one_before_does(host: MemoryHost) -> None:
    (first,) = alive(host)
    host.proxy = Proxy.SLOW
    host.write(CLUSTER, TEXTS["proxy"])
    host.until(lambda: len(alive(host)) == 2, 10.0, "two run")
    host.run(2.0)
    assert host.proxies_of >= {"A"}
    assert host.status["proxy"]["other"]["state"] == "serving"
    assert host.status["proxy"]["state"] == "starting"
    assert host.accepted == "A"
    assert "takes over from the one that serves" in host.summary
    host.until(lambda: host.accepted == "proxy" and host.is_in_mesh, 10.0, "it serves")
    assert first.status is None


def test_a_change_while_two_run_waits_until_the_one_before_is_gone(host: MemoryHost) -> None:
    before, after = take_over(host)
    host.write(CLUSTER, TEXTS["B"])
    host.run(5.0)
    host.write(CLUSTER, TEXTS["A"])
    host.run(30.0)
    assert alive(host) == [before, after]
    assert host.is_in_mesh
    assert "a changed configuration is being tried" in host.summary
    host.until(lambda: host.accepted == "A" and host.is_in_mesh, 30.0, "it comes into force")
    assert before.status == 0
    assert epochs(host) == [1, 2]
    assert until_one(host) is not after


def test_a_change_that_needs_no_other_proxy_waits_for_none(host: MemoryHost) -> None:
    host.write(ENVOY, b"another")
    host.until(lambda: len(alive(host)) == 2 and host.is_in_mesh, 10.0, "two run")
    both = alive(host)
    host.write(CLUSTER, TEXTS["rules"])
    answer = host.answer("reload")
    assert answer["ok"], answer
    assert host.accepted == "rules"
    assert alive(host) == both


@pytest.mark.parametrize("how", [Proxy.EXITING, Proxy.CRASHING, Proxy.MISSING_MEMORY])
def test_one_that_does_not_become_ready_leaves_the_one_that_serves(
    host: MemoryHost, how: Proxy
) -> None:
    (first,) = alive(host)
    host.proxy, host.is_proxy_picky = how, True
    host.write(CLUSTER, TEXTS["B"])
    answer = host.answer("reload")
    assert not answer["ok"]
    assert "A" in host.proxies_of
    assert until_one(host) is first
    assert "rejected" in host.summary
    # What has failed is in the way of nothing.
    host.proxy = Proxy.GOOD
    before, _ = take_over(host)
    assert before is first
    assert epochs(host) == [0, 1]


def test_one_that_is_never_ready_is_given_up_and_ended(host: MemoryHost) -> None:
    (first,) = alive(host)
    host.proxy, host.is_proxy_picky = Proxy.UNREADY, True
    host.write(CLUSTER, TEXTS["B"])
    assert not host.answer("reload")["ok"]
    assert until_one(host) is first
    take_over(host)
    assert epochs(host) == [0, 1]


def test_the_next_one_is_started_alone_where_the_one_that_serves_ends_early(
    host: MemoryHost,
) -> None:
    (first,) = alive(host)
    host.proxy = Proxy.SLOW
    host.write(CLUSTER, TEXTS["proxy"])
    host.until(lambda: len(alive(host)) == 2, 10.0, "two run")
    first.finish(-11)
    host.until(lambda: host.accepted == "proxy" and host.is_in_mesh, 60.0, "in the mesh")
    assert epochs(host) == [0]


@pytest.mark.parametrize("how", [Proxy.HUNG, Proxy.DRAINED], ids=str)
def test_both_are_replaced_where_the_one_that_serves_is_of_no_use_any_more(
    host: MemoryHost, how: Proxy
) -> None:
    (first,) = alive(host)
    host.proxy, host.is_proxy_picky = Proxy.UNREADY, True
    host.write(CLUSTER, TEXTS["B"])
    host.until(lambda: len(alive(host)) == 2, 10.0, "two run")
    host.proxy, host.is_proxy_picky = how, False
    host.until(lambda: first.status is not None, 30.0, "it is ended")
    host.mend()
    assert until_one(host) is not first


def test_ports_that_only_the_one_before_has_are_not_missed_once_the_next_serves(
    host: MemoryHost,
) -> None:
    (first,) = alive(host)
    host.late_s = 12.0  # three looks at ports find that one closed
    _, second = take_over(host, "B")
    assert first.status is None and second.status is None
    assert until_one(host) is second


def test_the_end_of_the_one_that_has_taken_over_ends_the_other_and_begins_anew(
    host: MemoryHost,
) -> None:
    before, after = take_over(host)
    after.finish(-11)
    host.settle()
    host.until(lambda: host.is_in_mesh, 20.0, "in the mesh")
    assert before.status is not None
    assert epochs(host) == [0]


def test_a_stop_ends_both(host: MemoryHost) -> None:
    both = take_over(host)
    host.stop()
    assert all(each.status is not None for each in both)


@pytest.mark.parametrize("name", ["proxy", "B"])
@pytest.mark.parametrize("how", [Proxy.GOOD, Proxy.EXITING], ids=str)
def test_wherever_the_agent_is_killed_one_envoy_is_left_in_the_end(name: str, how: Proxy) -> None:
    """Invariant 4: between any two instructions; what is left converges to what the files say."""
    for steps in range(60):
        host = MemoryHost(is_owner=True)
        host.write(CLUSTER, TEXTS["A"])
        host.join()
        (first,) = alive(host)
        host.proxy, host.is_proxy_picky = how, True
        host.kill_after = steps
        host.write(CLUSTER, TEXTS[name])
        host.run(15.0)
        was_killed = host.agent is None
        if was_killed:
            host.start()
            if name == "B":
                # Its ports are others: while connections of what had taken over are drained
                # nothing would take what is captured.
                host.until(functools.partial(is_served, host), 20.0, "it serves")
        expected = "A" if how is Proxy.EXITING and name == "B" else name
        until_accepted(host, expected, 180.0)
        if expected == "A":
            host.run(30.0)
            assert first.status is None, steps
        until_one(host)
        host.check()
        if not was_killed:
            break
    else:
        raise AssertionError("it never came to the end")


@pytest.mark.parametrize("wait_s", [0.0, 10.0, 60.0])
def test_the_next_agent_knows_both(wait_s: float) -> None:
    host = MemoryHost(is_owner=True)
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    before, after = take_over(host)
    host.kill()
    host.run(wait_s)
    host.start()
    host.until(lambda: host.is_in_mesh, 5.0, "in the mesh")
    told = host.status["proxy"]
    assert (told["pid"], told["epoch"]) == (after.pid, 1)
    if wait_s < SHUTDOWN_S:
        assert told["other"]["pid"] == before.pid
        host.until(lambda: host.status["proxy"]["other"] is None, 70.0, "it has ended")
    assert before.status == 0
    assert after.status is None
    take_over(host, "B")
    assert epochs(host) == [1, 2]


def test_of_two_that_have_both_ended_nothing_is_left() -> None:
    host = MemoryHost(is_owner=True)
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    both = take_over(host)
    host.kill()
    for each in both:
        each.finish(-9)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    assert epochs(host) == [0]


def test_one_that_has_handed_over_to_another_that_has_ended_is_replaced() -> None:
    """Its listeners are closed, and nobody tells it to end."""
    host = MemoryHost(is_owner=True)
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    before, after = take_over(host)
    host.kill()
    after.finish(-9)
    host.drained_pids.add(before.pid)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    assert before.status is not None
    assert epochs(host) == [0]


# -- another file at the path of the program -----------------------------------------------------


def test_a_new_program_takes_over_although_nothing_else_has_changed(host: MemoryHost) -> None:
    (first,) = alive(host)
    host.write(ENVOY, b"another")
    host.until(lambda: len(alive(host)) == 2, 10.0, "two run")
    assert host.is_in_mesh
    host.run(2.0)
    assert host.is_in_mesh
    assert until_one(host) is not first
    host.run(300.0)
    assert epochs(host) == [1]


def test_a_new_program_that_refuses_the_bootstrap_is_named_and_not_started(
    host: MemoryHost,
) -> None:
    (first,) = alive(host)
    host.proxy = Proxy.REFUSING
    host.write(ENVOY, b"broken")
    host.run(5.0)
    assert host.is_in_mesh
    assert f"the new {ENVOY} does not take over" in host.summary
    assert "do not like it" in host.summary
    assert alive(host) == [first]
    host.proxy = Proxy.GOOD
    host.write(ENVOY, b"mended")
    host.until(lambda: len(alive(host)) == 2, 10.0, "two run")
    assert until_one(host) is not first
    assert "does not take over" not in host.summary


def test_a_new_program_that_ends_at_once_leaves_the_one_that_serves(host: MemoryHost) -> None:
    (first,) = alive(host)
    host.proxy = Proxy.EXITING
    host.write(ENVOY, b"broken")
    host.run(20.0)
    assert host.is_in_mesh
    assert f"the new {ENVOY} does not take over" in host.summary
    assert "cannot go on" in host.summary
    assert first.status is None
    host.proxy = Proxy.GOOD
    host.write(ENVOY, b"mended")
    host.until(lambda: first.status is not None, 120.0, "it has drained")
    assert until_one(host) is not first


def test_a_program_of_another_hot_restart_is_started_in_its_place(host: MemoryHost) -> None:
    (first,) = alive(host)
    host.hot_restart = "12.200"
    host.write(ENVOY, b"another")
    host.until(lambda: first.status is not None, 10.0, "it is ended")
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")
    assert epochs(host) == [0]
    assert any("another one cannot take over" in line for line in host.log.lines)


def test_a_program_at_another_path_takes_over_and_so_does_the_one_before(host: MemoryHost) -> None:
    (first,) = alive(host)
    other = "/opt/envoy"
    host.programs |= {other}
    host.write(other, b"another")
    host.write(HOSTAGENT, OWN + f"ISTIO_HOSTAGENT_ENVOY={other}\n".encode())
    host.until(lambda: len(alive(host)) == 2, 20.0, "two run")
    second = until_one(host)
    assert second is not first
    host.run(600.0)
    host.write(HOSTAGENT, OWN)
    host.until(lambda: len(alive(host)) == 2, 20.0, "two run")
    assert until_one(host) is not second
    assert not any("another one cannot take over" in line for line in host.log.lines)


def test_a_program_that_was_replaced_while_no_agent_ran_takes_over() -> None:
    host = MemoryHost(is_owner=True)
    host.write(CLUSTER, TEXTS["A"])
    host.write(ENVOY, b"program")
    host.join()
    (first,) = alive(host)
    host.kill()
    host.write(ENVOY, b"another")
    host.start()
    host.until(lambda: len(alive(host)) == 2, 30.0, "two run")
    assert until_one(host) is not first


# -- without ---------------------------------------------------------------------------------------


def test_without_hot_restart_one_is_ended_before_the_next_is_started(host: MemoryHost) -> None:
    host.write(HOSTAGENT, OWN + b"ISTIO_HOSTAGENT_RESTART_DRAIN=0s\n")
    host.until(lambda: host.status["proxy"]["restart"] == "ordinary", 60.0, "it counts")
    (first,) = alive(host)
    host.write(CLUSTER, TEXTS["proxy"])
    host.until(lambda: host.accepted == "proxy" and host.is_in_mesh, 60.0, "in the mesh")
    assert first.status is not None
    assert epochs(host) == [0]


def test_where_no_memory_is_shared_that_is_said_once() -> None:
    host = MemoryHost()
    host.machine.facts = host.machine.facts._replace(has_shared_memory=False)
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    (first,) = alive(host)
    assert host.status["proxy"]["restart"] == "ordinary"
    for name in ("proxy", "A"):
        host.write(CLUSTER, TEXTS[name])
        until_accepted(host, name)
    assert first.status is not None
    assert sum("no memory to share" in line for line in host.log.lines) == 1
