"""Which ports are to be held, which are, and when those that are taken are tried again."""

from istio_hostagent.lifecycle import holding
from istio_hostagent.lifecycle.holding import Holding

WANTED = frozenset({15001, 15006})


def test_a_host_that_captures_nothing_holds_nothing() -> None:
    assert Holding().is_held
    assert not Holding().is_due(0.0)


def test_what_is_desired_is_due_at_once_and_held_once_all_of_it_is() -> None:
    value = holding.desire(Holding(), WANTED)
    assert value.is_due(0.0)
    assert not holding.failed(value, frozenset({15001}), "taken", 10.0).is_held
    assert holding.holds(value, WANTED).is_held


def test_what_is_taken_is_tried_ever_more_seldom_and_never_given_up() -> None:
    value = holding.desire(Holding(), WANTED)
    pauses = []
    for _ in range(12):
        value = holding.failed(value, frozenset(), "taken", 0.0)
        pauses.append(value.retry_at)
        assert not value.is_due(value.retry_at - 0.01)
        assert value.is_due(value.retry_at)
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == holding.LONGEST_PAUSE_S


def test_other_ports_are_tried_at_once_and_those_before_stay_until_they_are_let_go() -> None:
    value = holding.holds(holding.desire(Holding(), WANTED), WANTED)
    value = holding.desire(value, frozenset({15101, 15006}))
    assert value.is_due(0.0)
    assert value.held == WANTED
    assert value.others == {15001}
    assert holding.let_go(value, frozenset({15006})).others == frozenset()


def test_the_same_ports_change_nothing() -> None:
    value = holding.failed(holding.desire(Holding(), WANTED), frozenset(), "taken", 10.0)
    assert holding.desire(value, WANTED) is value
