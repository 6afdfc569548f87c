"""Perform `status --check`: whatever goes wrong is one line as well, and a status of plugins."""

from collections.abc import Sequence

from ..errors import HostAgentError
from ..host import clock, published
from . import check


def perform(words: Sequence[str]) -> int:
    """Print the line and give the status."""
    try:
        level, line = check.judge(published.read(), check.parse(words), clock.SystemClock().now())
    except HostAgentError as error:
        level, line = check.Level.UNKNOWN, f"MESH UNKNOWN - {error}"
    print(line)
    return int(level)
