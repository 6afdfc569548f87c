"""What to do next, given the life of a host and the situation of its parts; and what came of it.

`advance` sees values and returns values; it names one step and performs none; asked again with
nothing changed it names the same step. What changes by itself is in `turns`, the order of steps in
`steps`.
"""

from ..supervise import validation
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


def leave(life: Life, now: Now, *, is_for_good: bool = False) -> Life:
    """Told to stop: everything goes out, except what the service manager ends itself.

    `is_for_good`: this is no restart; then the rules are out before the proxy ends.
    """
    # What the disk refused before says nothing of what it takes now: without that the marks stay.
    disk = life.disk._replace(last_error="")
    phase = next_phase(life.phase, Turn.LEAVE)
    until_at = now.monotonic + lives.LEAVE_TIME_S
    return life._replace(
        phase=phase,
        disk=disk,
        rollout=lives.Rollout(),
        leave_until_at=until_at,
        is_for_good=is_for_good,
    )


def performed(life: Life, step: Step, now_is: Situation, now: Now, *, error: str = "") -> Life:
    """The life after a step; `error`: why a change of the disk did not succeed."""
    if step in ON_DISK:
        return _written(life, step, now_is, now, error)
    match step:
        case Step.CONFIGURE_IDENTITY:
            return life._replace(told_identity=life.in_force, has_released=False)
        case Step.CONFIGURE:
            return life._replace(told=life.in_force)
        case Step.APPLY:
            return life._replace(may_have_rules=True)
        case Step.WITHDRAW:
            tries = life.leave_tries + 1 if life.phase is Phase.LEAVING else 0
            return life._replace(leave_tries=tries)
        case Step.RELEASE:
            return life._replace(has_released=True)
        case _:
            return life


def checking(life: Life) -> Life:
    """The candidate's check begins."""
    return checked(life, validation.begun(life.rollout.validation))


def checked(life: Life, found: validation.Validation) -> Life:
    """The candidate's check has ended, or could not be run."""
    return life._replace(rollout=life.rollout._replace(validation=found))


def _written(life: Life, step: Step, now_is: Situation, now: Now, error: str) -> Life:
    disk = life.disk._replace(last_error=error)
    if error:
        failed = disk._replace(retry_at=now.monotonic + lives.DISK_PAUSE_S)
        return life._replace(disk=failed)
    match step:
        case Step.MARK_ATTEMPT:
            disk = disk._replace(is_attempting=True)
        case Step.UNMARK_ATTEMPT:
            disk = disk._replace(is_attempting=False)
        case Step.MARK_JOINED:
            disk = disk._replace(is_joined=True, is_mark_gone=False)
        case Step.UNMARK_JOINED:
            disk = disk._replace(is_joined=False, is_mark_gone=False)
        case Step.WRITE_GUARD:
            disk = disk._replace(guard=now_is.redirection.desired, has_guard=True)
        case Step.REMOVE_GUARD:
            disk = disk._replace(guard=None, has_guard=False)
        case Step.STORE_SOCKET:
            disk = disk._replace(is_stored=True)
        case Step.SAVE_ACCEPTED:
            disk = disk._replace(accepted=life.in_force, is_accepted_gone=False)
        case Step.SAVE_REFUSED:
            texts = life.refusal.texts if life.refusal is not None else None
            disk = disk._replace(refused=texts)
        case Step.FORGET_REFUSED:
            disk = disk._replace(refused=None)
    return life._replace(disk=disk)
