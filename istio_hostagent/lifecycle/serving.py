"""The certificate that the proxy shows as a value: whether it is the one that is held.

It is asked a moment after each of its starts and each change of what is held, and once an hour.
One that shows another is made to load the files again; if that does not help it is replaced, after
pauses that grow. Not here: who asks it, and how. Instants are monotonic seconds.
"""

import enum
from typing import NamedTuple

# A proxy that has become ready, or whose files have changed, is given so long before it is asked.
READY_PAUSE_S, CHANGED_PAUSE_S = 0.3, 1.0
# After it was made to load the files again, or replaced: what follows costs connections.
MENDED_PAUSE_S = 5.0
# When it could not be told to load them it is tried again so much later.
PUT_OFF_S = 10.0
AGAIN_S = 3600.0
# One that could not be asked is asked again soon, so often in a row.
UNKNOWN_TRIES, UNKNOWN_PAUSE_S = 3, 5.0
# So often it is made to load the files before it is replaced.
RELOADS = 2
# After the first replacement the next one comes in a minute, then twice as long, up to an hour.
FIRST_REPLACE_S, LONGEST_REPLACE_S = 60.0, 3600.0
COUNTED = 9


class Shown(enum.Enum):
    """What a neighbour gets to see."""

    UNKNOWN = "unknown"
    HELD = "held"
    OTHER = "other"


class Subject(NamedTuple):
    """Of what an answer speaks: the start of the proxy (a number), the serial number held."""

    start: int
    serial: str
    is_ready: bool


class Serving(NamedTuple):
    """What is known of one proxy."""

    subject: Subject | None = None  # None: no proxy runs, or nothing is held
    shown: Shown = Shown.UNKNOWN
    has_shown: bool = False  # the proxy of `subject` has shown what was held then
    is_asking: bool = False
    ask_at: float | None = None
    asked_at: float | None = None  # the last time
    unknown: int = 0  # answers in a row that did not tell
    tries: int = 0  # to mend it, in a row
    mend_at: float | None = None
    last_error: str = ""

    def is_ask_due(self, now: float) -> bool:
        """Whether it is to be asked now."""
        return self.ask_at is not None and now >= self.ask_at and not self.is_asking

    def is_reload_due(self, now: float) -> bool:
        """Whether it is to load the files again."""
        is_due = self.mend_at is not None and now >= self.mend_at
        return is_due and self.tries < RELOADS

    def is_replacing_due(self, now: float) -> bool:
        """Whether it is to be replaced."""
        is_due = self.mend_at is not None and now >= self.mend_at and self.tries >= RELOADS
        return is_due and self.subject is not None and self.subject.is_ready


def look(value: Serving, subject: Subject | None, now: float) -> Serving:
    """This proxy runs now, and this is held."""
    if subject == value.subject:
        return value
    # One that has shown another stays suspected until it has been asked.
    shown = Shown.OTHER if value.shown is Shown.OTHER else Shown.UNKNOWN
    if subject is None:
        value = value._replace(subject=None, shown=shown, has_shown=False)
        return value._replace(unknown=0, ask_at=None, mend_at=None)
    before = value.subject
    was_ready = before is not None and before.start == subject.start and before.is_ready
    pause = READY_PAUSE_S if subject.is_ready and not was_ready else CHANGED_PAUSE_S
    if value.tries > RELOADS:
        pause = MENDED_PAUSE_S
    is_same = before is not None and before.start == subject.start
    has_shown = is_same and value.has_shown
    value = value._replace(
        subject=subject, shown=shown, has_shown=has_shown, unknown=0, mend_at=None
    )
    return value._replace(ask_at=now + pause)


def look_again(value: Serving, now: float) -> Serving:
    """Now and then: it is asked again if the last answer is old or was wrong."""
    is_planned = value.is_asking or value.ask_at is not None
    if value.subject is None or value.asked_at is None or is_planned:
        return value
    is_old = now >= value.asked_at + AGAIN_S
    is_wrong = value.shown is Shown.OTHER
    return value._replace(ask_at=now) if is_old or is_wrong else value


def retry(value: Serving, now: float) -> Serving:
    """Somebody who may have mended something asks: no pause counts any more."""
    ask_at = now if value.subject is not None else None
    return value._replace(tries=0, unknown=0, mend_at=None, ask_at=ask_at)


def asked(value: Serving, now: float) -> Serving:
    """It is being asked."""
    return value._replace(is_asking=True, ask_at=None, asked_at=now)


def unanswered(value: Serving, error: str, now: float) -> Serving:
    """It could not be asked, or its answer does not tell: nothing is known against it."""
    unknown = min(value.unknown + 1, UNKNOWN_TRIES)
    value = value._replace(is_asking=False, unknown=unknown)
    if unknown < UNKNOWN_TRIES and value.subject is not None:
        value = value._replace(ask_at=now + UNKNOWN_PAUSE_S)
    if value.shown is Shown.OTHER:
        return value  # nothing says that this has changed
    return value._replace(shown=Shown.UNKNOWN, last_error=error)


def overtaken(value: Serving, now: float) -> Serving:
    """What it shows may be what is just being obtained: it is asked again."""
    ask_at = now + UNKNOWN_PAUSE_S if value.subject is not None else None
    return value._replace(is_asking=False, ask_at=ask_at)


def answered(
    value: Serving, about: Subject | None, serials: tuple[str, ...], now: float
) -> Serving:
    """It shows certificates with these serial numbers, none of them, when it was `about` this."""
    value = value._replace(is_asking=False, unknown=0)
    if about is None or about != value.subject:
        return value  # it is asked again
    # Beside the one that is held an earlier one may belong to connections that are being drained.
    if about.serial in serials:
        return value._replace(
            shown=Shown.HELD, has_shown=True, tries=0, mend_at=None, last_error=""
        )
    shows = f"certificate {', '.join(serials)}" if serials else "no certificate"
    error = f"shows {shows} instead of {about.serial}, which is held"
    value = value._replace(shown=Shown.OTHER, last_error=error)
    if value.mend_at is not None:
        return value
    pause, replaced = 0.0, value.tries - RELOADS
    if replaced > 0:
        pause = min(FIRST_REPLACE_S * 2.0 ** (replaced - 1), LONGEST_REPLACE_S)
    return value._replace(mend_at=now + pause)


def put_off(value: Serving, now: float) -> Serving:
    """It could not be told to load the files, so nobody knows whether that would help.

    It is not replaced for this: the next one may find its files as little.
    """
    return value._replace(mend_at=now + PUT_OFF_S)


def left_alone(value: Serving, now: float) -> Serving:
    """Nobody can make it load anything: whether it has by itself is asked for now and then."""
    return value._replace(mend_at=None, ask_at=now + PUT_OFF_S)


def mended(value: Serving, now: float) -> Serving:
    """It was made to load the files, or replaced: whether that has helped is asked for."""
    tries = min(value.tries + 1, COUNTED)
    pause = CHANGED_PAUSE_S if not value.tries else MENDED_PAUSE_S
    return value._replace(tries=tries, mend_at=None, ask_at=now + pause)
