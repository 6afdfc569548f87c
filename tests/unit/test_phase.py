"""The table of phases: where each turn leads, and from where it can be taken."""

import pytest

from istio_hostagent.lifecycle.phase import TRANSITIONS, Phase, Turn, next_phase

LEADS_TO = {
    Turn.ATTEMPT: Phase.JOINING,
    Turn.FAIL: Phase.OUT,
    Turn.COMMIT: Phase.JOINED,
    Turn.TRY: Phase.TRYING,
    Turn.ACCEPT: Phase.JOINED,
    Turn.GO_BACK: Phase.GOING_BACK,
    Turn.SETTLE: Phase.JOINED,
    Turn.LEAVE: Phase.LEAVING,
}
FROM = {
    Turn.ATTEMPT: {Phase.OUT},
    Turn.FAIL: {Phase.JOINING},
    Turn.COMMIT: {Phase.JOINING},
    Turn.TRY: {Phase.JOINED, Phase.TRYING, Phase.GOING_BACK},
    Turn.ACCEPT: {Phase.TRYING},
    Turn.GO_BACK: {Phase.TRYING},
    Turn.SETTLE: {Phase.GOING_BACK},
    Turn.LEAVE: set(Phase),
}


def test_a_turn_leads_to_one_phase_wherever_it_is_taken() -> None:
    assert {(turn, target) for (_, turn), target in TRANSITIONS.items()} == set(LEADS_TO.items())


def test_a_turn_is_taken_only_where_it_means_something() -> None:
    for turn in Turn:
        assert {phase for phase, each in TRANSITIONS if each is turn} == FROM[turn]


def test_what_cannot_happen_raises() -> None:
    with pytest.raises(KeyError):
        next_phase(Phase.OUT, Turn.COMMIT)
