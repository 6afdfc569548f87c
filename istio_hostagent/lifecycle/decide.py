"""What to do next, given the life of a host and the situation of its parts. All order is here.

Rules for editing: `advance` sees values and returns values; it names one step and performs none;
asked again with nothing changed it names the same step. Design invariants 1 to 4 and 8 are these
lines, so a change here is a change of a promise. For each step: what does traffic do if the agent
is killed right behind it? A mark on disk comes before the rules that it stands for, and goes after
them.
"""

import enum
from dataclasses import replace

from ..supervise import child, validation
from . import life as lives
from . import redirection
from .life import Life, Revision
from .phase import Phase, Turn, next_phase
from .situation import Now, Situation

# So long a changed configuration has to work, and so long it waits for the one before to be whole.
ROLLOUT_TIME_S = 30.0
# Somebody who changes the rules all the time keeps ours from going out for so many tries.
LEAVE_TRIES = 10
NOT_READY = "the proxy was not ready"


class Step(enum.Enum):
    """One thing to perform now: one change of the kernel, of the disk, or of a part."""

    CONFIGURE_IDENTITY = "give the identity part what is in force"
    CONFIGURE = "give redirection and proxy what is in force"
    CHECK_CANDIDATE = "let the proxy validate the bootstrap of a changed configuration"
    VALIDATE = "let the proxy validate its bootstrap"
    OBTAIN = "obtain a certificate"
    MARK_ATTEMPT = "write down that rules may be in"
    APPLY = "install the rules"
    PROVE = "prove the rules with packets"
    START = "start the proxy, in place of one that is outdated"
    STOP_PROXY = "stop the proxy"
    WRITE_GUARD = "write the guard of early boot"
    STORE_SOCKET = "hand the socket that owns the rules to the service manager"
    SAVE_ACCEPTED = "write down the texts that have worked"
    SAVE_REFUSED = "write down the texts that do not hold"
    FORGET_REFUSED = "remove the texts that did not hold"
    MARK_JOINED = "write down that this host has joined"
    UNMARK_ATTEMPT = "remove the mark of the attempt"
    WITHDRAW = "take the rules out"
    REMOVE_GUARD = "remove the guard of early boot"
    UNMARK_JOINED = "remove the mark of a joined host"
    RELEASE = "give the certificate directories of earlier settings back"


# What changes the state directory; a failure is tried again after a pause.
ON_DISK = frozenset(
    {
        Step.MARK_ATTEMPT,
        Step.WRITE_GUARD,
        Step.SAVE_ACCEPTED,
        Step.SAVE_REFUSED,
        Step.FORGET_REFUSED,
        Step.MARK_JOINED,
        Step.UNMARK_ATTEMPT,
        Step.REMOVE_GUARD,
        Step.UNMARK_JOINED,
    }
)


def advance(life: Life, now_is: Situation, now: Now) -> tuple[Life, Step | None]:
    """The life after all turns that need no step, and the step to perform; None: wait."""
    while (turned := _turn(life, now_is, now)) != life:
        life = turned
    return life, _step(life, now_is, now)


def leave(life: Life) -> Life:
    """Told to stop: everything goes out, except what the service manager ends itself."""
    return replace(life, phase=next_phase(life.phase, Turn.LEAVE), rollout=lives.Rollout())


# -- turns: changes of the life itself ------------------------------------------------------------


def _turn(life: Life, now_is: Situation, now: Now) -> Life:
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
    if life.offer.is_empty and life.offer.revision is None:
        return replace(life, in_force=None, told=None, told_identity=None)
    life = _follow_files(life)
    # What an earlier attempt left is taken out first, and its proxy may still hold its ports.
    is_clean = not life.may_have_rules and not life.disk.is_attempting
    is_free = now_is.child.state in (child.State.IDLE, child.State.BACKOFF)
    is_due = now.monotonic >= max(life.attempt.retry_at, life.disk.retry_at)
    if is_clean and is_free and is_due and _is_told(life) and now_is.is_complete(now):
        disk = replace(life.disk, last_error="")  # it counts anew
        return replace(life, phase=next_phase(life.phase, Turn.ATTEMPT), disk=disk)
    return life


