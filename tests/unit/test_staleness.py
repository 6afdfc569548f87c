"""When other people's changes ask for packets, and how few rounds a stream of them may cost."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.redirect.staleness import LONGEST_S, PAUSE_S, Kind, Staleness

STRUCTURE, CONTENT, CURE = Kind.STRUCTURE, Kind.CONTENT, Kind.CURE


def proved_at(now: float) -> Staleness:
    made = Staleness()
    made.proved(now)
    return made


def rounds(made: Staleness, kind: Kind, *, until: float, every_s: float) -> list[float]:
    """When packets are sent while somebody changes something again and again, from 0 on."""
    sent = []
    for number in range(round(until / every_s)):
        now = number * every_s
        made.changed(kind, now)
        if made.due_at <= now:
            made.proved(now)
            sent.append(now)
    return sent


def test_without_a_change_no_packets_are_due() -> None:
    assert proved_at(0.0).due_at == math.inf


@pytest.mark.parametrize(
    ("kind", "delay_s"), [(STRUCTURE, 0.2), (CONTENT, 10.0), (CURE, 0.2)], ids=lambda v: str(v)
)
def test_the_first_change_after_a_long_time_is_followed_soon(kind: Kind, delay_s: float) -> None:
    made = proved_at(0.0)
    made.changed(kind, 1000.0)
    assert made.due_at == 1000.0 + delay_s


def test_a_burst_is_followed_once_and_counts_from_its_begin() -> None:
    made = proved_at(0.0)
    for tenth in range(10):
        made.changed(STRUCTURE, 1000.0 + tenth / 10)
    assert made.due_at == 1000.2
    made.proved(1000.9)
    assert made.due_at == math.inf


@pytest.mark.parametrize("kind", [STRUCTURE, CONTENT])
def test_of_an_endless_stream_ever_fewer_are_followed(kind: Kind) -> None:
    sent = rounds(proved_at(-1000.0), kind, until=3600.0, every_s=0.05)
    gaps = [round(after - before) for before, after in itertools.pairwise(sent)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= LONGEST_S + 1
    assert len([at for at in sent if at < 30.0]) <= 3
    assert len(sent) <= 14


def test_a_change_of_rules_in_a_stream_of_elements_is_followed_soon() -> None:
    made = proved_at(-1000.0)
    rounds(made, CONTENT, until=300.0, every_s=0.05)
    made.changed(STRUCTURE, 300.0)
    assert made.due_at == 300.2


def test_when_the_stream_has_paused_its_last_change_is_followed() -> None:
    made = proved_at(-1000.0)
    sent = rounds(made, STRUCTURE, until=200.0, every_s=0.05)
    assert made.due_at == pytest.approx(199.95 + PAUSE_S)
    assert made.due_at < sent[-1] + LONGEST_S


def test_after_a_pause_a_change_is_a_first_one_again() -> None:
    made = proved_at(-1000.0)
    rounds(made, STRUCTURE, until=3600.0, every_s=0.05)
    made.proved(3700.0)
    made.changed(STRUCTURE, 3706.0)
    assert made.due_at == 3706.2


def test_a_cure_may_come_at_any_moment_and_a_stream_of_them_costs_little() -> None:
    made = proved_at(100.0)
    made.changed(CURE, 100.1)
    assert made.due_at == pytest.approx(100.3)
    sent = rounds(proved_at(-1000.0), CURE, until=60.0, every_s=0.05)
    assert len(sent) <= 9


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Kind)), st.floats(0.0, 100.0), st.booleans()), min_size=1
    )
)
def test_every_change_is_followed_in_the_end(steps: list[tuple[Kind, float, bool]]) -> None:
    """Whatever came before: at the latest a pause after the last change packets are due."""
    made, now = proved_at(0.0), 0.0
    for kind, later_s, is_proved in steps:
        now += later_s
        if is_proved:
            made.proved(now)
        made.changed(kind, now)
        assert made.due_at <= now + PAUSE_S
    made.proved(now)
    assert made.due_at == math.inf


def test_a_firewall_that_is_loaded_anew_is_looked_at_until_it_is_whole() -> None:
    """It takes two seconds and a commit every 0.05 s; and ten seconds later again."""
    made = proved_at(0.0)
    for begun in (1000.0, 1010.0):
        sent = []
        for number in range(40):
            now = begun + number * 0.05
            made.changed(STRUCTURE, now)
            made.changed(Kind.FIREWALL, now)
            if made.due_at <= now:
                made.proved(now)
                sent.append(now)
        assert 3 <= len(sent) <= 5
        assert made.due_at <= begun + 2.0 + 2.0
        made.proved(made.due_at)


def test_beside_an_endless_stream_of_rules_a_firewall_costs_few_rounds() -> None:
    sent = rounds(proved_at(-1000.0), Kind.FIREWALL, until=3600.0, every_s=0.05)
    assert len(sent) <= 20
