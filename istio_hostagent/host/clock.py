"""The real clocks, and chance; and what a clock says as a text."""

import os
import time


class SystemClock:
    """CLOCK_MONOTONIC and the wall clock of this machine."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        return time.monotonic()

    def now(self) -> float:
        """Unix seconds; may jump when somebody sets the clock."""
        return time.time()


def jitter() -> float:
    """Chance, from -1 to 1: so that the hosts of a fleet do not all ask at once."""
    return int.from_bytes(os.urandom(4), "big") / 2**31 - 1.0


def utc_text(unix_s: float, form: str) -> str:
    """An instant in UTC in this form of strftime(3); datetime would cost 1 ms and 0.3 MB."""
    return time.strftime(form, time.gmtime(unix_s))
