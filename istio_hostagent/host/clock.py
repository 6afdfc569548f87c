"""The real clocks, and chance."""

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
