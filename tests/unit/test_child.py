"""The table of a child process: every pair is decided, and what must never happen is not in it."""

import itertools

import pytest

from istio_hostagent.supervise import child
from istio_hostagent.supervise.child import Action, Child, Event, Other, State

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
    if pair == (State.READY, Event.SUCCEED):
        assert step == (State.STARTING, Action.SPAWN)  # beside the other one
    elif step.action is Action.SPAWN:
        assert not had_process
    elif step.action is Action.PROMOTE:
        assert step.state is State.READY
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
        assert (step.state is State.READY) == (step.action is Action.PROMOTE)
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


def live(*events: Event, start: Child = Child()) -> Child:  # noqa: B008 - it is frozen
    """A child after these events, an hour apart; its first moment is 0."""
    for hour, event in enumerate(events):
        start, _ = child.take(start, event, 3600.0 * hour, drain_s=45.0, has_exited=True)
    return start


RUNS = live(Event.START, Event.READY)
HANDS_OVER = live(Event.SUCCEED, start=RUNS)
HAS_HANDED_OVER = live(Event.SUCCEED, Event.READY, start=RUNS)


def test_what_takes_over_is_ready_before_the_other_one_drains() -> None:
    assert (HANDS_OVER.state, HANDS_OVER.other) == (State.STARTING, Other.SERVING)
    assert HANDS_OVER.is_handing_over and HANDS_OVER.is_waiting
    assert (HAS_HANDED_OVER.state, HAS_HANDED_OVER.other) == (State.READY, Other.DRAINING)
    assert HAS_HANDED_OVER.is_blocked
    assert HAS_HANDED_OVER.other_at == 3600.0 + 45.0 + child.OVERDUE_S
    alone = live(Event.DRAINED, start=HAS_HANDED_OVER)
    assert (alone.state, alone.other, alone.other_at) == (State.READY, Other.NONE, None)


def test_what_fails_to_take_over_is_tried_again_beside_the_other_one() -> None:
    failed = live(Event.EXITED, start=HANDS_OVER)
    assert (failed.state, failed.other, failed.failures) == (State.BACKOFF, Other.SERVING, 1)
    again = live(Event.TIMER, start=failed)
    assert (again.state, again.other) == (State.STARTING, Other.SERVING)
    assert live(Event.EXITED, Event.TIMER, Event.EXITED, start=again).is_given_up


@pytest.mark.parametrize(
    ("events", "other"),
    [((), Other.ENDING), ((Event.START,), Other.ENDING), ((Event.EXITED,), Other.NONE)],
    ids=["starts", "is-replaced", "has-failed"],
)
def test_what_serves_beside_it_can_be_come_back_to(
    events: tuple[Event, ...], other: Other
) -> None:
    back = live(*events, Event.RETURN, start=HANDS_OVER)
    assert (back.state, back.other) == (State.READY, other)
    assert (back.failures, back.last_error, back.is_waiting) == (0, "", False)


def test_another_one_that_is_wanted_meanwhile_takes_over_from_the_same() -> None:
    changed = live(Event.START, start=HANDS_OVER)
    assert (changed.state, changed.other) == (State.REPLACING, Other.SERVING)
    assert live(Event.EXITED, start=changed).state is State.STARTING


def test_whoever_waits_for_one_that_is_gone_is_started_anew() -> None:
    lost, action = child.take(HANDS_OVER, Event.LOST, 0.0)
    assert (lost.state, lost.other, action) == (State.REPLACING, Other.NONE, Action.KILL)


@pytest.mark.parametrize("event", [Event.STOP, Event.HUNG])
@pytest.mark.parametrize("start", [HANDS_OVER, HAS_HANDED_OVER], ids=["before", "after"])
def test_a_stop_and_a_hang_end_both(start: Child, event: Event) -> None:
    ended = live(event, start=start)
    assert ended.other is Other.ENDING
    assert ended.state in (State.STOPPING, State.REPLACING)


def test_the_end_of_the_newer_one_ends_the_one_that_drains() -> None:
    """Nothing serves: the next one is started alone."""
    ended = live(Event.EXITED, start=HAS_HANDED_OVER)
    assert (ended.state, ended.other, ended.is_blocked) == (State.BACKOFF, Other.ENDING, True)


def test_of_two_that_are_taken_on_it_is_asked_who_serves() -> None:
    both = child.taken_on(0.0, has_other=True)
    assert both.is_handing_over and both.is_blocked
    assert live(Event.READY, start=both).other is Other.DRAINING
    known = live(Event.OTHER_SERVES, start=both)
    assert (known.other, known.is_blocked) == (Other.SERVING, False)
    assert live(Event.EXITED, start=both).other is Other.SERVING


def test_never_are_there_three_and_none_is_left_behind() -> None:
    """Every way through the states, as far as whoever reports the events keeps to the rules."""
    queue = [RUNS, child.taken_on(0.0, has_other=True)]
    seen = {each._replace(ready_at=None, patience_at=None) for each in queue}
    while queue:
        before = queue.pop()
        for event in Event:
            is_there = before.other is not Other.NONE
            if (before.state, event) in IMPOSSIBLE:
                continue
            if event is Event.LOST and not before.is_handing_over:
                continue
            if event is Event.OTHER_SERVES and before.other is not Other.UNKNOWN:
                continue
            if event is Event.DRAINED and not is_there:
                continue
            # What the supervisor waits for, and what nobody asks for (`steps`).
            is_held = before.other in (Other.ENDING, Other.UNKNOWN) and (
                (event is Event.EXITED and before.state in (State.STOPPING, State.REPLACING))
                or (event in (Event.TIMER, Event.START) and before.state is State.BACKOFF)
            )
            is_misplaced = event is Event.RETURN and before.other is not Other.SERVING
            is_misplaced |= event is Event.START and before.other is Other.UNKNOWN
            is_misplaced |= event is Event.SUCCEED and is_there
            if is_held or is_misplaced:
                continue
            after, action = child.take(before, event, 0.0)
            if action is Action.SPAWN:
                assert after.other in (Other.NONE, Other.SERVING), (before, event)
            if after.state is State.IDLE:
                assert after.other is Other.NONE, (before, event)
            assert not (after.state is State.READY and after.is_handing_over)
            known = after._replace(
                timer_at=None, patience_at=None, ready_at=None, failures=0, other_at=None
            )
            if known not in seen:
                seen.add(known)
                queue.append(after)
    assert {each.other for each in seen} == set(Other)
