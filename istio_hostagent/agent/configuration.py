"""The configuration part of the agent: which configuration is in force, and why that one.

A configuration is *taken* when the files make one that differs, *accepted* (its texts kept) once
it has worked, and *reverted* when it does not hold: then the one before is in force again. The
parts that act on it are not known here.
"""

import logging

from ..config import model
from . import fields, reload

logger = logging.getLogger(__name__)


class ConfigurationPart:
    """What the files say, what is in force, and what was accepted before."""

    def __init__(self, sources: reload.Sources, facts: model.HostFacts) -> None:
        """Read everything once; nothing is in force yet."""
        self.sources = sources
        self._facts = facts
        self._accepted = reload.load_accepted(str(facts.state_dir), sources)
        self._fallback: reload.Loaded | None = None
        self.loaded = self.look()
        self.in_force: model.Config | None = None
        self._report()

    def look(self) -> reload.Loaded:
        """What the files say now, without taking it."""
        return reload.load(self.sources, self._facts, self._accepted)

    def refresh(self, *, has_worked: bool) -> bool:
        """Read the files again; says whether anything differs.

        `has_worked`: the configuration in force does its work, so it is worth coming back to.
        """
        before, self.loaded = self.loaded, self.look()
        if (before.problems, before.layers) == (self.loaded.problems, self.loaded.layers):
            return False
        if has_worked and before.config is not None and not before.is_kept:
            self._fallback = before
        self._report()
        return True

    def take(self) -> model.Config | None:
        """Put what the files say into force; None if that changes nothing.

        Files with problems, or gone on a host that has joined, leave what is in force.
        """
        config = self.loaded.config
        if config is None or config == self.in_force:
            return None
        self.in_force = config
        return config

    @property
    def is_withdrawn(self) -> bool:
        """Whether something is in force and the operator has taken the files away again."""
        return self.in_force is not None and self.loaded.is_empty

    def forget(self) -> None:
        """Nothing is in force any more."""
        self.in_force = None

    def accept(self) -> None:
        """What is in force has worked: keep its texts. Raises OSError."""
        self._fallback = None
        is_current = not self.loaded.is_kept and self.loaded.config == self.in_force
        if is_current and self.loaded.layers != self._accepted:
            reload.save_accepted(str(self._facts.state_dir), self.loaded.layers)
            self._accepted = self.loaded.layers

    @property
    def can_revert(self) -> bool:
        """Whether there is a configuration to come back to."""
        return self._fallback is not None

    def revert(self, reason: str) -> model.Config | None:
        """Put the configuration before into force again; None if there is none to come back to."""
        if self._fallback is None:
            return None
        refused, kept, self._fallback = self.loaded, self._fallback, None
        logger.error(
            "the new configuration does not hold; the one before is in force again",
            extra=fields.of(CODE="not-kept", DETAIL=reason),
        )
        self.in_force = kept.config
        self.loaded = reload.refuse(kept, refused, reason)
        return kept.config

    def _report(self) -> None:
        for problem in self.loaded.problems:
            extra = fields.of(CODE="config-invalid", FILE=problem.file, LINE=problem.line)
            logger.error("%s", problem, extra=extra)
        for warning in self.loaded.warnings:
            logger.warning("%s", warning, extra=fields.of(FILE=warning.file, LINE=warning.line))
        if self.loaded.is_kept:
            logger.warning("keeping the last accepted configuration")
