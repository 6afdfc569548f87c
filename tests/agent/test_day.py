"""A day of certificates that live a minute, with a CA that fails: the shipped parts on fakes.

`tests/unit/test_fleet` has the decisions alone; here is what a day leaves behind in an agent. The
clock moves when the agent waits, so that half an hour takes seconds.
"""

import collections
import gc
import itertools
import random
from collections.abc import Callable

import pytest

from tests.agent.host import MemoryHost
from tests.agent.machine import Ca
from tests.agent.texts import CERTS, CLUSTER, TEXTS
from tests.lab import soak

LIFE_S, STEP_S = 60.0, 10.0
LENGTH_S = soak.times(1800, 86400)
# Of the whole: when the CA is away.
OUTAGES = ((0.25, 0.38), (0.6, 0.8))
# One pause after it is back, with a call that says nothing, and as often as it fails then.
RECOVERY_S = 300.0
# Objects more than before, of any kind: what is made once, and less than one for ten renewals.
MOST_OBJECTS = 15 + LENGTH_S / LIFE_S / 10


class FlakyHost(MemoryHost):
    """Its CA fails in three of ten calls, and in all while it is away."""

    chance_of_ca = random.Random(20261130)
    is_away = False

    @property
    def ca(self) -> Ca:
        """What becomes of this call."""
        chance = self.chance_of_ca
        if self.is_away or chance.random() < 0.3:
            return chance.choice((Ca.SILENT, Ca.CRASHING))
        return Ca.GOOD

    @ca.setter
    def ca(self, _value: Ca) -> None:
        pass


def count_objects() -> collections.Counter[str]:
    gc.collect()
    return collections.Counter(type(each).__qualname__ for each in gc.get_objects())


@pytest.mark.soak
def test_no_lapse_but_while_the_ca_is_away_and_nothing_is_left_behind(
    record_property: Callable[[str, object], None],
) -> None:
    host = FlakyHost()
    host.life_s = LIFE_S
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    start, seen = host.clock.now(), dict[str, tuple[float, float]]()
    away = [(start + begin * LENGTH_S, start + end * LENGTH_S) for begin, end in OUTAGES]
    counted: collections.Counter[str] | None = None
    while (now := host.clock.now()) < start + LENGTH_S:
        host.is_away = any(begin <= now < end for begin, end in away)
        host.run(STEP_S)
        kept = host.certificates[CERTS]
        seen |= {each.serial: (each.not_before + 60, each.not_after) for each in kept}
        assert len(kept) <= 3
        if counted is None and now > start + LENGTH_S / 10:
            counted = count_objects()
    assert counted is not None
    grown = count_objects() - counted
    lives = sorted(seen.values())
    pairs = itertools.pairwise(lives)
    gaps = [(ended, begun) for (_, ended), (begun, _) in pairs if begun > ended]
    for (lapsed, held), (begin, end) in zip(gaps, away, strict=True):
        assert begin <= lapsed <= begin + LIFE_S
        assert held - end <= RECOVERY_S
    assert host.is_in_mesh
    assert host.status["certificate"]["obtained"] >= 0.8 * len(lives)
    record_property(
        soak.FIGURE,
        f"{len(lives)} certificates in {LENGTH_S / 3600:.1f} h, lapses only in {len(gaps)} outages;"
        f" objects more than after a tenth of it: {grown.most_common(3)}",
    )
    assert max(grown.values(), default=0) <= MOST_OBJECTS, grown.most_common(10)
