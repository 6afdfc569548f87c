"""What is promised of clocks: of this machine's, and of the one that a test moves."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from istio_hostagent.host import clock, ports
from tests.fakes.clock import FakeClock
from tests.lab.waiting import eventually

IN_2020 = 1_577_836_800.0


class Host(NamedTuple):
    clock: ports.Clock
    let_pass: Callable[[Callable[[], bool], str], None]


class ClockContract:
    def test_monotonic_time_never_goes_back(self, host: Host) -> None:
        seen = [host.clock.monotonic() for _ in range(1000)]
        assert seen == sorted(seen)

    def test_both_go_on(self, host: Host) -> None:
        monotonic, wall = host.clock.monotonic(), host.clock.now()
        host.let_pass(lambda: host.clock.monotonic() > monotonic, "monotonic time")
        host.let_pass(lambda: host.clock.now() > wall, "the time of day")

    def test_the_time_of_day_is_in_unix_seconds(self, host: Host) -> None:
        assert IN_2020 < host.clock.now() < 10 * IN_2020


class TestSystemClock(ClockContract):
    @pytest.fixture
    def host(self) -> Host:
        return Host(clock.SystemClock(), eventually)


class TestFakeClock(ClockContract):
    @pytest.fixture
    def host(self) -> Host:
        made = FakeClock()

        def let_pass(condition: Callable[[], bool], what: str) -> None:
            made.step(made.monotonic() + 1.0)
            assert condition(), what

        return Host(made, let_pass)

    def test_who_sets_the_time_of_day_does_not_move_the_other_clock(self) -> None:
        made = FakeClock()
        monotonic, wall = made.monotonic(), made.now()
        made.set_wall(-3600.0)
        assert (made.monotonic(), made.now()) == (monotonic, wall - 3600.0)
