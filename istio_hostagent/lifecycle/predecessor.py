"""The service of another Istio agent on this host as a value: whether it runs, and is replaced.

Its proxy and ours cannot share their ports, so between its end and the start of ours new
connections are held: they are neither refused nor let through. Where it does not listen at a port
of ours (the classic releases have one for both directions), what our rules lead there is held for
as long as they do and ours does not serve. Not here: units and packets (the part performs), and
when it is replaced (`steps`).
"""

import enum
from typing import NamedTuple

PAUSE_S = 2.0


class State(enum.Enum):
    """Where it is."""

    NONE = "none"  # there is none
    RUNNING = "running"
    PREPARING = "preparing"  # what would come to a port that it has not is about to be held
    PREPARED = "prepared"  # that is held; everything else it serves
    ENDING = "ending"  # it is being stopped; at the end of that, new connections are held
    STUCK = "stuck"  # it runs although it was told to end; new connections may be held
    HELD = "held"  # it was stopped by us, new connections are held
    OPENING = "opening"  # they are being let in
    REPLACED = "replaced"  # and are no longer held
    RETURNING = "returning"  # it is being started again
    BACK = "back"  # it serves again; what comes to a port that it has not is held


class Predecessor(NamedTuple):
    """What is known of it. `has_failed`: it was not replaced, and is left alone until asked."""

    state: State = State.NONE
    has_failed: bool = False
    is_given_back: bool = False
    retry_at: float = 0.0  # what failed and keeps connections held is tried again then
    last_error: str = ""

    @property
    def is_changing(self) -> bool:
        """Whether something is under way that ends by itself."""
        return self.state in (State.PREPARING, State.ENDING, State.OPENING, State.RETURNING)

    @property
    def has_ports(self) -> bool:
        """Whether its proxy is, or may be, what listens on the capture ports."""
        return self.state in _WITH_PORTS

    @property
    def is_owed(self) -> bool:
        """Whether a host that does not join has to have it back: it has served."""
        has_served = self.state not in (State.NONE, State.RETURNING)
        return has_served and not self.is_given_back


_WITH_PORTS = (
    *(State.RUNNING, State.PREPARING, State.PREPARED, State.ENDING),
    *(State.STUCK, State.RETURNING, State.BACK),
)


def begin(*, is_held: bool, is_running: bool) -> Predecessor:
    """A start, also after a kill; `is_held`: an earlier agent has left connections held."""
    if is_held:
        return Predecessor(State.STUCK if is_running else State.HELD)
    return Predecessor(State.RUNNING if is_running else State.NONE)


def seen(value: Predecessor, *, is_running: bool) -> Predecessor:
    """Somebody has looked whether it runs."""
    if value.state not in (State.NONE, State.RUNNING):
        return value
    if is_running is (value.state is State.RUNNING):
        return value
    return Predecessor(State.RUNNING) if is_running else Predecessor()


def retry(value: Predecessor) -> Predecessor:
    """Somebody asks, or files have changed: it may be replaced again."""
    if value.state not in (State.NONE, State.RUNNING):
        return value
    return value._replace(has_failed=False, is_given_back=False, last_error="")


def left_alone(value: Predecessor, error: str) -> Predecessor:
    """It cannot be replaced on this host as it is."""
    if value.state is not State.RUNNING:
        return value
    return value._replace(has_failed=True, is_given_back=True, last_error=error)


def preparing(value: Predecessor) -> Predecessor:
    """Before rules of ours lead to ports that it has not, these are held."""
    return value._replace(state=State.PREPARING, is_given_back=False, has_failed=False)


def prepared(
    value: Predecessor, now: float, error: str = "", *, is_held: bool = True
) -> Predecessor:
    """They are; or that failed, and it is left alone. `is_held`: something may be held then."""
    if error:
        state, retry_at = (State.BACK, now + PAUSE_S) if is_held else (State.RUNNING, 0.0)
        failed = value._replace(has_failed=True, is_given_back=True, last_error=error)
        return failed._replace(state=state, retry_at=retry_at)
    return value._replace(state=State.PREPARED, last_error="")


def stopping(value: Predecessor) -> Predecessor:
    """It is told to end."""
    return value._replace(state=State.ENDING, is_given_back=False, has_failed=False)


def stopped(value: Predecessor, now: float, error: str = "") -> Predecessor:
    """It has ended, and new connections are held; or it could not be ended."""
    if error:
        stuck = value._replace(state=State.STUCK, has_failed=True, last_error=error)
        return stuck._replace(retry_at=now + PAUSE_S)
    return value._replace(state=State.HELD, has_failed=False, retry_at=0.0, last_error="")


def opening(value: Predecessor) -> Predecessor:
    """New connections are to be let in to ours."""
    return value._replace(state=State.OPENING)


def opened(value: Predecessor, now: float, error: str = "") -> Predecessor:
    """They are; or it is tried again. One that was given back serves them, and is left alone."""
    held, free = State.HELD, State.REPLACED
    if value.is_given_back:
        held, free = State.BACK, State.RUNNING
    if error:
        return value._replace(state=held, retry_at=now + PAUSE_S, last_error=error)
    last_error = value.last_error if value.is_given_back else ""
    return value._replace(state=free, retry_at=0.0, last_error=last_error)


def returning(value: Predecessor) -> Predecessor:
    """It is started again."""
    return value._replace(state=State.RETURNING, has_failed=True)


def returned(
    value: Predecessor, error: str, *, is_running: bool, is_held: bool = False
) -> Predecessor:
    """It serves again, or does not. It is left alone then.

    `is_held`: what comes to a port that it has not is held on, until our rules are out.
    """
    state = State.RUNNING if is_running else State.NONE
    if is_held:
        state = State.BACK
    return Predecessor(
        state, has_failed=True, is_given_back=True, last_error=error or value.last_error
    )
