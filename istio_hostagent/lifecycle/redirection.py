"""The redirection of a host as a value: rules in or out, shown by packets or not, when to try.

Not here: the rules themselves, the kernel and the packets (the redirection part performs).
Instants are monotonic seconds. Every function takes what happened and returns the value after it.
"""

import enum
from collections.abc import Hashable
from typing import NamedTuple

# A refused change is tried again after 0.4 s, then twice as long, up to half a minute.
FIRST_APPLY_PAUSE_S = 0.2
# Packets that disprove are sent again after 4 s, then twice as long, up to half a minute.
FIRST_PROOF_PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0
# The longest pauses are reached after so many failures; a counter that goes on says no more.
COUNTED = 8
# More repairs than this within the window: somebody fights us, and each repair then waits longer.
MAX_REPAIRS = 8
REPAIR_WINDOW_S = 10.0
FIRST_FIGHT_PAUSE_S = 0.1
# A request to the rules that has no answer by then is given up; shorter than a stop may take.
ANSWER_TIME_S = 15.0


class Rules(enum.Enum):
    """How far the redirection is."""

    OUT = "absent"  # not as desired
    IN = "installed"  # read back equal
    UNTESTED = "read back, not testable by packets"  # the kernel shows nobody where they go
    PARTLY = "proven in part"  # shown by packets where the host could send them
    PROVEN = "proven"
    NEEDLESS = "none"  # there is nothing to redirect, and no rule of ours


class Pending(enum.Enum):
    """What was asked of the rules and is not answered yet."""

    NOTHING = enum.auto()
    LOOKING = enum.auto()
    INSTALLING = enum.auto()
    REMOVING = enum.auto()


class Proof(enum.Enum):
    """What came of all the packets of one proof."""

    PROVEN = enum.auto()
    PARTLY = enum.auto()  # nothing broken, something shown, something could not be tested
    NOTHING = enum.auto()  # nothing could be tested
    IMPOSSIBLE = enum.auto()  # the kernel shows nobody where packets go
    NEEDLESS = enum.auto()  # applications speak to the proxy by themselves: no packet was sent


class Redirection(NamedTuple):
    """One host's redirection."""

    desired: Hashable = 0  # which rules; compared, never looked into
    rules: Rules = Rules.OUT
    pending: Pending = Pending.NOTHING
    pending_until_at: float = 0.0
    is_pending_overtaken: bool = False  # other rules are desired than when it was asked
    is_removed: bool = False  # nothing of ours is in the kernel
    is_proving: bool = False  # packets are under way
    is_overtaken: bool = False  # the rules changed while packets were under way
    is_stale: bool = False  # something else changed since the packets were sent
    # All is in but what changes nothing of what packets have shown: the guard, to which no
    # captured packet gets, or rules for units that are left alone.
    is_partly_out: bool = False
    is_disproved: bool = False
    failures: int = 0
    apply_at: float = 0.0
    prove_at: float = 0.0
    repairs: tuple[float, ...] = ()
    fight_until_at: float = 0.0  # until then somebody counts as fighting us
    last_error: str = ""

    @property
    def is_shown(self) -> bool:
        """Whether packets have shown what they can on this host, and nothing else.

        Where nothing is redirected there is nothing to show.
        """
        return self.rules in _SHOWN.values()

    @property
    def is_known(self) -> bool:
        """Whether nothing is asked: packets that disprove during a look would blame the rules."""
        return self.pending is Pending.NOTHING

    @property
    def is_changing(self) -> bool:
        """Whether a change of the rules is under way: the next one waits for its end."""
        return self.pending in (Pending.INSTALLING, Pending.REMOVING)

    def is_overdue(self, now: float) -> bool:
        """Whether what was asked should have been answered by now."""
        return self.pending is not Pending.NOTHING and now >= self.pending_until_at

    @property
    def is_shut(self) -> bool:
        """Whether packets go where they must and the host's firewall drops them there."""
        return self.is_shown and bool(self.last_error)

    @property
    def is_open(self) -> bool:
        """Whether all that packets have shown is as it must be."""
        return self.is_shown and not self.last_error

    @property
    def is_incomplete(self) -> bool:
        """Whether something of the rules is to be put in."""
        return self.rules is Rules.OUT or self.is_partly_out

    def is_apply_due(self, now: float) -> bool:
        """Whether the rules may be changed now."""
        return now >= self.apply_at and not self.is_changing

    def is_proof_due(self, now: float) -> bool:
        """Whether packets are wanted and may be sent now."""
        is_open = self.rules is Rules.IN or (self.is_shown and self.is_stale)
        return is_open and self.is_known and not self.is_proving and now >= self.prove_at


