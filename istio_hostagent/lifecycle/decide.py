"""What to do next, given the life of a host and the situation of its parts; and what came of it.

`advance` sees values and returns values; it names one step and performs none; asked again with
nothing changed it names the same step. What changes by itself is in `turns`, the order of steps in
`steps`.
"""

from ..supervise import validation
from ..values import replace
from . import life as lives
from . import steps, turns
from .life import Life
from .phase import Phase, Turn, next_phase
from .situation import Now, Situation
from .steps import ON_DISK, Step


def advance(life: Life, now_is: Situation, now: Now) -> tuple[Life, Step | None]:
    """The life after all turns that need no step, and the step to perform; None: wait."""
    while (turned := turns.turn(life, now_is, now)) != life:
        life = turned
    return life, steps.next_step(life, now_is, now)


def leave(life: Life) -> Life:
    """Told to stop: everything goes out, except what the service manager ends itself."""
    # What the disk refused before says nothing of what it takes now: without that the marks stay.
    disk = replace(life.disk, last_error="")
    phase = next_phase(life.phase, Turn.LEAVE)
    return replace(life, phase=phase, disk=disk, rollout=lives.Rollout())


def performed(life: Life, step: Step, now_is: Situation, now: Now, *, error: str = "") -> Life:
    """The life after a step; `error`: why a change of the disk, or WITHDRAW, did not succeed."""
    if step in ON_DISK:
        return _written(life, step, now_is, now, error)
    match step:
        case Step.CONFIGURE_IDENTITY:
            return replace(life, told_identity=life.in_force, has_released=False)
        case Step.CONFIGURE:
            return replace(life, told=life.in_force)
        case Step.APPLY:
            return replace(life, may_have_rules=True)
        case Step.WITHDRAW:
            tries = life.leave_tries + 1 if life.phase is Phase.LEAVING else 0
            return replace(life, may_have_rules=bool(error), leave_tries=tries)
        case Step.RELEASE:
            return replace(life, has_released=True)
        case _:
            return life


def checking(life: Life) -> Life:
    """The candidate's check begins."""
    return checked(life, validation.begun(life.rollout.validation))


def checked(life: Life, found: validation.Validation) -> Life:
    """The candidate's check has ended, or could not be run."""
    return replace(life, rollout=replace(life.rollout, validation=found))


def _written(life: Life, step: Step, now_is: Situation, now: Now, error: str) -> Life:
    disk = replace(life.disk, last_error=error)
    if error:
        failed = replace(disk, retry_at=now.monotonic + lives.DISK_PAUSE_S)
        return replace(life, disk=failed)
    match step:
        case Step.MARK_ATTEMPT:
            disk = replace(disk, is_attempting=True)
        case Step.UNMARK_ATTEMPT:
            disk = replace(disk, is_attempting=False)
        case Step.MARK_JOINED:
            disk = replace(disk, is_joined=True)
        case Step.UNMARK_JOINED:
            disk = replace(disk, is_joined=False)
        case Step.WRITE_GUARD:
            disk = replace(disk, guard=now_is.redirection.desired, has_guard=True)
        case Step.REMOVE_GUARD:
            disk = replace(disk, guard=None, has_guard=False)
        case Step.STORE_SOCKET:
            disk = replace(disk, is_stored=True)
        case Step.SAVE_ACCEPTED:
            disk = replace(disk, accepted=life.in_force)
        case Step.SAVE_REFUSED:
            texts = life.refusal.texts if life.refusal is not None else None
            disk = replace(disk, refused=texts)
        case Step.FORGET_REFUSED:
            disk = replace(disk, refused=None)
    return replace(life, disk=disk)
