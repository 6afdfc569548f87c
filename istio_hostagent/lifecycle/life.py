"""The life of one host as one value: what is in force, on trial, on disk, and when what is due.

Not here: what to do next (`decide`). Instants are monotonic seconds; a field that holds one is
called `..._at`, and from these alone follows when something is due (`deadline`).
"""

from collections.abc import Hashable, Iterator
from typing import NamedTuple, Protocol

from ..identity import rotation
from ..supervise import child as children
from ..supervise import validation as validations
from . import phase as phases
from .situation import Now, Situation

# A failed attempt to join is repeated after 5 s, then twice as long, up to a minute.
FIRST_ATTEMPT_PAUSE_S = 5.0
LONGEST_ATTEMPT_PAUSE_S = 60.0
ATTEMPTS_COUNTED = 5
# What could not be written to the state directory is tried again this often.
DISK_PAUSE_S = 5.0
# What a passing cause kept out is tried again after so long, then twice as long, up to an hour:
# each try may cost the proxy's connections.
FIRST_RETRY_S = 60.0
LONGEST_RETRY_S = 3600.0
RETRIES_COUNTED = 7
# So long it is tried to take the rules out on leaving: the service manager does not wait for ever.
LEAVE_TIME_S = 15.0


class Config(Protocol):
    """What has to be known of a configuration to decide."""

    @property
    def redirection(self) -> Hashable:
        """What is captured; compared, never looked into."""

    @property
    def identity(self) -> Hashable:
        """Which certificate, from whom; compared, never looked into."""


class Revision(NamedTuple):
    """A configuration and the texts that make it."""

    texts: Hashable
    config: Config

    def says_same(self, other: "Revision | None") -> bool:
        """Whether another one makes the same configuration."""
        return other is not None and self.config == other.config


class Offer(NamedTuple):
    """What the files make. No revision: nothing usable.

    `is_empty`: no file says anything of the mesh. A host that has not joined waits then; one that
    has takes the revision, if there is one, like any other.
    Not `is_read`: no reading has succeeded since the start, and what they make is not known.
    """

    revision: Revision | None = None
    is_empty: bool = True
    is_read: bool = True


UNREAD = Offer(is_empty=False, is_read=False)


class Refusal(NamedTuple):
    """Texts that do not hold. `retry_at`: when they are tried again by themselves; None: never."""

    texts: Hashable
    reason: str
    retry_at: float | None = None


class Disk(NamedTuple):
    """The state directory and the descriptor store, as last read or written by us.

    What somebody has removed since is `..._gone`, or not had any more, and is written again.
    """

    is_joined: bool = False
    is_mark_gone: bool = False  # of a host that has joined
    is_attempting: bool = False  # rules may be in although this host has not joined
    guard: Hashable = None  # which rules the guard of early boot stands for; None: not known
    has_guard: bool = False
    is_stored: bool = False  # the service manager keeps the socket that owns the rules
    accepted: Revision | None = None  # the last configuration that has worked
    is_accepted_gone: bool = False
    refused: Hashable = None  # texts that stay refused over a restart
    retry_at: float = 0.0
    last_error: str = ""


class Attempt(NamedTuple):
    """The attempts to join since the last success."""

    failures: int = 0
    retry_at: float = 0.0
    last_error: str = ""


class Rollout(NamedTuple):
    """A changed configuration on a host where another one has worked."""

    candidate: Revision | None = None  # validated, or waiting, beside what is in force
    validation: validations.Validation = validations.Validation()  # of the candidate
    begin_at: float = 0.0  # so long is waited for what is in force to be whole, to come back to
    is_identity_first: bool = False  # in force, but rules and proxy wait for its certificate
    has_way_back: bool = False  # what worked before was whole when it was left
    had_served: bool = False  # a proxy was ready when it was left
    until_at: float | None = None  # it has had its time then; None: nothing to come back to
    retries: int = 0  # tries in a row that passing causes ended


class Life(NamedTuple):
    """One host's life."""

    phase: phases.Phase = phases.Phase.OUT
    disk: Disk = Disk()
    offer: Offer = UNREAD
    refusal: Refusal | None = None
    in_force: Revision | None = None
    told_identity: Revision | None = None  # what the identity part was configured with
    told: Revision | None = None  # what redirection and proxy were configured with
    rollout: Rollout = Rollout()
    attempt: Attempt = Attempt()
    may_have_rules: bool = False  # the kernel may have rules of ours
    has_released: bool = False  # directories of earlier OUTPUT_CERTS are given back
    leave_tries: int = 0
    is_for_good: bool = False  # it leaves because somebody stops it
    leave_until_at: float = 0.0

    @property
    def is_joined(self) -> bool:
        """Whether this host has joined and stays."""
        return self.phase in phases.STAYING

    @property
    def is_told(self) -> bool:
        """Whether the parts are configured with what is in force: only then is a situation its."""
        in_force = self.in_force
        if in_force is None or not in_force.says_same(self.told_identity):
            return False
        return self.rollout.is_identity_first or in_force.says_same(self.told)

    @property
    def is_changing(self) -> bool:
        """Whether something else than what has worked is validated or tried."""
        return self.rollout.candidate is not None or self.phase is phases.Phase.TRYING

    @property
    def desired(self) -> Revision | None:
        """What should be in force, by the files: without what is refused."""
        found, refusal = self.offer.revision, self.refusal
        if found is None or refusal is None or refusal.texts != found.texts:
            return found
        return self.disk.accepted or found

    def is_in_mesh(self, situation: Situation, now: Now) -> bool:
        """What the words `in the mesh` promise."""
        is_changing = self.rollout.is_identity_first or situation.shows_other
        return self.is_joined and not is_changing and situation.is_whole(now)


