"""The table of a child process: every pair is decided, and what must never happen is not in it."""

import itertools

import pytest

from istio_hostagent.supervise import child
from istio_hostagent.supervise.child import Action, Event, State

HAS_PROCESS = {State.STARTING, State.READY, State.STOPPING, State.REPLACING}

# No process that could end, or no timer that could fire.
IMPOSSIBLE = {
    (State.IDLE, Event.EXITED),
    (State.IDLE, Event.TIMER),
    (State.STARTING, Event.TIMER),
    (State.READY, Event.TIMER),
    (State.BACKOFF, Event.EXITED),
    # Nobody is asked who does not run, or is told to end.
    (State.IDLE, Event.HUNG),
    (State.STOPPING, Event.HUNG),
    (State.REPLACING, Event.HUNG),
    (State.BACKOFF, Event.HUNG),
}

EVERY_PAIR = set(itertools.product(State, Event))


def test_every_pair_has_a_decision() -> None:
    assert set(child.TRANSITIONS) == EVERY_PAIR - IMPOSSIBLE


@pytest.mark.parametrize("pair", sorted(IMPOSSIBLE, key=str), ids=str)
def test_what_cannot_happen_raises(pair: tuple[State, Event]) -> None:
    with pytest.raises(KeyError):
        child.next_step(*pair)


@pytest.mark.parametrize("pair", sorted(child.TRANSITIONS, key=str), ids=str)
def test_a_process_is_spawned_exactly_where_there_is_none(pair: tuple[State, Event]) -> None:
    state, event = pair
    step = child.next_step(state, event)
    had_process = state in HAS_PROCESS and event is not Event.EXITED
    if step.action is Action.SPAWN:
        assert not had_process
    else:
        assert (step.state in HAS_PROCESS) == had_process
    if step.action in (Action.TERMINATE, Action.KILL):
        assert had_process


@pytest.mark.parametrize("pair", sorted(child.TRANSITIONS, key=str), ids=str)
def test_what_an_event_says_is_where_it_leads(pair: tuple[State, Event]) -> None:
    state, event = pair
    step = child.next_step(state, event)
    if state in (State.STARTING, State.READY):
        told = {
            Event.READY: State.READY,
            Event.UNREADY: State.STARTING,
            Event.EXITED: State.BACKOFF,
        }
        assert step.state is told.get(event, step.state)
    elif event in (Event.READY, Event.UNREADY):
        assert step.state is state
    else:
        # Nobody serves but who has said so, and who is started has been spawned.
        assert step.state is not State.READY
        assert (step.state is State.STARTING) == (step.action is Action.SPAWN)


@pytest.mark.parametrize("state", State, ids=str)
def test_stop_ends_in_idle_and_stays_there(state: State) -> None:
    step = child.next_step(state, Event.STOP)
    if step.state is State.STOPPING:
        step = child.next_step(step.state, Event.EXITED)
    assert step.state is State.IDLE
    for event in (Event.READY, Event.UNREADY, Event.STOP):
        assert child.next_step(State.IDLE, event) == child.Step(State.IDLE, Action.NOTHING)


def walk(state: State, *events: Event) -> list[tuple[State, Action]]:
    seen = []
    for event in events:
        step = child.next_step(state, event)
        state = step.state
        seen.append((step.state, step.action))
    return seen


def test_crash_waits_before_the_next_start() -> None:
    events = (Event.START, Event.READY, Event.EXITED, Event.TIMER)
    assert walk(State.IDLE, *events) == [
        (State.STARTING, Action.SPAWN),
        (State.READY, Action.SETTLE),
        (State.BACKOFF, Action.DELAY),
        (State.STARTING, Action.SPAWN),
    ]


def test_process_that_ignores_sigterm_is_killed() -> None:
    events = (Event.STOP, Event.TIMER, Event.EXITED)
    assert walk(State.READY, *events) == [
        (State.STOPPING, Action.TERMINATE),
        (State.STOPPING, Action.KILL),
        (State.IDLE, Action.FORGET),
    ]


@pytest.mark.parametrize("state", [State.STARTING, State.READY])
def test_process_that_says_no_is_not_ended(state: State) -> None:
    assert walk(state, *[Event.UNREADY] * 100)[-1] == (State.STARTING, Action.NOTHING)


@pytest.mark.parametrize("state", [State.STARTING, State.READY])
def test_process_that_hangs_is_killed_and_started_again(state: State) -> None:
    events = (Event.HUNG, Event.EXITED)
    assert walk(state, *events) == [
        (State.REPLACING, Action.KILL),
        (State.STARTING, Action.SPAWN),
    ]


def test_start_during_a_stop_starts_again_after_it() -> None:
    events = (Event.STOP, Event.START, Event.EXITED)
    assert walk(State.READY, *events)[-1] == (State.STARTING, Action.SPAWN)


def test_delay_doubles_up_to_half_a_minute() -> None:
    delays = [child.restart_delay(failures) for failures in range(1, 11)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])
    assert child.restart_delay(10**9) == 30