def _follow_files(life: Life) -> Life:
    """Let what the files make be in force, where nothing has worked yet."""
    desired = life.desired
    if desired is None:
        return life
    if desired.says_same(life.in_force):
        return replace(life, in_force=desired)
    return replace(life, in_force=desired, attempt=lives.Attempt())


def _turn_joining(life: Life, now_is: Situation, now: Now) -> Life:
    if life.disk.is_joined:
        joined = replace(life, phase=next_phase(life.phase, Turn.COMMIT))
        return replace(joined, attempt=lives.Attempt())
    is_withdrawn = life.offer.is_empty and life.offer.revision is None
    is_other = life.desired is not None and not life.desired.says_same(life.in_force)
    if is_withdrawn or is_other:
        return replace(life, phase=next_phase(life.phase, Turn.FAIL))
    if error := _joining_error(life, now_is, now):
        failed = replace(life, phase=next_phase(life.phase, Turn.FAIL))
        return lives.attempt_failed(failed, error, now)
    return life


def _joining_error(life: Life, now_is: Situation, now: Now) -> str:
    """Why the attempt fails now; empty while it may still succeed."""
    if life.disk.last_error:
        return life.disk.last_error
    rules = now_is.redirection
    if now_is.is_whole(now):
        return ""
    is_refused = rules.rules is redirection.Rules.OUT and rules.failures > 0
    if rules.is_disproved or is_refused:
        return rules.last_error
    if now_is.child.is_late(now.monotonic) or not now_is.is_complete(now):
        return now_is.proxy_error or rules.last_error or NOT_READY
    return ""


def _turn_staying(life: Life, now_is: Situation, now: Now) -> Life:
    """A joined host: what is in force stays until something else has been validated."""
    accepted = life.disk.accepted
    refusal = life.refusal
    retry_at = refusal.retry_at if refusal is not None else None
    if retry_at is not None and now.monotonic >= retry_at:
        return replace(life, refusal=None)
    desired = life.desired
    if life.in_force is None or accepted is None:
        first = accepted or desired
        return life if first is None else _follow(life, accepted or desired)
    if life.phase is Phase.TRYING:
        life = _turn_trying(life, now_is, now)
    elif life.phase is Phase.GOING_BACK and _is_settled(life, now_is, now):
        life = replace(life, phase=next_phase(life.phase, Turn.SETTLE))
    return _turn_rollout(life, desired, now_is, now) if desired is not None else life


def _follow(life: Life, revision: Revision | None) -> Life:
    if revision is None or revision == life.in_force:
        return life
    return replace(life, in_force=revision)


def _turn_rollout(life: Life, desired: Revision, now_is: Situation, now: Now) -> Life:
    """A changed configuration is validated, waits, and comes into force."""
    rollout, accepted = life.rollout, life.disk.accepted
    assert accepted is not None
    if desired.says_same(life.in_force):
        # The files may say what is in force in other words.
        fresh = validation.Validation()
        rollout = replace(rollout, candidate=None, validation=fresh, begin_at=0.0)
        return replace(life, in_force=desired, rollout=rollout)
    if life.phase is Phase.TRYING and desired.says_same(accepted):
        return _go_back(life, now)
    if rollout.candidate is None or not desired.says_same(rollout.candidate):
        begin_at = now.monotonic + ROLLOUT_TIME_S
        fresh = validation.Validation()
        rollout = replace(rollout, candidate=desired, validation=fresh, begin_at=begin_at)
        return replace(life, rollout=rollout)
    if desired != rollout.candidate:
        return replace(life, rollout=replace(rollout, candidate=desired))
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
    is_over = _is_told(life) and now.monotonic >= life.rollout.begin_at
    return is_over or _is_settled(life, now_is, now)


def _is_settled(life: Life, now_is: Situation, now: Now) -> bool:
    """Whether what is in force works, or something is wrong that time alone does not mend."""
    if not _is_told(life):
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
        rollout = replace(rollout, has_way_back=has_way_back, had_served=had_served)
    # To come back to what did not work either would gain nothing.
    until_at = now.monotonic + ROLLOUT_TIME_S if rollout.has_way_back else None
    rollout = replace(
        rollout,
        candidate=None,
        validation=validation.Validation(),
        # What serves goes on with its rules until there is a certificate for what is to come.
        is_identity_first=rollout.has_way_back,
        until_at=until_at,
    )
    return replace(
        life, phase=next_phase(life.phase, Turn.TRY), in_force=candidate, rollout=rollout
    )


