"""What comes between SIGTERM and the way out, by the job that systemd has."""

import signal

import pytest

from istio_hostagent.agent import events
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, OWN, TEXTS

UNIT = "istio-hostagent.service"
STOP = f"12 {UNIT} stop running\n".encode()
DOWN = STOP + b"13 shutdown.target start waiting\n"
RESTART = f"12 {UNIT} restart running\n".encode()
DRAIN_S = 5.0


@pytest.fixture
def joined() -> MemoryHost:
    host = MemoryHost(is_owner=True)
    host.unit = UNIT
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    return host


def is_stopping(host: MemoryHost) -> bool:
    return host.agent is None or host.agent.is_stopping


def tell(host: MemoryHost) -> None:
    host.inbox.post(events.Signalled(signal.SIGTERM))


@pytest.mark.parametrize("jobs", [STOP, DOWN], ids=["stop", "shutdown"])
def test_a_stop_drains_with_the_rules_in(joined: MemoryHost, jobs: bytes) -> None:
    joined.jobs = jobs
    tell(joined)
    begun = joined.clock.monotonic()
    joined.until(lambda: joined.drained == 1, 1.0, "the proxy is told")
    joined.run(DRAIN_S - 1.0)
    assert not is_stopping(joined)
    assert joined.has_rules
    assert joined.ready
    joined.until(lambda: is_stopping(joined), 3.0, "it has drained")
    assert joined.clock.monotonic() - begun < DRAIN_S + 1.0


@pytest.mark.parametrize("jobs", [RESTART, b"", b"Failed"], ids=["restart", "kill", "no answer"])
def test_nobody_waits_for_what_is_no_stop(joined: MemoryHost, jobs: bytes) -> None:
    joined.jobs = jobs
    tell(joined)
    joined.until(lambda: is_stopping(joined), 0.5, "at once")
    assert joined.drained == 0


def test_where_systemd_cannot_be_asked_that_is_said_and_nobody_waits(joined: MemoryHost) -> None:
    joined.unstartable = {"/usr/bin/systemctl"}
    tell(joined)
    joined.until(lambda: is_stopping(joined), 0.5, "at once")
    assert any("systemd does not say for what" in line for line in joined.log.lines)


def test_a_second_signal_is_in_a_hurry(joined: MemoryHost) -> None:
    joined.jobs = STOP
    tell(joined)
    joined.until(lambda: joined.drained == 1, 1.0, "the proxy is told")
    tell(joined)
    joined.until(lambda: is_stopping(joined), 0.5, "at once")


@pytest.fixture
def without_unit() -> MemoryHost:
    host = MemoryHost()
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    return host


def test_without_a_unit_sigterm_is_a_stop(without_unit: MemoryHost) -> None:
    tell(without_unit)
    without_unit.until(lambda: without_unit.drained == 1, 1.0, "the proxy is told")
    without_unit.run(DRAIN_S - 1.0)
    assert not is_stopping(without_unit)
    assert without_unit.has_rules
    without_unit.until(lambda: is_stopping(without_unit), 3.0, "it has drained")


def test_without_a_unit_sigint_is_in_a_hurry(without_unit: MemoryHost) -> None:
    without_unit.inbox.post(events.Signalled(signal.SIGINT))
    without_unit.until(lambda: is_stopping(without_unit), 0.5, "at once")
    assert without_unit.drained == 0


def test_the_key_says_how_long(joined: MemoryHost) -> None:
    joined.write(HOSTAGENT, OWN + b"ISTIO_HOSTAGENT_DRAIN=20s\n")
    joined.run(5.0)
    joined.jobs = STOP
    tell(joined)
    joined.run(18.0)
    assert not is_stopping(joined)
    joined.until(lambda: is_stopping(joined), 4.0, "it has drained")


def leave(host: MemoryHost, jobs: bytes) -> bool:
    """Stop it; whether the rules were out before its proxy, a child, was told to end."""
    host.jobs = jobs
    tell(host)
    host.until(lambda: is_stopping(host), 10.0, "it has drained")
    seen: list[bool] = []
    child = host.running[-1][0]
    host.is_leaving = True
    signal = type(child).signal

    def note(own: object, number: int) -> None:
        seen.append(host.has_rules)
        signal(child, number)

    child.signal = note.__get__(child)  # type: ignore[method-assign]
    assert host.agent is not None
    host.agent.leave()
    return not seen[0]


def host_with_a_child() -> MemoryHost:
    host = MemoryHost(is_owner=True)
    host.unit = UNIT
    host.write(HOSTAGENT, OWN + b"ISTIO_HOSTAGENT_PROXY_UNIT=no\n")
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    return host


def test_rules_go_before_the_proxy_where_the_host_leaves_and_stay_where_it_goes_down() -> None:
    assert leave(host_with_a_child(), STOP)
    other = host_with_a_child()
    assert not leave(other, DOWN)
    assert other.has_rules


def test_a_proxy_in_a_unit_is_left_to_the_service_manager(joined: MemoryHost) -> None:
    joined.jobs = STOP
    tell(joined)
    joined.until(lambda: is_stopping(joined), 10.0, "it has drained")
    joined.is_leaving = True
    assert joined.agent is not None
    joined.agent.leave()
    assert not joined.has_rules
    assert joined.running[-1][0].status is None
