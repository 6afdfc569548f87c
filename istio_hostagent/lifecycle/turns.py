"""How the life of a host changes by itself: phases, and what is in force, on trial or refused.

Not here: what is performed (`steps`). Every function gives the life afterwards, and the same one
where nothing changes.
"""

from ..supervise import child, validation
from . import life as lives
from . import redirection
from .life import Life, Revision
from .phase import Phase, Turn, next_phase
from .situation import Now, Situation

# So long a changed configuration has to work, and so long it waits for the one before to be whole.
ROLLOUT_TIME_S = 30.0
# What ended a moment ago may still have connections on its ports.
HOLD_TRIES = 3
NOT_READY = (
    "the proxy was not ready in time (`journalctl -u istio-hostagent -u 'istio-proxy*'` has what"
    " it says, and what the CA and the control plane say to it)"
)


def turn(life: Life, now_is: Situation, now: Now) -> Life:
    """Give the life after one change that needs no step."""
    if life.may_have_rules and now_is.redirection.is_removed:
        return life._replace(may_have_rules=False)
    match life.phase:
        case Phase.OUT:
            return _turn_out(life, now_is, now)
        case Phase.JOINING:
            return _turn_joining(life, now_is, now)
        case Phase.LEAVING:
            return life
        case _:
            return _turn_staying(life, now_is, now)


def _turn_out(life: Life, now_is: Situation, now: Now) -> Life:
    if life.offer.is_empty:
        return life._replace(in_force=None, told=None, told_identity=None)
    life = _follow_files(life)
    # What is to be taken over from has the ports, and shares them or not.
    is_held = now_is.holding.is_held or now_is.predecessor.has_ports
    if lives.may_attempt(life, now_is, now) and is_held:
        disk = life.disk._replace(last_error="")  # it counts anew
        return life._replace(phase=next_phase(life.phase, Turn.ATTEMPT), disk=disk)
    return life


def _follow_files(life: Life) -> Life:
    """Let what the files make be in force, where nothing has worked yet."""
    desired = life.desired
    if desired is None:
        return life
    if desired.says_same(life.in_force):
        return life._replace(in_force=desired)
    return life._replace(in_force=desired, attempt=lives.Attempt())


def _turn_joining(life: Life, now_is: Situation, now: Now) -> Life:
    if life.disk.is_joined:
        joined = life._replace(phase=next_phase(life.phase, Turn.COMMIT))
        return joined._replace(attempt=lives.Attempt())
    is_other = life.desired is not None and not life.desired.says_same(life.in_force)
    if life.offer.is_empty or is_other:
        return life._replace(phase=next_phase(life.phase, Turn.FAIL))
    if error := _joining_error(life, now_is, now):
        failed = life._replace(phase=next_phase(life.phase, Turn.FAIL))
        return lives.attempt_failed(failed, error, now)
    return life


def _joining_error(life: Life, now_is: Situation, now: Now) -> str:
    """Why the attempt fails now; empty while it may still succeed."""
    if life.disk.last_error:
        return life.disk.last_error
    other, holding = now_is.predecessor, now_is.holding
    if other.has_failed:
        return other.last_error
    if other.is_changing:
        return ""
    if not holding.is_held and holding.failures > HOLD_TRIES:
        return holding.last_error
    rules = now_is.redirection
    if now_is.is_whole(now):
        return ""
    is_refused = rules.rules is redirection.Rules.OUT and rules.failures > 0
    if rules.is_disproved or is_refused or rules.is_shut:
        return rules.last_error
    if now_is.child.is_late(now.monotonic) or not now_is.is_complete(now):
        return now_is.proxy_error or rules.last_error or NOT_READY
    return now_is.show_error or now_is.answer_error


def _turn_staying(life: Life, now_is: Situation, now: Now) -> Life:
    """A joined host: what is in force stays until something else has been validated."""
    accepted = life.disk.accepted
    refusal = life.refusal
    retry_at = refusal.retry_at if refusal is not None else None
    if retry_at is not None and now.monotonic >= retry_at:
        return life._replace(refusal=None)
    desired = life.desired
    if life.in_force is None or accepted is None:
        first = accepted or desired
        return life if first is None else life._replace(in_force=first)
    if life.phase is Phase.TRYING:
        life = _turn_trying(life, now_is, now)
    elif life.phase is Phase.GOING_BACK and _is_settled(life, now_is, now):
        life = life._replace(phase=next_phase(life.phase, Turn.SETTLE))
    return _turn_rollout(life, desired, now_is, now) if desired is not None else life


def _turn_rollout(life: Life, desired: Revision, now_is: Situation, now: Now) -> Life:
    """A changed configuration is validated, waits, and comes into force."""
    rollout, accepted = life.rollout, life.disk.accepted
    assert accepted is not None
    if desired.says_same(life.in_force):
        # The files may say what is in force in other words.
        fresh = validation.Validation()
        rollout = rollout._replace(candidate=None, validation=fresh, begin_at=0.0)
        return life._replace(in_force=desired, rollout=rollout)
    if life.phase is Phase.TRYING and desired.says_same(accepted):
        return _go_back(life, now)
    if rollout.candidate is None or not desired.says_same(rollout.candidate):
        begin_at = now.monotonic + ROLLOUT_TIME_S
        fresh = validation.Validation()
        rollout = rollout._replace(candidate=desired, validation=fresh, begin_at=begin_at)
        return life._replace(rollout=rollout)
    if desired != rollout.candidate:
        return life._replace(rollout=rollout._replace(candidate=desired))
    if rollout.validation.check is validation.Check.BAD:
        refused = lives.refuse(life, desired, rollout.validation.last_error, now, is_final=True)
        return _go_back(refused, now) if life.phase is Phase.TRYING else refused
    if rollout.validation.is_good and _may_begin(life, now_is, now):
        return _try(life, desired, now_is, now)
    return life


