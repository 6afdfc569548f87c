"""Perform `status --watch`: the report again whenever the agent has published something new."""

import contextlib
import sys
from collections.abc import Callable

from ..errors import AgentUnreachable
from ..host import published

# To the upper left corner, and nothing below it (ECMA-48: CUP, ED).
_CLEAR = "\x1b[H\x1b[2J"


def follow(look: Callable[[], tuple[int, str]]) -> int:
    """Print until ^C; gives the exit status of what was printed last.

    On a terminal it is redrawn; elsewhere an empty line is between two reports.
    """
    exit_status, shown = 0, ""
    with contextlib.suppress(KeyboardInterrupt):
        seen: object = None
        while True:
            seen = published.wait_for_change(seen)
            try:
                exit_status, text = look()
            except AgentUnreachable as error:
                exit_status, text = error.exit_status, f"{'mesh':<14} {error.text}"
            if text != shown:
                _draw(text, is_first=not shown)
                shown = text
    return exit_status


def _draw(text: str, *, is_first: bool) -> None:
    if sys.stdout.isatty():
        print(_CLEAR + text, flush=True)
    else:
        print(text if is_first else f"\n{text}", flush=True)