def desire(value: Redirection, desired: Hashable) -> Redirection:
    """Other rules are desired; the same ones change nothing."""
    if desired == value.desired:
        return value
    return retry(value)._replace(
        desired=desired,
        rules=Rules.OUT,
        is_partly_out=False,
        is_pending_overtaken=value.pending is not Pending.NOTHING,
        is_overtaken=value.is_proving,
        is_stale=False,
        last_error="",
    )


def amended(value: Redirection) -> Redirection:
    """Other units that are left alone run than before: what packets have shown stands.

    So does a look that is under way: it is about what is in.
    """
    return value._replace(
        is_partly_out=value.rules is not Rules.OUT,
        is_pending_overtaken=value.is_pending_overtaken or value.is_changing,
    )


def retry(value: Redirection) -> Redirection:
    """Something has changed: what failed may be tried at once."""
    return value._replace(failures=0, apply_at=0.0, prove_at=0.0, is_disproved=False)


def asked(value: Redirection, pending: Pending, now: float) -> Redirection:
    """Something is asked of the rules; the answer may come at once."""
    return value._replace(
        pending=pending,
        pending_until_at=now + ANSWER_TIME_S,
        is_pending_overtaken=False,
        is_removed=value.is_removed and pending is not Pending.INSTALLING,
    )


def _answered(value: Redirection) -> Redirection:
    return value._replace(
        pending=Pending.NOTHING, pending_until_at=0.0, is_pending_overtaken=False
    )


def looked(value: Redirection) -> Redirection:
    """The rules were read back, and are as they were."""
    return _answered(value)


def applied(
    value: Redirection, *, has_changed: bool, prove_at: float | None = None
) -> Redirection:
    """The kernel has the rules that were asked for, read back; `has_changed`: it had not before.

    If others are desired by now, these count as none. `prove_at`: nothing but rules for units has
    changed, and packets are sent once more then.
    """
    is_overtaken, value = value.is_pending_overtaken, _answered(value)
    if is_overtaken:
        return value
    if value.is_partly_out:
        # What packets have shown, or are showing, still counts; they are sent once more, since
        # somebody may have changed more than the guard before it was put back.
        value = value._replace(is_partly_out=False)
        if prove_at is not None:
            return doubted(value, prove_at)
        return value._replace(is_stale=True, prove_at=0.0)
    return value._replace(
        rules=Rules.IN,
        is_overtaken=value.is_overtaken or (has_changed and value.is_proving),
        is_stale=False,
        is_disproved=False,
        prove_at=0.0,
        last_error="",
    )


def apply_failed(
    value: Redirection, error: str, now: float, *, is_as_before: bool = False
) -> Redirection:
    """The kernel could not be changed, or not be read, or has given no answer in time.

    `is_as_before`: it has refused the change, and has what it had. Where that lacks nothing but
    the guard or rules for units, what packets have shown stands.
    """
    is_overtaken, value = value.is_pending_overtaken, _answered(value)
    if is_overtaken:
        return value
    failures = min(value.failures + 1, COUNTED)
    pause = min(FIRST_APPLY_PAUSE_S * 2**failures, LONGEST_PAUSE_S)
    if is_as_before and value.is_partly_out:
        return value._replace(failures=failures, apply_at=now + pause)
    return value._replace(
        rules=Rules.OUT,
        is_partly_out=False,
        failures=failures,
        apply_at=now + pause,
        last_error=error,
    )


