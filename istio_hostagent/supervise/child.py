"""One child process as a table: its states, what can happen, and what to do then.

One that takes over from another runs beside it for a while. The newer one is the child; what the
other one still does is `Child.other`. There are never three.

Not here: spawning and signals (the caller performs the actions and reports the events).
Always: a pair that is not in the table is a bug and raises KeyError; exactly one process exists in
STARTING, READY, STOPPING and REPLACING, none in IDLE and BACKOFF, the other one not counted. In
IDLE there is no other one. EXITED of a process that was told to end is reported once the other one
that was told has ended, too.
"""

import enum
from typing import NamedTuple


class State(enum.Enum):
    """Where a child is."""

    IDLE = "idle"  # not wanted
    STARTING = "starting"  # runs and is not ready, or not ready any more
    READY = "ready"
    STOPPING = "stopping"  # told to end, for good
    REPLACING = "replacing"  # told to end, and to be started again
    BACKOFF = "backoff"  # wanted, and ended by itself; waits for its next start


class Event(enum.Enum):
    """What the caller reports."""

    START = "start"  # it is wanted, or wanted with another spec
    SUCCEED = "succeed"  # it is wanted with another spec, and can take over from what runs
    RETURN = "return"  # what serves beside it is wanted, and it is not any more
    STOP = "stop"  # it is not wanted any more
    READY = "ready"  # the readiness check passed
    UNREADY = "unready"  # the readiness check failed
    HUNG = "hung"  # the process does not answer at all any more (`liveness`)
    EXITED = "exited"  # the process ended, or could not be spawned
    TIMER = "timer"  # the time of the state is over: stop deadline, or back-off
    OTHER_SERVES = "other serves"  # the other one has not handed over
    LOST = "lost"  # the other one has ended, although it still served
    DRAINED = "drained"  # the other one has ended as it should


class Action(enum.Enum):
    """What the caller does on a transition. Each but NOTHING cancels the running timer."""

    NOTHING = "nothing"
    SPAWN = "spawn"  # failures in that are an EXITED
    SETTLE = "settle"  # it serves
    WATCH = "watch"  # it serves no more
    TERMINATE = (
        "terminate"  # SIGTERM; arm the stop deadline. To the other one, too, if it is ENDING
    )
    KILL = "kill"  # SIGKILL; no timer, an EXITED follows. To the other one, too, if it is ENDING
    PROMOTE = "promote"  # the other one is the child again; SIGKILL to the newer one
    DELAY = "delay"  # count a failure; arm the timer with restart_delay()
    FORGET = "forget"  # no process, no timer, no failures


class Other(enum.Enum):
    """What a second process does beside the child."""

    NONE = "none"  # there is none
    UNKNOWN = "unknown"  # it serves, or has handed over: an earlier agent has started both
    SERVING = "serving"  # it serves until the child is ready, and on if that never is
    DRAINING = "draining"  # it has handed over, and ends by itself
    ENDING = "ending"  # it was told to end


class Step(NamedTuple):
    """The next state, and what to do on the way."""

    state: State
    action: Action


