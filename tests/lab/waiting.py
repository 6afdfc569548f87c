"""Waiting for what has no event to wait for."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], what: str, *, within_s: float = 60.0) -> None:
    """Return once the condition holds; AssertionError that names `what` if it never does."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not seen within {within_s} s: {what}"
        time.sleep(0.02)