def begin(disk: Disk) -> Life:
    """A start, also after a kill: what the disk says. What has worked needs no file to go on."""
    phase = phases.Phase.JOINED if disk.is_joined else phases.Phase.OUT
    return Life(phase, disk, may_have_rules=disk.is_attempting or disk.is_joined)


def looked_at_disk(life: Life, *, has_mark: bool, has_guard: bool, has_accepted: bool) -> Life:
    """The state directory was looked at: a host that has joined keeps there what says so.

    To leave is to be told to (design invariant 8), which whoever removes a file has not done.
    """
    if not life.is_joined:
        return life
    disk = life.disk._replace(
        is_mark_gone=not has_mark,
        has_guard=life.disk.has_guard and has_guard,
        is_accepted_gone=life.disk.accepted is not None and not has_accepted,
    )
    return life._replace(disk=disk)


def unreadable(life: Life) -> Life:
    """Reading came to nothing, which says nothing about the files: what has worked counts."""
    if life.offer.is_read:
        return life
    return life._replace(offer=UNREAD._replace(revision=life.disk.accepted))


def offered(life: Life, offer: Offer, *, is_asked: bool = False) -> Life:
    """The files were read; `is_asked`: what was refused is to be tried once more."""
    texts = offer.revision.texts if offer.revision is not None else None
    is_known = texts is not None and texts == life.disk.refused and not life.offer.is_read
    # Who starts a host that has left the mesh asks for what was refused to be tried again.
    if is_known and life.disk.is_joined and life.disk.accepted is not None:
        life = life._replace(refusal=Refusal(texts, "it did not hold before"))
    is_other = life.refusal is not None and life.refusal.texts != texts
    if is_asked or is_other:
        life = life._replace(refusal=None)
    if is_asked:
        # Who asks has mended something, and waits for no pause.
        attempt = life.attempt._replace(retry_at=0.0)
        life = life._replace(attempt=attempt, disk=life.disk._replace(retry_at=0.0))
    if is_asked or life.offer != offer:
        life = life._replace(rollout=life.rollout._replace(retries=0))
    return life._replace(offer=offer)


def refuse(life: Life, revision: Revision, reason: str, now: Now, *, is_final: bool) -> Life:
    """This revision does not hold; without `is_final` it is tried again by itself, later."""
    retries = life.rollout.retries
    retry_at = None
    if not is_final:
        retry_at = now.monotonic + min(FIRST_RETRY_S * 2**retries, LONGEST_RETRY_S)
        retries = min(retries + 1, RETRIES_COUNTED)
    refusal = Refusal(revision.texts, reason, retry_at)
    return life._replace(refusal=refusal, rollout=Rollout(retries=retries))


def attempt_failed(life: Life, error: str, now: Now) -> Life:
    """An attempt to join failed: the next one begins after a pause."""
    failures = min(life.attempt.failures + 1, ATTEMPTS_COUNTED)
    pause = min(FIRST_ATTEMPT_PAUSE_S * 2 ** (failures - 1), LONGEST_ATTEMPT_PAUSE_S)
    return life._replace(attempt=Attempt(failures, now.monotonic + pause, error))


def may_attempt(life: Life, situation: Situation, now: Now) -> bool:
    """Whether a host that is out has all that joining needs, but for the ports of its proxy."""
    # What an earlier attempt left is taken out first, and its proxy may still hold its ports.
    is_clean = not life.may_have_rules and not life.disk.is_attempting
    is_free = situation.child.state in (children.State.IDLE, children.State.BACKOFF)
    is_due = now.monotonic >= max(life.attempt.retry_at, life.disk.retry_at)
    other = situation.predecessor
    is_free = is_free and not (other.has_failed or other.is_changing)
    is_ready = is_clean and is_free and is_due
    return is_ready and life.is_told and situation.is_complete(now)


def deadline(life: Life, situation: Situation, now: Now) -> float | None:
    """When something is due by itself (monotonic seconds), from all values; None: never."""
    moments = [at for at in _instants((life, situation)) if at > now.monotonic]
    value = situation.rotation
    if value.is_configured and not value.is_asking:
        moments += [at - now.wall + now.monotonic for at in _wall_instants(value) if at > now.wall]
    return min(moments, default=None)


def _wall_instants(value: rotation.Rotation) -> Iterator[float]:
    yield value.next_at
    if value.held is not None:
        yield value.held.not_after


def _instants(value: object) -> Iterator[float]:
    if isinstance(value, (Revision, Offer, rotation.Rotation)) or not isinstance(value, tuple):
        return
    # A named tuple has names; what has none is a number of things alike.
    names = getattr(value, "_fields", ("",) * len(value))
    for name, found in zip(names, value, strict=True):
        if name.endswith("_at"):
            if found is not None:
                yield found
        else:
            yield from _instants(found)
