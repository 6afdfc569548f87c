"""What the agent keeps in its state directory: written whole, and a failure is trouble, no end.

A full or read-only disk must not take the redirection's keeper away: whoever writes is told
whether it is there now, and `trouble` names what is not. What a mark means is not here.
"""

import logging
import os
from collections.abc import Callable

from ..config import model
from ..host import files, ports
from . import fields, places

logger = logging.getLogger(__name__)

# What could not be written is tried again this often.
PAUSE_S = 5.0


class Marks:
    """The files of the state directory, by name."""

    def __init__(self, facts: model.HostFacts, clock: ports.Clock) -> None:
        """Start with nothing that failed."""
        self._facts = facts
        self._clock = clock
        self._troubles: dict[str, str] = {}
        self.retry_at = 0.0  # monotonic seconds

    @property
    def trouble(self) -> str:
        """The first thing that could not be written, or nothing."""
        return next(iter(self._troubles.values()), "")

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return os.path.exists(self._path(name))

    def write(self, name: str, text: str = "") -> bool:
        """Write a mark, with the time if there is no text; says whether it is there now."""
        data = (text or f"{fields.moment(self._clock.now())}\n").encode()
        path = self._path(name)
        return self.keep(name, lambda: files.write_atomically(path, data, mode=0o644))

    def remove(self, name: str) -> bool:
        """Remove a mark; says whether it is gone."""
        return self.keep(name, lambda: files.remove(self._path(name)))

    def keep(self, name: str, change: Callable[[], object]) -> bool:
        """Let `change` do its work on the file of this name and keep the OSError it raises."""
        try:
            change()
        except OSError as error:
            text = f"cannot change {self._path(name)}: {error.strerror}"
            if self._troubles.get(name) != text:
                logger.warning("%s", text, extra=fields.of(CODE="not-kept"))
            self._troubles[name] = text
            self.retry_at = self._clock.monotonic() + PAUSE_S
            return False
        self._troubles.pop(name, None)
        return True

    def _path(self, name: str) -> str:
        return places.in_state(self._facts, name)
