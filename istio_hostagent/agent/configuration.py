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
        self.facts = facts
        self._accepted = reload.load_accepted(str(facts.state_dir), sources)
        self._worked = reload.judge_accepted(self._accepted, facts)
        self._refused: tuple[model.Layer, ...] | None = None
        self.loaded = self.look()
        self.in_force: model.Config | None = None
        self._report()

    @property
    def worked(self) -> model.Config | None:
        """The last configuration that has worked, now or before the agent was started."""
        return self._worked.config if self._worked is not None else None

    @property
    def is_on_trial(self) -> bool:
        """Whether something is in force that has not worked yet, although another did."""
        return self._worked is not None and self.in_force != self._worked.config

    def look(self) -> reload.Loaded:
        """What the files say now, without taking it."""
        return reload.load(self.sources, self.facts, self._accepted)

    def refresh(self, *, is_asked: bool = False) -> bool:
        """Read the files again; says whether anything differs.

        Texts that did not hold are not taken again unless it `is_asked` for.
        """
        before, found = self.loaded, self.look()
        is_refused = found.config is not None and found.layers == self._refused
        if is_refused and not found.problems and not is_asked:
            return False
        self._refused = None
        self.loaded = found
        if (before.problems, before.layers) == (found.problems, found.layers):
            return False
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
        if self.loaded.is_kept or self.loaded.config != self.in_force:
            return
        self._worked = self.loaded
        if self.loaded.layers != self._accepted:
            reload.save_accepted(str(self.facts.state_dir), self.loaded.layers)
            self._accepted = self.loaded.layers

    def revert(self, reason: str) -> bool:
        """Put what worked before into force again; False if there is nothing to come back to."""
        if self._worked is None or self._worked.config == self.in_force:
            return False
        logger.error(
            "the new configuration does not hold; the one before is in force again",
            extra=fields.of(CODE="not-kept", DETAIL=reason),
        )
        self._refused = self.loaded.layers
        self.in_force = self._worked.config
        self.loaded = reload.refuse(self._worked, self.loaded, reason)
        return True

    def _report(self) -> None:
        for problem in self.loaded.problems:
            extra = fields.of(CODE="config-invalid", FILE=problem.file, LINE=problem.line)
            logger.error("%s", problem, extra=extra)
        for warning in self.loaded.warnings:
            logger.warning("%s", warning, extra=fields.of(FILE=warning.file, LINE=warning.line))
        if self.loaded.is_kept:
            logger.warning("keeping the last accepted configuration")