def _turn_trying(life: Life, now_is: Situation, now: Now) -> Life:
    """What is on trial is accepted, waits, or gives way to what has worked."""
    rollout, tried = life.rollout, life.in_force
    assert tried is not None
    if tried.says_same(life.disk.accepted):
        accepted = replace(life, phase=next_phase(life.phase, Turn.ACCEPT))
        rest = lives.Rollout(candidate=rollout.candidate, validation=rollout.validation)
        return replace(accepted, rollout=replace(rest, begin_at=rollout.begin_at))
    is_told = tried.says_same(life.told_identity)
    if rollout.is_identity_first and is_told and now_is.rotation.is_held(now.wall):
        return replace(life, rollout=replace(rollout, is_identity_first=False))
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
    # One that a signal ended, from a kernel short of memory for example, said nothing.
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
    trouble = now_is.rotation.trouble
    certificate = trouble.text if trouble is not None else ""
    if life.rollout.is_identity_first:
        return certificate or "no certificate for it"
    return now_is.proxy_error or certificate or now_is.redirection.last_error or NOT_READY


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
    return replace(life, phase=phase, in_force=life.disk.accepted, rollout=kept)


# -- steps ----------------------------------------------------------------------------------------


def _step(life: Life, now_is: Situation, now: Now) -> Step | None:
    match life.phase:
        case Phase.OUT:
            return _step_out(life, now_is, now)
        case Phase.JOINING:
            return _step_joining(life, now_is, now)
        case Phase.LEAVING:
            return _step_leaving(life, now_is, now)
        case _:
            return _step_staying(life, now_is, now)


def _is_disk_due(life: Life, now: Now) -> bool:
    return now.monotonic >= life.disk.retry_at


def _is_told(life: Life) -> bool:
    """Whether the parts are configured with what is in force: only then is the situation its."""
    in_force = life.in_force
    if in_force is None or not in_force.says_same(life.told_identity):
        return False
    return life.rollout.is_identity_first or in_force.says_same(life.told)


def _step_configure(life: Life) -> Step | None:
    if life.in_force is None:
        return None
    if not life.in_force.says_same(life.told_identity):
        return Step.CONFIGURE_IDENTITY
    return None if _is_told(life) else Step.CONFIGURE


def _step_prepare(life: Life, now_is: Situation, now: Now) -> Step | None:
    """What can be done beforehand, without touching anything."""
    if now_is.has_program and now_is.validation.is_due(now.monotonic):
        return Step.VALIDATE
    # A host without any proxy asks no CA.
    is_of_use = now_is.has_program or now_is.rotation.held is not None or life.is_joined
    return Step.OBTAIN if now_is.rotation.is_due(now.wall) and is_of_use else None


def _step_redirect(now_is: Situation, now: Now) -> Step | None:
    rules = now_is.redirection
    if rules.rules is redirection.Rules.OUT:
        return Step.APPLY if rules.is_apply_due(now.monotonic) else None
    return Step.PROVE if rules.is_proof_due(now.monotonic) else None


def _step_start(now_is: Situation, now: Now) -> Step | None:
    """The proxy starts only behind rules that packets have shown."""
    is_wanted = now_is.child.state is child.State.IDLE or now_is.is_outdated
    is_ready = now_is.redirection.is_shown and now_is.is_complete(now)
    return Step.START if is_wanted and is_ready else None


def _step_withdraw(life: Life, now_is: Situation, now: Now) -> Step | None:
    """Rules out, then what stood for them on disk."""
    if life.may_have_rules:
        return Step.WITHDRAW if now_is.redirection.is_apply_due(now.monotonic) else None
    if not _is_disk_due(life, now):
        return None
    if life.disk.has_guard:
        return Step.REMOVE_GUARD
    return Step.UNMARK_ATTEMPT if life.disk.is_attempting else None


def _step_out(life: Life, now_is: Situation, now: Now) -> Step | None:
    is_running = now_is.child.state not in (child.State.IDLE, child.State.STOPPING)
    # Its rules come out first: a proxy that ends behind them would cut the host off.
    if step := _step_withdraw(life, now_is, now):
        return step
    if is_running and not life.may_have_rules:
        return Step.STOP_PROXY
    if life.in_force is None:
        return None
    return _step_configure(life) or _step_prepare(life, now_is, now)


