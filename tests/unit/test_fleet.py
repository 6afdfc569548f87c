"""Renewal as a whole fleet does it: the shipped decisions, a CA of a few lines, and time as a number.

A host asks when its `Rotation` says so and is told what the CA answers; nothing else is simulated.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from istio_hostagent.identity import rotation, schedule
from tests.lab import soak

START = 1_772_366_400.0  # 2026-03-01 12:00 UTC
HOSTS = 10_000
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
RATIO = 0.5
SPREAD_S = 2 * schedule.SPREAD * DAY  # from the first renewal of a fleet to its last
CALL_S = 20.0  # a conversation takes no longer
OK, BUSY, AWAY, REFUSED, HANGS = "ok", "busy", "away", "refused", "hangs"
_ANSWER_S = {OK: 0.1, BUSY: 0.02, AWAY: 0.0, REFUSED: 0.1}
_CODES = {REFUSED: rotation.REFUSED}
UNAVAILABLE = "authority-unavailable"


@dataclass
class Host:
    """One host; `token_until`: until when its token is good."""

    value: rotation.Rotation = field(default_factory=rotation.configured)
    token_until: float = float("inf")
    lapses: list[tuple[float, float]] = field(default_factory=list)  # from, until


@dataclass
class Fleet:
    """Hosts that ask one CA; `answer` says at each arrival what comes of it."""

    chance: random.Random
    answer: Callable[[float], str]
    life_s: float
    hosts: list[Host]
    asked: list[float] = field(default_factory=list)
    granted: list[float] = field(default_factory=list)

    def run(self, start: float, end: float, *, spread_s: float = 0.0) -> None:
        """Start all together, `spread_s` apart at most, and go on until `end`."""
        due = [(start + self.chance.uniform(0, spread_s), i) for i in range(len(self.hosts))]
        for at, i in due:
            host = self.hosts[i]
            held = host.value.held
            # What a start does: settings, then a look at the disk.
            host.value = rotation.configured()
            if held is not None and at < held.not_after:
                host.value = self._hold(rotation.looked(host.value, held), held, at, is_found=True)
            else:
                host.value = rotation.looked(host.value, None)
        events = [(max(at, self.hosts[i].value.next_at), i) for at, i in due]
        heapq.heapify(events)
        while events and events[0][0] < end:
            at, i = heapq.heappop(events)
            if at >= self.hosts[i].value.next_at:
                at = self._ask(self.hosts[i], at)
            heapq.heappush(events, (max(at, self.hosts[i].value.next_at), i))

    def _jitter(self) -> float:
        return self.chance.uniform(-1, 1)

    def _hold(
        self,
        value: rotation.Rotation,
        held: rotation.Report,
        now: float,
        *,
        is_found: bool = False,
    ) -> rotation.Rotation:
        jitter = self._jitter()
        return rotation.obtained(value, held, now, jitter=jitter, ratio=RATIO, is_found=is_found)

    def _ask(self, host: Host, now: float) -> float:
        """One attempt; returns when it is over."""
        value = host.value
        if not value.is_held(now) and now >= host.token_until:
            missing = rotation.Failure(rotation.MISSING, "no credential is good")
            host.value = rotation.failed(
                rotation.asked(value), missing, now, jitter=self._jitter()
            )
            return now
        self.asked.append(now)
        answer = self.answer(now)
        call_s = value.call_time(now, CALL_S)
        over = now + min(_ANSWER_S.get(answer, call_s), call_s)
        value = rotation.asked(value)
        if answer == OK:
            if value.held is not None and value.held.not_after < over:
                host.lapses.append((value.held.not_after, over))
            held = rotation.Report("spiffe://a", "1", over - 120, over + self.life_s, over)
            host.value = self._hold(value, held, over)
            self.granted.append(over)
        else:
            failure = rotation.Failure(_CODES.get(answer, UNAVAILABLE), answer)
            host.value = rotation.failed(value, failure, over, jitter=self._jitter())
        return over


class Capacity:
    """A CA that signs so many a second and tells all others that it is overloaded."""

    def __init__(self, each_second: int) -> None:
        self.each_second = each_second
        self._signed: Counter[int] = Counter()

    def __call__(self, now: float) -> str:
        if self._signed[int(now)] >= self.each_second:
            return BUSY
        self._signed[int(now)] += 1
        return OK


def counts(moments: list[float], window_s: float) -> list[int]:
    """How many fall into each window, from the first to the last, empty ones too."""
    found = Counter(int((each - START) // window_s) for each in moments)
    return [found[place] for place in range(min(found), max(found) + 1)]


def histogram(numbers: list[int], what: str) -> str:
    """As lines, at most forty of them."""
    step = -(-len(numbers) // 40)
    rows = [max(numbers[at : at + step]) for at in range(0, len(numbers), step)]
    scale = max(rows) / 50
    return "\n".join([what, *(f"{row:7} {'#' * round(row / scale)}" for row in rows)])


@pytest.mark.soak
def test_hosts_restarted_together_come_back_to_the_ca_evenly(
    record_property: Callable[[str, object], None],
) -> None:
    fleet = Fleet(random.Random(20261129), lambda _now: OK, DAY, [Host() for _ in range(HOSTS)])
    fleet.run(START, START + MINUTE)
    assert len(fleet.asked) == HOSTS
    # Six hours later all are restarted within ten seconds: the CA hears of none of them.
    fleet.asked.clear()
    fleet.run(START + 6 * HOUR, START + 14 * HOUR, spread_s=10.0)
    assert len(fleet.asked) == HOSTS
    assert max(fleet.asked) - min(fleet.asked) == pytest.approx(SPREAD_S, rel=0.02)
    by_minute = counts(fleet.asked, MINUTE)
    # By the minute there are 69, of which chance alone makes 90 in some; ten minutes show the rate.
    inner = counts(fleet.asked, 10 * MINUTE)[1:-1]
    mean = sum(inner) / len(inner)
    record_property(
        soak.FIGURE,
        histogram(by_minute, f"renewals a minute of {HOSTS} hosts restarted together")
        + f"\npeak of ten minutes / mean: {max(inner) / mean:.3f},"
        f" of one minute: {max(by_minute) / (mean / 10):.3f}",
    )
    assert max(inner) <= 1.2 * mean
    assert max(by_minute) <= mean / 10 + 4.5 * (mean / 10) ** 0.5


@pytest.mark.soak
@pytest.mark.parametrize(
    ("left_s", "window_s"),
    [
        (10 * HOUR, HOUR),
        (12 * HOUR, SPREAD_S / 2),
        (12.5 * HOUR, SPREAD_S / 2 + HOUR / 2),
        (2 * HOUR, HOUR / 2),
        (10 * MINUTE, 2.5 * MINUTE),
    ],
    ids=["overdue", "half due", "few due", "late", "at the last moment"],
)
def test_a_fleet_that_was_off_when_it_was_due_asks_evenly(
    record_property: Callable[[str, object], None], left_s: float, window_s: float
) -> None:
    fleet = Fleet(random.Random(20261202), lambda _now: OK, DAY, [Host() for _ in range(HOSTS)])
    for host in fleet.hosts:
        end = START + left_s
        held = rotation.Report("spiffe://a", "1", end - DAY - 120, end, end - DAY)
        host.value = host.value._replace(held=held)
    fleet.run(START, START + 4 * HOUR, spread_s=2.0)
    assert len(fleet.granted) == HOSTS
    assert not any(host.lapses for host in fleet.hosts)
    # By twelfths of the window, but for the first and last, in which it begins and ends.
    parts = counts(fleet.asked, window_s / 12)
    inner = parts[1:-1]
    mean = sum(inner) / len(inner)
    record_property(
        soak.FIGURE,
        histogram(parts, f"arrivals in each {window_s / 12:.0f} s, {left_s / HOUR:.2f} h left")
        + f"\npeak / mean: {max(inner) / mean:.3f}",
    )
    assert max(inner) <= 1.2 * mean
    assert max(fleet.asked) - START >= 0.95 * window_s


@pytest.mark.soak
def test_an_overloaded_ca_serves_a_fleet_at_the_rate_that_it_can(
    record_property: Callable[[str, object], None],
) -> None:
    capacity = 50
    fleet = Fleet(random.Random(20261130), Capacity(capacity), DAY, [Host() for _ in range(HOSTS)])
    fleet.run(START, START + HOUR, spread_s=2.0)
    assert len(fleet.granted) == HOSTS
    assert not any(host.lapses for host in fleet.hosts)
    served = sorted(fleet.granted)
    attempts = counts(fleet.asked, 1.0)
    record_property(
        soak.FIGURE,
        histogram(attempts, f"attempts a second at a CA that signs {capacity}")
        + f"\nnine of ten served after {served[HOSTS * 9 // 10] - START:.0f} s",
    )
    # Ten seconds later nothing is left of the herd: no second stands out of those around it.
    for place in range(20, int(served[HOSTS // 2] - START)):
        around = attempts[place - 10 : place + 10]
        assert attempts[place] <= 1.5 * sum(around) / len(around)
    fastest = HOSTS * 0.9 / capacity
    assert served[HOSTS * 9 // 10] - START <= 1.5 * fastest


@pytest.mark.soak
@pytest.mark.parametrize("is_refusing", [False, True], ids=["away", "refusing"])
def test_a_fleet_whose_ca_has_been_away_does_not_return_in_one_moment(is_refusing: bool) -> None:
    # Long enough that every pause has reached its bound.
    back = START + (2 * HOUR if is_refusing else 5 * MINUTE)
    no = REFUSED if is_refusing else AWAY
    fleet = Fleet(
        random.Random(20261201),
        lambda now: no if now < back else OK,
        DAY,
        [Host() for _ in range(HOSTS)],
    )
    fleet.run(START, back + HOUR)
    assert len(fleet.granted) == HOSTS
    longest = rotation.REFUSED_PAUSE_S if is_refusing else 2.0**rotation.COUNTED_WITHOUT
    assert max(fleet.granted) - back <= (1 + schedule.PAUSE_SPREAD) * longest + 1
    by_second = counts(fleet.granted, 1.0)
    # Evenly, they would take one pause: the one that comes first is the shortest.
    assert max(by_second) <= 2 * HOSTS / longest


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(soak.times(2, 20)))
def test_a_day_of_certificates_of_a_minute_never_lapses_while_a_credential_is_good(
    seed: int,
) -> None:
    chance = random.Random(seed)
    # The CA is away twice; in the second the token runs out, and another comes half an hour later.
    first = (START + 5 * HOUR, START + 5 * HOUR + 20 * MINUTE)
    second = (START + 14 * HOUR, START + 17 * HOUR)
    given = second[1] + 30 * MINUTE

    def answer(now: float) -> str:
        if first[0] <= now < first[1] or second[0] <= now < second[1]:
            return chance.choice((AWAY, HANGS))
        if chance.random() < 0.3:
            return chance.choice((BUSY, AWAY, AWAY, HANGS))
        return OK

    host = Host(token_until=START + 15 * HOUR)
    fleet = Fleet(chance, answer, MINUTE, [host])
    fleet.run(START, given)
    # The operator puts a new token there: a changed file is tried at once.
    host.token_until = float("inf")
    before = host.value
    assert before.last_error is not None
    assert before.last_error.code == rotation.MISSING
    host.value = rotation.credentials_changed(before)
    assert host.value.is_due(given)
    resume(fleet, host, given, START + DAY)
    # One pause after a CA is back, with a call that may have hung, and as often as it fails.
    within = (1 + schedule.PAUSE_SPREAD) * 2.0**rotation.COUNTED_WITHOUT + CALL_S
    ends = {first[0]: first[1], second[0]: given}
    for lapsed, held in host.lapses:
        outage = next((begin for begin in ends if begin <= lapsed <= begin + MINUTE), None)
        assert outage is not None, f"lapsed {lapsed - START:.0f} s after the start"
        assert held - ends[outage] <= 4 * within
    assert len(host.lapses) == 2
    assert host.value.is_held(START + DAY)
    assert len(fleet.granted) > 24 * 60


def resume(fleet: Fleet, host: Host, now: float, end: float) -> None:
    """Go on from here without a restart."""
    while now < end:
        now = max(now, host.value.next_at)
        if now < end:
            now = fleet._ask(host, now)
