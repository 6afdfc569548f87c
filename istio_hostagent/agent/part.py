"""What the loop knows of every part of the agent: one small interface, and nothing else.

Not here: what a part does, and which obstacle is named first (`components.Components.report`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # `verify` without an agent uses parts too, and no life.
    from collections.abc import Mapping

    from ..config import model
    from ..lifecycle.life import Life
    from ..lifecycle.situation import Now
    from ..lifecycle.steps import Step
    from . import events

# Performs a step; gives why it did not succeed, or nothing. What takes its time reports through
# the value of its part, later.
Perform = Callable[[], str]


class Part:
    """One of the things of which an agent is made; each overrides what concerns it."""

    @property
    def steps(self) -> Mapping[Step, Perform]:
        """The steps that it performs by itself."""
        return {}

    def configure(self, config: model.Config, facts: model.HostFacts) -> None:
        """Take a configuration for this machine."""

    def handle(self, event: events.Event) -> events.Event | None:
        """Something has happened; gives what follows from it for the other parts, if anything."""

    def deadline(self) -> float | None:
        """When it has something to do by itself, at `TimePassed` (monotonic seconds)."""
        return None

    def obstacle(self, _life: Life) -> str:
        """What is wrong, or waits for a person, and what to do; empty while it only takes time."""
        return ""

    def code(self, _life: Life) -> str:
        """The name of what `obstacle` says, one of `hints.HINTS`; counts only beside a text."""
        return ""

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`: `state`, and details, as plain JSON values."""
        return {}


def silently(action: Callable[[], object]) -> Perform:
    """A step whose success its part reports by itself."""

    def perform() -> str:
        action()
        return ""

    return perform
