"""When the next certificate is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.identity import rotation, schedule

START = 1_772_366_400.0  # 2026-03-01 12:00 UTC
lives = st.floats(min_value=2, max_value=90 * 86400)
jitters = st.floats(min_value=-1, max_value=1)
parts = st.floats(min_value=0, max_value=0.999)
failure_counts = st.integers(min_value=0, max_value=5000)


def held_for(life_s: float) -> schedule.Life:
    return schedule.Life(START, START + life_s)


@pytest.mark.parametrize("life_s", [4, 60, 3600, 86400, 90 * 86400])
def test_renewal_is_due_when_the_grace_ratio_of_the_life_is_left(life_s: int) -> None:
    due = schedule.next_attempt(held_for(life_s), START, failures=0, jitter=0.0, ratio=0.25)
    assert due == START + life_s * 0.75


def test_jitter_spreads_a_fleet_to_both_sides() -> None:
    held = held_for(86400)
    early, due, late = (
        schedule.next_attempt(held, START, failures=0, jitter=j) for j in (1.0, 0.0, -1.0)
    )
    assert early < due < late
    assert late - early == pytest.approx(86400 * 2 * schedule.SPREAD)


def test_life_counts_from_when_the_certificate_came_not_from_its_backdated_start() -> None:
    # istiod dates back by two minutes: ten seconds asked give a span of 130.
    received = START + 120
    held = rotation.Report("me", "1", START, received + 10, received)
    due = schedule.next_attempt(held.life, received, failures=0, jitter=0.0)
    assert due == received + 5


@pytest.mark.parametrize("ratio", [0.001, 0.04, 0.5, 0.96, 0.999])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_jitter_brings_no_renewal_to_either_end_of_the_life(ratio: float, spread: float) -> None:
    held = held_for(86400)
    early, late = (
        schedule.next_attempt(held, START, failures=0, jitter=j, ratio=ratio, spread=spread)
        for j in (1.0, -1.0)
    )
    assert START + 86400 * (1 - ratio) / 2 <= early < late <= held.end - 86400 * ratio / 2


def test_without_spread_all_renew_at_the_same_part() -> None:
    held = held_for(86400)
    due = {
        schedule.next_attempt(held, START, failures=0, jitter=j, spread=0.0) for j in (-1.0, 0, 1)
    }
    assert due == {START + 43200}


@pytest.mark.parametrize(
    ("left_s", "failures"), [(60, 5), (600, 8), (43200, 8), (43200, 5000), (-1, 5), (-1, 5000)]
)
def test_hosts_that_have_failed_together_never_come_back_together(
    left_s: float, failures: int
) -> None:
    # Whatever bounds the pause: what is left, the longest one, the number of failures.
    held, now = held_for(86400), START + 86400 - left_s
    early, late = (
        schedule.next_attempt(held, now, failures=failures, jitter=j) - now for j in (-1.0, 1.0)
    )
    assert late == pytest.approx(3 * early)


def test_call_leaves_time_for_others_before_the_certificate_lapses() -> None:
    held = held_for(60)
    assert schedule.call_time(None, START, 20.0) == 20.0
    assert schedule.call_time(held, START + 61, 20.0) == 20.0
    assert schedule.call_time(held_for(3600), START, 20.0) == 20.0
    assert schedule.call_time(held, START + 30, 20.0) == 7.5
    assert schedule.call_time(held, START + 59, 20.0) == schedule.SHORTEST_CALL_S


@pytest.mark.parametrize("received", [START - 1, START + 11])
def test_a_moment_that_is_not_in_the_life_does_not_count(received: float) -> None:
    held = rotation.Report("me", "1", START, START + 10, received)
    assert held.life == (START, START + 10)


def test_overdue_renewal_is_due_now() -> None:
    now = START + 3000
    assert schedule.next_attempt(held_for(3600), now, failures=0, jitter=0.0) == now


def test_without_a_certificate_the_first_attempt_is_now_and_failures_back_off() -> None:
    def pauses(held: schedule.Life | None) -> list[float]:
        attempts = (schedule.next_attempt(held, START, failures=n, jitter=0.0) for n in range(10))
        return [each - START for each in attempts]

    assert pauses(None) == [0, 2, 4, 8, 16, 32, 64, 100, 100, 100]
    lapsed = schedule.Life(START - 7200, START - 3600)
    assert pauses(lapsed) == pauses(None)


def test_certificate_of_ten_seconds_gets_several_attempts_when_the_ca_fails() -> None:
    held = held_for(10)
    now = schedule.next_attempt(held, START, failures=0, jitter=0.0)
    attempts = 0
    while now < held.end:
        attempts += 1
        now = schedule.next_attempt(held, now, failures=attempts, jitter=0.0)
    assert 4 <= attempts <= 50


@given(lives, parts, failure_counts, jitters, st.floats(min_value=0, max_value=1))
def test_never_in_the_past_and_never_after_the_end_of_what_is_held(
    life: float, part: float, failures: int, jitter: float, ratio: float
) -> None:
    held, now = held_for(life), START + life * part
    due = schedule.next_attempt(held, now, failures=failures, jitter=jitter, ratio=ratio)
    assert now <= due <= held.end


@given(st.integers(min_value=1, max_value=5000), jitters)
def test_a_failure_is_always_followed_by_a_pause(failures: int, jitter: float) -> None:
    due = schedule.next_attempt(None, START, failures=failures, jitter=jitter)
    assert 1.0 <= due - START <= schedule.LONGEST_PAUSE_S


@given(lives, parts, jitters, parts, parts)
def test_after_a_start_the_renewal_comes_before_the_end_and_not_later_than_without(
    life_s: float, passed: float, jitter: float, ratio: float, spread: float
) -> None:
    held = held_for(life_s)
    now = START + passed * life_s
    if now >= held.end:
        return
    at = schedule.after_start(held, now, jitter=jitter, ratio=ratio, spread=spread)
    latest = schedule.next_attempt(held, now, failures=0, jitter=-1.0, ratio=ratio, spread=spread)
    put_off = now + (held.end - now) * schedule.START_PART
    assert now <= at <= max(latest, put_off) <= held.end
    assert at <= max(latest, now + schedule.LONGEST_START_S)


def test_a_start_changes_nothing_while_no_renewal_can_be_due() -> None:
    held = held_for(86400)
    now = START + 6 * 3600
    for jitter in (-1.0, 0.3, 1.0):
        usual = schedule.next_attempt(held, now, failures=0, jitter=jitter)
        assert schedule.after_start(held, now, jitter=jitter) == usual
