"""The check of one bootstrap by the proxy itself, as a value: asked, answered, or tried again.

Not here: running it. The exit status of the check is its verdict; everything else (a signal, a
time-out, a program or file that could not be put in place) says nothing, and is tried again.
"""

import enum
from typing import NamedTuple

from . import child

# What a shell says of a program that it could not run (POSIX, "Exit Status for Commands").
NOT_RUN = (126, 127)
# The longest pause is reached after so many failures.
COUNTED = 9


class Check(enum.Enum):
    """What is known about a bootstrap."""

    UNKNOWN = "unknown"
    RUNNING = "being validated"
    GOOD = "valid"
    BAD = "invalid"


class Validation(NamedTuple):
    """One bootstrap's check."""

    check: Check = Check.UNKNOWN
    failures: int = 0  # checks in a row without a verdict
    retry_at: float = 0.0  # monotonic seconds
    last_error: str = ""  # the verdict, or why there is none

    @property
    def is_good(self) -> bool:
        """Whether a proxy may be started with it."""
        return self.check is Check.GOOD

    def is_due(self, now: float) -> bool:
        """Whether the check is wanted and may begin now."""
        return self.check is Check.UNKNOWN and now >= self.retry_at


def is_verdict(status: int | None) -> bool:
    """Whether a check that ended so has said yes or no; None: it did not end in time."""
    return status is not None and status >= 0 and status not in NOT_RUN


def begun(value: Validation) -> Validation:
    """The check is under way."""
    return value._replace(check=Check.RUNNING)


def passed() -> Validation:
    """The proxy takes it, or is known to."""
    return Validation(Check.GOOD)


def refused(error: str) -> Validation:
    """The proxy does not take it."""
    return Validation(Check.BAD, last_error=error)


def undecided(value: Validation, error: str, now: float) -> Validation:
    """The check gave no verdict: it is tried again after a pause."""
    failures = min(value.failures + 1, COUNTED)
    return Validation(Check.UNKNOWN, failures, now + child.restart_delay(failures), error)