TRANSITIONS: dict[tuple[State, Event], Step] = {
    (State.IDLE, Event.START): Step(State.STARTING, Action.SPAWN),
    (State.IDLE, Event.STOP): Step(State.IDLE, Action.NOTHING),
    # A check that was under way when the process ended.
    (State.IDLE, Event.READY): Step(State.IDLE, Action.NOTHING),
    (State.IDLE, Event.UNREADY): Step(State.IDLE, Action.NOTHING),
    (State.STARTING, Event.START): Step(State.REPLACING, Action.TERMINATE),
    (State.STARTING, Event.STOP): Step(State.STOPPING, Action.TERMINATE),
    (State.STARTING, Event.READY): Step(State.READY, Action.SETTLE),
    (State.STARTING, Event.UNREADY): Step(State.STARTING, Action.NOTHING),
    (State.STARTING, Event.EXITED): Step(State.BACKOFF, Action.DELAY),
    # What hangs does not hear SIGTERM. One that only is not ready is never ended for that.
    (State.STARTING, Event.HUNG): Step(State.REPLACING, Action.KILL),
    (State.READY, Event.START): Step(State.REPLACING, Action.TERMINATE),
    (State.READY, Event.STOP): Step(State.STOPPING, Action.TERMINATE),
    (State.READY, Event.READY): Step(State.READY, Action.NOTHING),
    (State.READY, Event.UNREADY): Step(State.STARTING, Action.WATCH),
    (State.READY, Event.HUNG): Step(State.REPLACING, Action.KILL),
    (State.READY, Event.EXITED): Step(State.BACKOFF, Action.DELAY),
    (State.STOPPING, Event.START): Step(State.REPLACING, Action.NOTHING),
    (State.STOPPING, Event.STOP): Step(State.STOPPING, Action.NOTHING),
    (State.STOPPING, Event.READY): Step(State.STOPPING, Action.NOTHING),
    (State.STOPPING, Event.UNREADY): Step(State.STOPPING, Action.NOTHING),
    (State.STOPPING, Event.EXITED): Step(State.IDLE, Action.FORGET),
    (State.STOPPING, Event.TIMER): Step(State.STOPPING, Action.KILL),
    (State.REPLACING, Event.START): Step(State.REPLACING, Action.NOTHING),
    (State.REPLACING, Event.STOP): Step(State.STOPPING, Action.NOTHING),
    (State.REPLACING, Event.READY): Step(State.REPLACING, Action.NOTHING),
    (State.REPLACING, Event.UNREADY): Step(State.REPLACING, Action.NOTHING),
    (State.REPLACING, Event.EXITED): Step(State.STARTING, Action.SPAWN),
    (State.REPLACING, Event.TIMER): Step(State.REPLACING, Action.KILL),
    # A changed specification is worth a try at once.
    (State.BACKOFF, Event.START): Step(State.STARTING, Action.SPAWN),
    (State.BACKOFF, Event.STOP): Step(State.IDLE, Action.FORGET),
    (State.BACKOFF, Event.READY): Step(State.BACKOFF, Action.NOTHING),
    (State.BACKOFF, Event.UNREADY): Step(State.BACKOFF, Action.NOTHING),
    (State.BACKOFF, Event.TIMER): Step(State.STARTING, Action.SPAWN),
}

_NOT_READY = [state for state in State if state is not State.READY]

# Who may take over is asked for only where something serves; elsewhere it is started.
_OF_TWO: dict[tuple[State, Event], Step] = {
    **{(state, Event.SUCCEED): TRANSITIONS[state, Event.START] for state in _NOT_READY},
    (State.READY, Event.SUCCEED): Step(State.STARTING, Action.SPAWN),
    **{(state, Event.RETURN): Step(state, Action.NOTHING) for state in State},
    (State.STARTING, Event.RETURN): Step(State.READY, Action.PROMOTE),
    (State.REPLACING, Event.RETURN): Step(State.READY, Action.PROMOTE),
    (State.BACKOFF, Event.RETURN): Step(State.READY, Action.PROMOTE),
    # It waits for what nobody will give it any more: it is started anew, by itself.
    **{(state, Event.LOST): Step(state, Action.NOTHING) for state in State},
    (State.STARTING, Event.LOST): Step(State.REPLACING, Action.KILL),
    **{(state, Event.DRAINED): Step(state, Action.NOTHING) for state in State},
    **{(state, Event.OTHER_SERVES): Step(state, Action.NOTHING) for state in State},
}
TRANSITIONS |= _OF_TWO

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
# SIGTERM is followed by SIGKILL after so long.
STOP_TIME_S = 8.0
# One that was to end by itself is killed so long after that.
OVERDUE_S = 10.0
# It has served for so long: the failures before are forgotten.
STEADY_S = 60.0
# It is waited for so long, or until it has ended so often, before its host goes on without it.
READY_TIME_S = 30.0
READY_FAILURES = 3


class Child(NamedTuple):
    """One child, with its deadlines (monotonic seconds)."""

    state: State = State.IDLE
    timer_at: float | None = None  # stop deadline or back-off
    patience_at: float | None = None  # wanted: while it is not ready, waited for until then
    ready_at: float | None = None  # since when it is, or was, ready; None: not since its start
    failures: int = 0  # ends in a row that nobody asked for
    has_exited: bool = False  # its last end was its own: no signal, no shortage
    last_error: str = ""
    other: Other = Other.NONE
    other_at: float | None = None  # it is killed then

    @property
    def is_handing_over(self) -> bool:
        """Whether the other one serves, as far as is known, and this is to take over from it."""
        return self.other in (Other.SERVING, Other.UNKNOWN)

    @property
    def is_blocked(self) -> bool:
        """Whether another process could only be started as the third one, or too early."""
        return self.other in (Other.UNKNOWN, Other.DRAINING, Other.ENDING)

    @property
    def is_waiting(self) -> bool:
        """Whether it is wanted and its process, if there is one, has not been ready yet."""
        return self.patience_at is not None and self.ready_at is None

    @property
    def is_given_up(self) -> bool:
        """Whether it has ended so often without having been ready that this is its answer."""
        return self.is_waiting and self.failures >= READY_FAILURES

    def is_late(self, now: float) -> bool:
        """Whether it has had its time, or its tries, to become ready."""
        is_over = self.patience_at is not None and now >= self.patience_at
        return self.is_waiting and (is_over or self.is_given_up)