def _step_joining(life: Life, now_is: Situation, now: Now) -> Step | None:
    # A kill from here on leaves rules on a host that has not joined: the next start sees the
    # attempt's mark and takes them out.
    if not life.disk.is_attempting:
        return Step.MARK_ATTEMPT if _is_disk_due(life, now) else None
    if step := _step_redirect(now_is, now):
        return step
    if now_is.is_whole(now):
        return _step_commit(life, now_is, now)
    return _step_start(now_is, now) or _step_prepare(life, now_is, now)


def _step_commit(life: Life, now_is: Situation, now: Now) -> Step | None:
    """Everything that a joined host has on disk, its mark last."""
    if not _is_disk_due(life, now):
        return None
    return _step_keep(life, now_is) or _step_accept(life) or Step.MARK_JOINED


def _step_keep(life: Life, now_is: Situation) -> Step | None:
    """Let the rules outlive us: the guard for early boot, the owning socket."""
    if life.disk.guard != now_is.redirection.desired or not life.disk.has_guard:
        return Step.WRITE_GUARD
    return Step.STORE_SOCKET if now_is.is_owner and not life.disk.is_stored else None


def _step_accept(life: Life) -> Step | None:
    return Step.SAVE_ACCEPTED if life.in_force != life.disk.accepted else None


def _step_staying(life: Life, now_is: Situation, now: Now) -> Step | None:
    if step := _step_configure(life):
        return step
    if life.in_force is not None:
        # Rules first, at every start too.
        step = _step_redirect(now_is, now) or _step_prepare(life, now_is, now)
        step = step or _step_start(now_is, now)
        if step is not None:
            return step
    rollout = life.rollout
    if rollout.candidate is not None and rollout.validation.is_due(now.monotonic):
        return Step.CHECK_CANDIDATE
    return _step_write_down(life, now_is, now) if _is_disk_due(life, now) else None


def _step_write_down(life: Life, now_is: Situation, now: Now) -> Step | None:
    if life.disk.is_attempting:
        return Step.UNMARK_ATTEMPT
    refusal = life.refusal
    if refusal is not None and refusal.retry_at is None and life.disk.refused != refusal.texts:
        return Step.SAVE_REFUSED
    if life.in_force is None or now_is.redirection.rules is redirection.Rules.OUT:
        return None
    is_whole = life.is_in_mesh(now_is, now) and now_is.is_complete(now)
    if is_whole and life.in_force != life.disk.accepted:
        return Step.SAVE_ACCEPTED
    # On trial the guard is that of what a start would come back to.
    if life.phase is not Phase.TRYING and (step := _step_keep(life, now_is)):
        return step
    if not is_whole or life.is_changing:
        return None
    if life.disk.refused is not None and refusal is None:
        return Step.FORGET_REFUSED
    return Step.RELEASE if not life.has_released else None


def _step_leaving(life: Life, now_is: Situation, now: Now) -> Step | None:
    """Everything out; an owned table is the service manager's to end (design invariant 8)."""
    if now_is.is_owner:
        return None
    if life.may_have_rules and life.leave_tries < LEAVE_TRIES:
        return Step.WITHDRAW
    if life.disk.last_error:
        return None  # the next start takes out what is still there
    if life.may_have_rules and not life.disk.is_attempting:
        return Step.MARK_ATTEMPT
    if life.disk.is_joined:
        return Step.UNMARK_JOINED
    if life.may_have_rules:
        return None
    if life.disk.has_guard:
        return Step.REMOVE_GUARD
    return Step.UNMARK_ATTEMPT if life.disk.is_attempting else None


# -- outcomes -------------------------------------------------------------------------------------


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
        case Step.STORE_SOCKET:
            return replace(life, disk=replace(life.disk, is_stored=True))
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
        case Step.SAVE_ACCEPTED:
            disk = replace(disk, accepted=life.in_force)
        case Step.SAVE_REFUSED:
            texts = life.refusal.texts if life.refusal is not None else None
            disk = replace(disk, refused=texts)
        case Step.FORGET_REFUSED:
            disk = replace(disk, refused=None)
    return replace(life, disk=disk)
