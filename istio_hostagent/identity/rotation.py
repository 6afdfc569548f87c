"""The renewal of one certificate as a value: what is held, when the CA is asked, what went wrong.

Not here: the worker that asks, and the files. Instants are unix seconds, as certificates have
them. Every function takes what happened and returns the value afterwards. A failed attempt never
takes away what is held.
"""

from typing import NamedTuple

from . import schedule

# What only an operator can mend is tried again this seldom, and at once when a credential changes.
REFUSED_PAUSE_S = 300.0
# ... but after no more than this part of what is left of the certificate in hand: a CA that has
# just started may refuse what it takes a moment later.
REFUSED_PART = 0.5
# Without a certificate nothing works: of more failures than this (about half a minute apart) none
# makes the pause longer.
COUNTED_WITHOUT = 5
COUNTED = 8
# A certificate that somebody else renews is looked at so often; one of a secret server after this
# part of what is left of it, and not sooner than so.
LOOK_AGAIN_S = 600.0
ASK_AGAIN_PART, ASK_AGAIN_S = 0.1, 5.0
REFUSED = "certificate-refused"
MISSING = "credential-missing"


class Report(NamedTuple):
    """What the worker said of the certificate on disk."""

    identity: str
    serial: str
    not_before: float
    not_after: float
    received: float
    is_copied: bool = False  # another machine obtained it, and this disk is a copy of that one's

    @property
    def life(self) -> schedule.Life:
        """The same dates as the schedule wants them."""
        has_start = self.not_before < self.received < self.not_after
        return schedule.Life(self.received if has_start else self.not_before, self.not_after)


class Failure(NamedTuple):
    """Why the last attempt gave no certificate."""

    code: str
    message: str
    hint: str = ""

    @property
    def text(self) -> str:
        """The message, and what to do about it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Rotation(NamedTuple):
    """One certificate's renewal."""

    is_configured: bool = False
    held: Report | None = None
    has_looked: bool = False  # what lies on disk is known
    is_asking: bool = False  # a worker is under way
    is_overtaken: bool = False  # a credential has changed since the worker began
    failures: int = 0  # in a row
    next_at: float = 0.0  # when to ask next
    planned_at: float = 0.0  # when that was decided
    last_error: Failure | None = None
    failing_since: float | None = None  # of the attempts in a row that gave none, the first

    def is_held(self, now: float) -> bool:
        """Whether a certificate is held that has not lapsed."""
        return self.held is not None and now < self.held.not_after

    def call_time(self, now: float, longest_s: float) -> float:
        """How many seconds the next conversation with the CA may take."""
        return schedule.call_time(self.held.life if self.held else None, now, longest_s)

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask."""
        # A clock that was put back: what was planned by it means nothing.
        is_time = now >= self.next_at or now < self.planned_at
        return self.is_configured and is_time and not self.is_asking


def configured() -> Rotation:
    """Other settings: what is held for the ones before counts no more."""
    return Rotation(is_configured=True)


def retry(value: Rotation) -> Rotation:
    """Ask at once, as if nothing had failed."""
    return value._replace(failures=0, next_at=0.0, planned_at=0.0)


def credentials_changed(value: Rotation) -> Rotation:
    """A token or root has changed: after a failure it is tried at once."""
    if value.last_error is None and not value.is_asking:
        return value
    return retry(value)._replace(is_overtaken=value.is_asking)


def asked(value: Rotation) -> Rotation:
    """A worker is under way."""
    return value._replace(is_asking=True)


def doubted(value: Rotation) -> Rotation:
    """What lies on disk may not be what is held any more: look at once."""
    if value.held is None or value.is_asking:
        return value
    return value._replace(has_looked=False, next_at=0.0, planned_at=0.0)


def looked(value: Rotation, held: Report | None) -> Rotation:
    """What lies on disk is known; without anything good there the CA is asked next."""
    value = value._replace(is_asking=False, has_looked=True)
    return value if held is not None else retry(value)._replace(held=None)


def obtained(
    value: Rotation,
    held: Report,
    now: float,
    *,
    jitter: float,
    ratio: float,
    again_s: float | None = None,
    spread: float = schedule.SPREAD,
    is_found: bool = False,
) -> Rotation:
    """A certificate is on disk and held; `jitter`, `ratio` and `spread` as in `schedule`.

    `again_s`: somebody else renews it, so that it is never due, but looked at so often.
    `is_found`: it was there at the start; if it is due, a whole fleet's may be.
    """
    value = value._replace(is_asking=False, is_overtaken=False, has_looked=True)
    value = value._replace(held=held, failures=0, last_error=None, planned_at=now)
    value = value._replace(failing_since=None)
    if held.is_copied:
        return value._replace(next_at=now)
    if again_s is not None:
        return value._replace(next_at=max(now, min(now + again_s, held.not_after)))
    if is_found and now < held.not_after:
        next_at = schedule.after_start(held.life, now, jitter=jitter, ratio=ratio, spread=spread)
    else:
        next_at = schedule.next_attempt(
            held.life, now, failures=0, jitter=jitter, ratio=ratio, spread=spread
        )
    return value._replace(next_at=next_at)


def look_again(held: Report, now: float, *, is_told: bool) -> float:
    """After how many seconds to see whether somebody else has renewed a certificate.

    `is_told`: changes are noticed, and this is for those that are not: a link may lead to where
    none is told. A secret server tells nothing to who is not connected; what it gives out is
    renewed with a half or a third of the life left, so a part of what is left is soon enough.
    """
    if is_told:
        return LOOK_AGAIN_S
    return min(LOOK_AGAIN_S, max((held.not_after - now) * ASK_AGAIN_PART, ASK_AGAIN_S))


def failed(
    value: Rotation,
    last_error: Failure,
    now: float,
    *,
    jitter: float,
    held: Report | None = None,
) -> Rotation:
    """An attempt gave no certificate; `held`: what the worker found on disk beside that."""
    value = value._replace(is_asking=False, last_error=last_error, planned_at=now)
    value = value._replace(failures=min(value.failures + 1, COUNTED), held=held or value.held)
    if value.failing_since is None:
        value = value._replace(failing_since=now)
    next_at = _next(value, now, jitter)
    if last_error.code in (REFUSED, MISSING):
        pause = REFUSED_PAUSE_S
        if value.held is not None and value.is_held(now):
            left = value.held.not_after - now
            pause = min(pause, max(left * REFUSED_PART, schedule.SHORTEST_PAUSE_S))
        next_at = max(next_at, now + schedule.spread_out(pause, jitter))
    if value.is_overtaken:
        next_at = now  # the worker may have read the token before it changed
    return value._replace(next_at=next_at, is_overtaken=False)


def _next(value: Rotation, now: float, jitter: float) -> float:
    counted = value.failures if value.is_held(now) else min(value.failures, COUNTED_WITHOUT)
    life = value.held.life if value.held is not None else None
    return schedule.next_attempt(life, now, failures=counted, jitter=jitter)
