"""When a host in memory asks its CA again."""

import pytest

from tests.agent.host import MemoryHost
from tests.agent.machine import Ca
from tests.agent.texts import CLUSTER, TEXTS


def part_left_at_renewal(host: MemoryHost) -> float:
    certificate = host.status["certificate"]
    return float((certificate["not_after"] - certificate["next_attempt"]) / host.life_s)


@pytest.mark.parametrize(
    ("text", "chance", "part"),
    [
        ("", 0.0, 0.5),
        ("", 1.0, 0.55),
        ("SECRET_GRACE_PERIOD_RATIO_JITTER=0.2\n", 1.0, 0.7),
        ("SECRET_GRACE_PERIOD_RATIO_JITTER=0.2\n", -1.0, 0.3),
        ("SECRET_GRACE_PERIOD_RATIO=0.3\nSECRET_GRACE_PERIOD_RATIO_JITTER=0.01\n", 1.0, 0.31),
        ("SECRET_GRACE_PERIOD_RATIO_JITTER=0\n", 1.0, 0.5),
    ],
)
def test_share_and_jitter_are_those_that_are_set(
    host: MemoryHost, monkeypatch: pytest.MonkeyPatch, text: str, chance: float, part: float
) -> None:
    host.life_s, host.chance = 86400.0, chance
    monkeypatch.setitem(TEXTS, "A", TEXTS["A"] + text.encode())
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    assert part_left_at_renewal(host) == pytest.approx(part, abs=0.002)


def test_a_ca_that_says_nothing_is_asked_several_times_before_the_certificate_lapses(
    host: MemoryHost,
) -> None:
    host.life_s = 60.0
    host.join()
    host.ca = Ca.SILENT
    host.run(host.status["certificate"]["not_after"] - host.clock.now() - 0.5)
    certificate = host.status["certificate"]
    # A call of twenty seconds would have left room for one more.
    assert (certificate["state"], certificate["failures"] >= 4) == ("held", True)
    host.ca = Ca.GOOD
    host.run(60.0)
    assert host.status["certificate"]["failures"] == 0


@pytest.mark.parametrize(
    ("off_s", "within_s"), [(6 * 3600.0, None), (13 * 3600.0, 3600.0), (22 * 3600.0, 1800.0)]
)
def test_a_start_does_not_bring_a_fleet_to_the_ca_at_once(
    host: MemoryHost, off_s: float, within_s: float | None
) -> None:
    host.life_s = 86400.0
    host.join()
    held = host.status["certificate"]["serial"]
    host.kill()
    host.clock.set_wall(off_s)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    certificate = host.status["certificate"]
    assert (certificate["serial"], certificate["obtained"]) == (held, 0)
    assert certificate["next_attempt"] > host.clock.now() + 60
    if within_s is not None:
        host.run(within_s)
        assert host.status["certificate"]["serial"] != held


def test_what_has_ended_while_a_host_was_off_is_asked_for_at_once(host: MemoryHost) -> None:
    host.life_s = 86400.0
    host.join()
    held = host.status["certificate"]["serial"]
    host.kill()
    host.clock.set_wall(25 * 3600.0)
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    assert host.status["certificate"]["serial"] != held
