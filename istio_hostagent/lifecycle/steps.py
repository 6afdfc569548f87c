"""Which step comes next in a life that does not change by itself now.

Rules for editing: for each step, what does traffic do if the agent is killed right behind it? A
mark on disk comes before the rules that it stands for, and goes after them. Design invariants 1,
2, 4 and 8 are these lines, so a change here is a change of a promise.
"""

import enum

from ..supervise import child
from . import life as lives
from . import predecessor, redirection
from .life import Life
from .phase import Phase
from .situation import Now, Situation

# Somebody who changes the rules all the time keeps ours from going out for so many tries.
LEAVE_TRIES = 10


class Step(enum.Enum):
    """One thing to perform now: one change of the kernel, of the disk, or of a part."""

    CONFIGURE_IDENTITY = "give the identity part what is in force"
    CONFIGURE = "give redirection and proxy what is in force"
    CHECK_CANDIDATE = "let the proxy validate the bootstrap of a changed configuration"
    VALIDATE = "let the proxy validate its bootstrap"
    OBTAIN = "obtain a certificate"
    MARK_ATTEMPT = "write down that rules may be in"
    HOLD = "keep the capture ports from everybody but the proxy"
    PREPARE = "hold what the service of another agent has no port for"
    TAKE_OVER = "stop the service of another agent, new connections held"
    LET_IN = "let new connections in that were held"
    GIVE_BACK = "start the service of another agent again"
    APPLY = "install the rules"
    PROVE = "prove the rules with packets"
    START = "start the proxy, in place of one that is outdated"
    STOP_PROXY = "stop the proxy"
    ASK_SERVED = "ask the proxy which certificate it shows"
    RELOAD_SERVED = "make the proxy load the certificate that is held"
    REPLACE_PROXY = "replace a proxy that goes on showing another certificate"
    WRITE_GUARD = "write the guard of early boot"
    STORE_SOCKET = "hand the socket that owns the rules to the service manager"
    SAVE_ACCEPTED = "write down the texts that have worked"
    SAVE_REFUSED = "write down the texts that do not hold"
    FORGET_REFUSED = "remove the texts that did not hold"
    MARK_JOINED = "write down that this host has joined"
    UNMARK_ATTEMPT = "remove the mark of the attempt"
    WITHDRAW = "take the rules out"
    ABANDON = "give up a request to the rules that is not answered"
    REMOVE_GUARD = "remove the guard of early boot"
    UNMARK_JOINED = "remove the mark of a joined host"
    LET_GO = "hold no port any more that nothing is captured into"
    RELEASE = "give back what earlier settings had certificates written to"


