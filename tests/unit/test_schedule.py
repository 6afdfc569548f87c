"""When the next certificate is asked for."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.identity import model, schedule

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
lives = st.floats(min_value=2, max_value=90 * 86400).map(lambda s: timedelta(seconds=s))
jitters = st.floats(min_value=-1, max_value=1)
parts = st.floats(min_value=0, max_value=0.999)
failure_counts = st.integers(min_value=0, max_value=5000)


def held_for(life: timedelta) -> model.Validity:
    return model.Validity(START, START + life)


@pytest.mark.parametrize("life_s", [4, 60, 3600, 86400, 90 * 86400])
def test_renewal_is_due_when_the_grace_ratio_of_the_life_is_left(life_s: int) -> None:
    life = timedelta(seconds=life_s)
    due = schedule.next_attempt(held_for(life), START, failures=0, jitter=0.0, ratio=0.25)
    assert due == START + life * 0.75


def test_jitter_spreads_a_fleet_to_both_sides() -> None:
    held = held_for(timedelta(hours=24))
    early, due, late = (
        schedule.next_attempt(held, START, failures=0, jitter=j) for j in (1.0, 0.0, -1.0)
    )
    assert early < due < late
    assert late - early == timedelta(hours=24) * 2 * schedule.SPREAD


def test_life_counts_from_when_the_certificate_came_not_from_its_backdated_start() -> None:
    # istiod dates back by two minutes: ten seconds asked give a span of 130.
    received = START + timedelta(minutes=2)
    held = model.Validity(START, received + timedelta(seconds=10), received)
    due = schedule.next_attempt(held, received, failures=0, jitter=0.0)
    assert due == received + timedelta(seconds=5)


def test_overdue_renewal_is_due_now() -> None:
    now = START + timedelta(minutes=50)
    assert schedule.next_attempt(held_for(timedelta(hours=1)), now, failures=0, jitter=0.0) == now


def test_without_a_certificate_the_first_attempt_is_now_and_failures_back_off() -> None:
    def pauses(held: model.Validity | None) -> list[float]:
        attempts = (schedule.next_attempt(held, START, failures=n, jitter=0.0) for n in range(10))
        return [(each - START).total_seconds() for each in attempts]

    assert pauses(None) == [0, 2, 4, 8, 16, 32, 64, 128, 150, 150]
    lapsed = model.Validity(START - timedelta(hours=2), START - timedelta(hours=1))
    assert pauses(lapsed) == pauses(None)


def test_certificate_of_ten_seconds_gets_several_attempts_when_the_ca_fails() -> None:
    held = held_for(timedelta(seconds=10))
    now = schedule.next_attempt(held, START, failures=0, jitter=0.0)
    attempts = 0
    while now < held.not_after:
        attempts += 1
        now = schedule.next_attempt(held, now, failures=attempts, jitter=0.0)
    assert 4 <= attempts <= 50


@given(lives, parts, failure_counts, jitters, st.floats(min_value=0, max_value=1))
def test_never_in_the_past_and_never_after_the_end_of_what_is_held(
    life: timedelta, part: float, failures: int, jitter: float, ratio: float
) -> None:
    held, now = held_for(life), START + life * part
    due = schedule.next_attempt(held, now, failures=failures, jitter=jitter, ratio=ratio)
    assert now <= due <= held.not_after


@given(st.integers(min_value=1, max_value=5000), jitters)
def test_a_failure_is_always_followed_by_a_pause(failures: int, jitter: float) -> None:
    due = schedule.next_attempt(None, START, failures=failures, jitter=jitter)
    assert timedelta(seconds=1.5) <= due - START <= timedelta(seconds=schedule.LONGEST_PAUSE_S)
