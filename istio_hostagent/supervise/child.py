"""One child process as a table: its states, what can happen, and what to do then.

Not here: spawning, signals and timers (the caller performs the actions and reports the events).
Always: a pair that is not in the table is a bug and raises KeyError; exactly one process exists in
STARTING, READY, STOPPING and REPLACING, none in IDLE and BACKOFF.
"""

import enum
from dataclasses import dataclass


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
    STOP = "stop"  # it is not wanted any more
    READY = "ready"  # the readiness check passed
    UNREADY = "unready"  # the readiness check failed
    HUNG = "hung"  # the process does not answer at all any more (`liveness`)
    EXITED = "exited"  # the process ended, or could not be spawned
    TIMER = "timer"  # the time of the state is over: stop deadline, or back-off


class Action(enum.Enum):
    """What the caller does on a transition. Each but NOTHING cancels the running timer."""

    NOTHING = "nothing"
    SPAWN = "spawn"  # failures in that are an EXITED
    SETTLE = "settle"  # it serves
    WATCH = "watch"  # it serves no more
    TERMINATE = "terminate"  # SIGTERM; arm the stop deadline
    KILL = "kill"  # SIGKILL; no timer, an EXITED follows
    DELAY = "delay"  # count a failure; arm the timer with restart_delay()
    FORGET = "forget"  # no process, no timer, no failures


@dataclass(frozen=True)
class Step:
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

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0


def next_step(state: State, event: Event) -> Step:
    """Look the pair up; KeyError means that the caller reported what cannot happen."""
    return TRANSITIONS[state, event]


def restart_delay(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row (from 1 on): 0.2, 0.4, … 30."""
    # Past 2 ** 8 the cap has long been reached; the bound keeps the power small for any count.
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 8))