def taken_on(now: float, *, has_other: bool = False) -> Child:
    """One that runs already: an earlier agent has started it, maybe beside another one."""
    other = Other.UNKNOWN if has_other else Other.NONE
    return Child(State.STARTING, patience_at=now + READY_TIME_S, other=other)


def next_step(state: State, event: Event) -> Step:
    """Look the pair up; KeyError means that the caller reported what cannot happen."""
    return TRANSITIONS[state, event]


def take(
    child: Child,
    event: Event,
    now: float,
    *,
    error: str = "",
    has_exited: bool = False,
    drain_s: float = 0.0,
) -> tuple[Child, Action]:
    """Take an event: the child afterwards, and what to do.

    `error` says what is wrong, with EXITED or HUNG; `has_exited`: EXITED by itself: no signal, and
    no shortage of the machine. `drain_s`: so long what hands over goes on.
    """
    if child.state is State.BACKOFF and event is Event.STOP and child.other is not Other.NONE:
        # All that runs is the other one: it is the child that ends.
        child = child._replace(state=State.READY, other=Other.NONE, other_at=None)
    step = next_step(child.state, event)
    was_asked = child.state in (State.STOPPING, State.REPLACING)
    found = child._replace(state=step.state)
    match event:
        case Event.START | Event.SUCCEED:
            found = found._replace(patience_at=now + READY_TIME_S, failures=0, last_error="")
        case Event.STOP:
            found = found._replace(patience_at=None)
        case Event.EXITED if not was_asked:
            found = found._replace(has_exited=has_exited, last_error=error)
        case Event.HUNG:
            found = found._replace(last_error=error)
    found = _act(found, step.action, now)
    other = _other(child, event, step)
    if other is not child.other:
        at = now + drain_s + OVERDUE_S if other in (Other.DRAINING, Other.ENDING) else None
        found = found._replace(other=other, other_at=at)
    return found, step.action


def _other(child: Child, event: Event, step: Step) -> Other:
    """What the other one does from now on."""
    before = child.other
    if event in (Event.LOST, Event.DRAINED):
        return Other.NONE
    if event is Event.SUCCEED and child.state is State.READY:
        return Other.SERVING
    if step.action is Action.PROMOTE:
        has_newer = child.state is not State.BACKOFF
        return Other.ENDING if has_newer else Other.NONE
    # Whoever hangs is the one that serves.
    is_end = event in (Event.STOP, Event.HUNG)
    if child.is_handing_over:
        if step.action is Action.SETTLE:
            return Other.DRAINING
        is_known = event in (Event.OTHER_SERVES, Event.EXITED)
        return Other.ENDING if is_end else Other.SERVING if is_known else before
    is_end = is_end or event is Event.EXITED or step.action is Action.TERMINATE
    return Other.ENDING if is_end and before is not Other.NONE else before


def _act(child: Child, action: Action, now: float) -> Child:
    if action is Action.NOTHING:
        return child
    child = child._replace(timer_at=None)
    match action:
        case Action.SPAWN:
            return child._replace(ready_at=None)
        case Action.SETTLE:
            return child._replace(ready_at=now, last_error="")
        case Action.TERMINATE:
            return child._replace(timer_at=now + STOP_TIME_S)
        case Action.DELAY:
            was_steady = child.ready_at is not None and now - child.ready_at >= STEADY_S
            failures = 1 if was_steady else child.failures + 1
            timer_at = now + restart_delay(failures)
            return child._replace(ready_at=None, failures=failures, timer_at=timer_at)
        case Action.PROMOTE:
            # It has been ready for long, and the failures were not its own.
            return child._replace(ready_at=now, patience_at=None, failures=0, last_error="")
        case Action.FORGET:
            return child._replace(ready_at=None, failures=0)
    return child


def restart_delay(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row (from 1 on): 0.2, 0.4, … 30."""
    # Past 2 ** 8 the cap has long been reached; the bound keeps the power small for any count.
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 8))