def proof_begun(value: Redirection) -> Redirection:
    """Packets are under way."""
    return value._replace(is_proving=True, is_overtaken=False, is_stale=False)


def proof_ended(value: Redirection, proof: Proof, now: float, shut: str = "") -> Redirection:
    """Packets have shown what they could, and no rule of ours was broken.

    `shut`: the firewall of this host drops what is captured; it may be told to let it in without
    a word to us, so packets are sent again now and then. Of NOTHING it says why, if that is known.
    """
    value = value._replace(is_proving=False)
    if value.is_overtaken or value.rules is Rules.OUT:
        return value._replace(is_overtaken=False)  # about rules that are not there any more
    if proof is Proof.NOTHING:
        # Looked at again when the host's addresses, links or routes change, and by the clock.
        error = shut or "no rule could be tested: the host has no route"
        prove_at = now + LONGEST_PAUSE_S
        return value._replace(rules=Rules.IN, prove_at=prove_at, last_error=error)
    rules = _SHOWN[proof]
    value = value._replace(rules=rules, failures=0, is_disproved=False, last_error=shut)
    return value._replace(is_stale=True, prove_at=now + LONGEST_PAUSE_S) if shut else value


_SHOWN = {
    Proof.PROVEN: Rules.PROVEN,
    Proof.PARTLY: Rules.PARTLY,
    Proof.IMPOSSIBLE: Rules.UNTESTED,
    Proof.NEEDLESS: Rules.NEEDLESS,
}


def proof_failed(value: Redirection, error: str, now: float, *, is_disproved: bool) -> Redirection:
    """No proof came about; `is_disproved`: packets have shown that rules do not hold."""
    value = value._replace(is_proving=False)
    if value.is_overtaken or value.rules is Rules.OUT:
        return value._replace(is_overtaken=False)
    failures = min(value.failures + 1, COUNTED)
    pause = min(FIRST_PROOF_PAUSE_S * 2**failures, LONGEST_PAUSE_S)
    return value._replace(
        rules=Rules.IN,
        failures=failures,
        is_disproved=is_disproved,
        prove_at=now + pause,
        last_error=error,
    )


def drifted(value: Redirection, now: float, *, is_of_guard: bool = False) -> Redirection:
    """Somebody changed our rules: they go in again, ever more slowly if that goes on.

    `is_of_guard`: nothing but the guard is concerned. Captured packets never get as far while the
    main rules are there, so what packets have shown of these, or are showing, stands.
    """
    repairs = (*(at for at in value.repairs if now - at < REPAIR_WINDOW_S), now)
    excess = len(repairs) - MAX_REPAIRS
    pause = min(FIRST_FIGHT_PAUSE_S * 2 ** min(excess, 9), LONGEST_PAUSE_S) if excess > 0 else 0.0
    fight_until_at = repairs[-MAX_REPAIRS - 1] + REPAIR_WINDOW_S if excess > 0 else 0.0
    value = _answered(value)._replace(
        repairs=repairs[-3 * MAX_REPAIRS :],
        fight_until_at=fight_until_at,
        apply_at=now + pause,
    )
    if is_of_guard and value.rules is not Rules.OUT:
        return value._replace(is_partly_out=True)
    return value._replace(
        rules=Rules.OUT, is_partly_out=False, is_overtaken=value.is_proving, is_stale=False
    )


def doubted(value: Redirection, prove_at: float) -> Redirection:
    """Something that may matter has changed beside our rules: packets are sent again then."""
    if value.rules is Rules.OUT:
        return value
    if value.is_open:
        return value._replace(is_stale=True, prove_at=prove_at)
    # Any change may mend what was disproved, or make testable what was not.
    return value._replace(is_stale=True, prove_at=min(value.prove_at, prove_at))


def withdrawn(value: Redirection) -> Redirection:
    """Everything of ours is out of the kernel; what was wrong with it is still to be said."""
    return retry(_answered(value))._replace(
        rules=Rules.OUT,
        is_partly_out=False,
        is_removed=True,
        is_overtaken=value.is_proving,
        is_stale=False,
    )
