"""The real clocks."""

import time


class SystemClock:
    """CLOCK_MONOTONIC and the wall clock of this machine."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        return time.monotonic()

    def now(self) -> float:
        """Unix seconds; may jump when somebody sets the clock."""
        return time.time()