def _may_begin(life: Life, now_is: Situation, now: Now) -> bool:
    """Not while what is in force is on its way: it may have to be come back to."""
    if life.phase is Phase.TRYING and life.rollout.has_way_back:
        return False  # the one before comes back first
    if now_is.must_wait:
        return False
    is_over = life.is_told and now.monotonic >= life.rollout.begin_at
    return is_over or _is_settled(life, now_is, now)


def _is_settled(life: Life, now_is: Situation, now: Now) -> bool:
    """Whether what is in force works, or something is wrong that time alone does not mend."""
    if not life.is_told:
        return False  # the situation is that of another configuration
    if life.is_in_mesh(now_is, now):
        return True
    # A proxy that has just ended may be there again at once.
    is_hopeful = now_is.is_hopeful and not now_is.child.is_late(now.monotonic)
    return (now_is.has_obstacle or bool(life.disk.last_error)) and not is_hopeful


def _try(life: Life, candidate: Revision, now_is: Situation, now: Now) -> Life:
    rollout = life.rollout
    if life.phase is not Phase.TRYING:
        has_way_back = life.is_in_mesh(now_is, now)
        had_served = now_is.child.state is child.State.READY
        rollout = rollout._replace(has_way_back=has_way_back, had_served=had_served)
    # To come back to what did not work either would gain nothing.
    until_at = now.monotonic + ROLLOUT_TIME_S if rollout.has_way_back else None
    rollout = rollout._replace(
        candidate=None,
        validation=validation.Validation(),
        # What serves goes on with its rules until there is a certificate for what is to come.
        is_identity_first=rollout.has_way_back,
        until_at=until_at,
    )
    return life._replace(
        phase=next_phase(life.phase, Turn.TRY), in_force=candidate, rollout=rollout
    )


def _turn_trying(life: Life, now_is: Situation, now: Now) -> Life:
    """What is on trial is accepted, waits, or gives way to what has worked."""
    rollout, tried = life.rollout, life.in_force
    assert tried is not None
    if tried.says_same(life.disk.accepted):
        accepted = life._replace(phase=next_phase(life.phase, Turn.ACCEPT))
        rest = lives.Rollout(candidate=rollout.candidate, validation=rollout.validation)
        return accepted._replace(rollout=rest._replace(begin_at=rollout.begin_at))
    is_told = tried.says_same(life.told_identity)
    if rollout.is_identity_first and is_told and now_is.rotation.is_held(now.wall):
        return life._replace(rollout=rollout._replace(is_identity_first=False))
    verdict = _verdict(life, now_is)
    if verdict or _is_over(life, now_is, now):
        if rollout.candidate is not None:
            return _go_back(life, now)  # the files say something else already
        reason = verdict or _passing_error(life, now_is)
        refused = lives.refuse(life, tried, reason, now, is_final=bool(verdict))
        return _go_back(refused, now)
    return life


def _verdict(life: Life, now_is: Situation) -> str:
    """What ends a trial at once and for good: packets that disprove, or the proxy's own no."""
    tried, accepted = life.in_force, life.disk.accepted
    assert tried is not None and accepted is not None
    if life.rollout.is_identity_first or not tried.says_same(life.told):
        return ""
    has_new_rules = tried.config.redirection != accepted.config.redirection
    if has_new_rules and now_is.redirection.is_disproved:
        return now_is.redirection.last_error
    if now_is.validation.check is validation.Check.BAD and now_is.is_new_build:
        return now_is.validation.last_error
    # One that a signal or a shortage of the machine ended said nothing of its configuration.
    has_exited = now_is.child.is_given_up and now_is.child.has_exited
    if life.rollout.had_served and has_exited and not now_is.is_outdated:
        return now_is.child.last_error
    return ""


def _is_over(life: Life, now_is: Situation, now: Now) -> bool:
    """Whether what is on trial has had its time."""
    rollout = life.rollout
    is_late = rollout.had_served and now_is.child.is_late(now.monotonic)
    is_late = is_late and not now_is.is_outdated and not rollout.is_identity_first
    is_over = rollout.until_at is not None and now.monotonic >= rollout.until_at
    return is_late or is_over


def _passing_error(life: Life, now_is: Situation) -> str:
    """What kept it from working so far, and may be gone the next time."""
    last_error = now_is.rotation.last_error
    certificate = last_error.text if last_error is not None else ""
    if life.rollout.is_identity_first:
        return certificate or "no certificate for it"
    rules = now_is.holding.last_error or now_is.redirection.last_error
    shown = f"the proxy {now_is.serving.last_error}" if now_is.shows_other else now_is.show_error
    found = now_is.proxy_error or certificate or rules or shown or now_is.answer_error
    # What has worked and cannot be written down is not accepted: the disk is to blame.
    return found or life.disk.last_error or NOT_READY


def _go_back(life: Life, now: Now) -> Life:
    """Let what has worked be in force again; a candidate waits until it is whole."""
    rollout = life.rollout
    kept = lives.Rollout(
        candidate=rollout.candidate,
        validation=rollout.validation,
        begin_at=now.monotonic + ROLLOUT_TIME_S if rollout.candidate is not None else 0.0,
        retries=rollout.retries,
    )
    phase = next_phase(life.phase, Turn.GO_BACK)
    return life._replace(phase=phase, in_force=life.disk.accepted, rollout=kept)
