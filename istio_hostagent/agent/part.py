"""What every part says of itself: a new reason why a host is not in the mesh is said in its part.

Not here: what a part does, and which obstacle is named first (`components.Components.report`).
"""

from typing import Any, Protocol

from ..lifecycle.life import Life
from ..lifecycle.situation import Now


class Part(Protocol):
    """One of the things of which an agent is made."""

    def obstacle(self, life: Life) -> str:
        """What is wrong, or waits for a person, and what to do; empty while it only takes time."""

    def status(self, life: Life, now: Now) -> dict[str, Any]:
        """Its part of the report of `status`: `state`, and details, as plain JSON values."""