# What changes the state directory, or what the service manager keeps; a failure is tried again
# after a pause.
ON_DISK = frozenset(
    {
        Step.STORE_SOCKET,
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


def next_step(life: Life, now_is: Situation, now: Now) -> Step | None:
    """Name the step to perform now; None: wait."""
    if now_is.redirection.is_overdue(now.monotonic):
        return Step.ABANDON
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


def _step_configure(life: Life) -> Step | None:
    if life.in_force is None:
        return None
    if not life.in_force.says_same(life.told_identity):
        return Step.CONFIGURE_IDENTITY
    return None if life.is_told else Step.CONFIGURE


def _step_prepare(life: Life, now_is: Situation, now: Now) -> Step | None:
    """What can be done beforehand, without touching anything."""
    if now_is.has_program and now_is.validation.is_due(now.monotonic):
        return Step.VALIDATE
    # A host without any proxy asks no CA.
    is_of_use = now_is.has_program or now_is.rotation.held is not None or life.is_joined
    return Step.OBTAIN if now_is.rotation.is_due(now.wall) and is_of_use else None


def _step_redirect(life: Life, now_is: Situation, now: Now) -> Step | None:
    other = now_is.predecessor
    rules = now_is.redirection
    # While packets are under way sockets of ours are bound where what is captured arrives.
    is_free = not other.has_ports
    is_free = is_free and not (other.state is predecessor.State.HELD and rules.is_proving)
    if now_is.holding.is_due(now.monotonic) and is_free:
        return Step.HOLD
    # What somebody else would get is not captured. On a host that has joined what is in force
    # goes in all the same: without it everything would go around the proxy, while what a
    # stranger answers at a capture port is refused by the rules themselves.
    is_kept = life.phase in (Phase.JOINED, Phase.GOING_BACK)
    may_apply = now_is.holding.is_held or other.has_ports or is_kept
    if rules.is_incomplete and may_apply and rules.is_apply_due(now.monotonic):
        return Step.APPLY
    if rules.rules is redirection.Rules.OUT:
        return None
    return Step.PROVE if rules.is_proof_due(now.monotonic) else None


def _may_replace(life: Life, now_is: Situation) -> bool:
    """Not while connections of the proxy before are drained: there are never three."""
    kid = now_is.child
    # What has worked does not wait for those of what has not, nor what is captured for a proxy
    # that has no port for it: both are ended.
    is_running = kid.state in (child.State.STARTING, child.State.READY)
    is_urgent = life.phase is Phase.GOING_BACK or now_is.is_elsewhere
    return not kid.is_blocked or (is_urgent and is_running and not kid.is_handing_over)


def _step_start(life: Life, now_is: Situation, now: Now) -> Step | None:
    """The proxy starts only behind rules that packets have shown."""
    is_wanted = now_is.child.state is child.State.IDLE or now_is.is_outdated
    is_proven = now_is.redirection.is_shown and now_is.redirection.is_known
    is_ready = is_proven and now_is.is_complete(now) and _may_replace(life, now_is)
    other = now_is.predecessor
    if now_is.child.state is child.State.READY and other.state is predecessor.State.HELD:
        return Step.LET_IN if now.monotonic >= other.retry_at else None
    if not (is_wanted and is_ready) or other.is_changing:
        return None
    if other.has_ports:
        # While connections are held it is tried on; else until somebody asks it stays.
        is_stuck = other.state is predecessor.State.STUCK
        is_due = now.monotonic >= other.retry_at
        return Step.TAKE_OVER if is_due and (is_stuck or not other.has_failed) else None
    # Of what was taken over from, the ports are free now.
    is_held = now_is.holding.is_held or other.state is predecessor.State.NONE
    return Step.START if is_held else None


def _step_serving(now_is: Situation, now: Now) -> Step | None:
    """The proxy shows what is held."""
    serving = now_is.serving
    if serving.is_ask_due(now.monotonic):
        return Step.ASK_SERVED
    # What is given up anyway needs no other remedy, and there is none while what is held is not
    # where the proxy loads it from.
    is_on_disk = now_is.is_complete(now) and now_is.rotation.has_looked
    if now_is.is_outdated or not is_on_disk:
        return None
    if serving.is_reload_due(now.monotonic):
        return Step.RELOAD_SERVED
    is_due = serving.is_replacing_due(now.monotonic) and not now_is.child.is_blocked
    return Step.REPLACE_PROXY if is_due else None


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
    if now_is.predecessor.is_changing:
        return None
    if life.may_have_rules and now_is.predecessor.is_owed:
        # It serves behind our rules, before these go.
        if is_running:
            return Step.STOP_PROXY
        return Step.GIVE_BACK if now_is.child.state is child.State.IDLE else None
    # Its rules come out first: a proxy that ends behind them would cut the host off.
    if step := _step_withdraw(life, now_is, now):
        return step
    if now_is.predecessor.state is predecessor.State.BACK and not life.may_have_rules:
        return Step.LET_IN if now.monotonic >= now_is.predecessor.retry_at else None
    if is_running and not life.may_have_rules:
        return Step.STOP_PROXY
    may_attempt = lives.may_attempt(life, now_is, now)
    if now_is.holding.held and not (may_attempt or is_running or life.may_have_rules):
        return Step.LET_GO
    if life.in_force is None:
        return None
    if step := _step_configure(life) or _step_prepare(life, now_is, now):
        return step
    return Step.HOLD if may_attempt and now_is.holding.is_due(now.monotonic) else None


def _step_joining(life: Life, now_is: Situation, now: Now) -> Step | None:
    # A kill from here on leaves rules on a host that has not joined: the next start sees the
    # attempt's mark and takes them out.
    if not life.disk.is_attempting:
        return Step.MARK_ATTEMPT if _is_disk_due(life, now) else None
    # From the rules on, what comes in may find a port of ours where the other agent has none.
    if now_is.predecessor.state is predecessor.State.RUNNING and not life.may_have_rules:
        return None if now_is.predecessor.has_failed else Step.PREPARE
    if now_is.predecessor.state is predecessor.State.PREPARING:
        return None
    if step := _step_redirect(life, now_is, now):
        return step
    if now_is.predecessor.is_changing:
        return None
    is_let_in = now_is.predecessor.state is not predecessor.State.HELD
    if now_is.is_whole(now) and is_let_in:
        return _step_commit(life, now_is, now)
    step = _step_start(life, now_is, now) or _step_prepare(life, now_is, now)
    return step or _step_serving(now_is, now)


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
        step = _step_redirect(life, now_is, now) or _step_prepare(life, now_is, now)
        step = step or _step_start(life, now_is, now) or _step_serving(now_is, now)
        if step is not None:
            return step
    rollout = life.rollout
    if rollout.candidate is not None and rollout.validation.is_due(now.monotonic):
        return Step.CHECK_CANDIDATE
    return _step_write_down(life, now_is, now) if _is_disk_due(life, now) else None


def _step_write_down(life: Life, now_is: Situation, now: Now) -> Step | None:
    if life.disk.is_mark_gone:
        return Step.MARK_JOINED
    if life.disk.is_attempting:
        return Step.UNMARK_ATTEMPT
    refusal = life.refusal
    if refusal is not None and refusal.retry_at is None and life.disk.refused != refusal.texts:
        return Step.SAVE_REFUSED
    if life.in_force is None or now_is.redirection.rules is redirection.Rules.OUT:
        return None
    is_whole = life.is_in_mesh(now_is, now) and now_is.is_complete(now)
    if is_whole and (life.in_force != life.disk.accepted or life.disk.is_accepted_gone):
        return Step.SAVE_ACCEPTED
    # On trial the guard is that of what a start would come back to.
    if life.phase is not Phase.TRYING and (step := _step_keep(life, now_is)):
        return step
    if not is_whole or life.is_changing or not life.offer.is_read:
        return None
    if now_is.holding.others:
        return Step.LET_GO
    if life.disk.refused is not None and refusal is None:
        return Step.FORGET_REFUSED
    return Step.RELEASE if not life.has_released else None


def _step_leaving(life: Life, now_is: Situation, now: Now) -> Step | None:
    """Everything out; an owned table is the service manager's to end (design invariant 8)."""
    pending, has_time = now_is.redirection.pending, now.monotonic < life.leave_until_at
    if pending is redirection.Pending.INSTALLING:
        return Step.ABANDON
    if now_is.is_owner and not (life.is_for_good and life.may_have_rules):
        return None
    if pending is redirection.Pending.REMOVING:
        return None if has_time else Step.ABANDON
    if life.may_have_rules and life.leave_tries < LEAVE_TRIES and has_time:
        return Step.WITHDRAW
    if now_is.is_owner or life.disk.last_error:
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
