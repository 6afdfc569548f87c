"""The configuration part of the agent: which configuration is in force, and why that one.

A configuration is *taken* when it comes into force, *accepted* (its texts kept) once it has
worked, and *refused* when it does not hold: then the last one that worked is in force. When which
of these happens is not decided here (`trial`), and the parts that act on it are not known.
"""

import logging
import os

from ..config import model
from . import fields, reload

logger = logging.getLogger(__name__)


class ConfigurationPart:
    """What the files say, what is in force, and what was accepted before."""

    def __init__(
        self, sources: reload.Sources, facts: model.HostFacts, *, is_joined: bool
    ) -> None:
        """Read everything once; nothing is in force yet.

        Who starts a host that has left the mesh asks for what was refused to be tried again.
        """
        self.sources = sources
        self.facts = facts
        self._accepted = reload.load_layers(self._path(reload.ACCEPTED), sources)
        self._saved = self._accepted
        self.last_worked = reload.judge_accepted(self._accepted, facts)
        refused = self._path(reload.REFUSED)
        self._refused = reload.load_layers(refused, sources) if is_joined else ()
        self._taken: reload.Loaded | None = None
        self.in_force: model.Config | None = None
        self.candidate: reload.Loaded | None = None  # what is judged, before it may be in force
        self.loaded = self.look()
        if self.last_worked is not None and self._is_refused(self.loaded):
            self.loaded = reload.refuse(self.last_worked, self.loaded, "it did not hold before")
        self._report()

    def _path(self, name: str) -> str:
        return os.path.join(str(self.facts.state_dir), name)

    def _is_refused(self, found: reload.Loaded) -> bool:
        return found.config is not None and not found.problems and found.layers == self._refused

    @property
    def worked(self) -> model.Config | None:
        """The last configuration that has worked, now or before the agent was started."""
        return self.last_worked.config if self.last_worked is not None else None

    @property
    def is_on_trial(self) -> bool:
        """Whether something is in force that has not worked yet, although another did."""
        return self.last_worked is not None and self.in_force != self.last_worked.config

    def look(self) -> reload.Loaded:
        """What the files say now, without taking it."""
        return reload.load(self.sources, self.facts, self._accepted)

    def refresh(self, *, is_asked: bool = False) -> bool:
        """Read the files again; says whether anything differs.

        Texts that did not hold are not taken again unless it `is_asked` for.
        """
        before, found = self.loaded, self.look()
        if self.last_worked is not None and self._is_refused(found) and not is_asked:
            if before.layers == found.layers:
                return False
            found = reload.refuse(self.last_worked, found, "it did not hold before")
        else:
            self._refused = ()
        self.loaded = found
        if (before.problems, before.layers) == (found.problems, found.layers):
            return False
        self._report()
        return True

    def take(self, loaded: reload.Loaded) -> model.Config:
        """Put this into force; it must have a configuration."""
        assert loaded.config is not None
        self._taken = loaded
        self.in_force = loaded.config
        return loaded.config

    @property
    def is_withdrawn(self) -> bool:
        """Whether something is in force and the operator has taken the files away again."""
        return self.in_force is not None and self.loaded.is_empty

    def forget(self) -> None:
        """Nothing is in force any more."""
        self.in_force = None

    def accept(self) -> None:
        """What is in force has worked: keep its texts. Raises OSError."""
        self._take_other_words()
        assert self._taken is not None
        self.last_worked = self._taken
        self._accepted = self._taken.layers
        if self._saved != self._accepted:
            reload.save_layers(self._path(reload.ACCEPTED), self._accepted)
            self._saved = self._accepted

    def _take_other_words(self) -> None:
        """The files may say what is in force in other words, since it was taken."""
        if self.loaded.config == self.in_force and not self.loaded.is_kept:
            self._taken = self.loaded

    def refuse(self, reason: str, *, is_final: bool) -> model.Config:
        """Let what has worked be in force, and say why not what the files make."""
        assert self.last_worked is not None
        self._take_other_words()
        refused = self.candidate or self._taken
        assert refused is not None
        self.candidate = None
        self._refused = refused.layers
        self.loaded = reload.refuse(self.last_worked, refused, reason, is_final=is_final)
        return self.take(self.last_worked)

    def save_refused(self) -> None:
        """Remember over a restart what did not hold. Raises OSError."""
        reload.save_layers(self._path(reload.REFUSED), self._refused)

    def _report(self) -> None:
        for problem in self.loaded.problems:
            extra = fields.of(CODE="config-invalid", FILE=problem.file, LINE=problem.line)
            logger.error("%s", problem, extra=extra)
        for warning in self.loaded.warnings:
            logger.warning("%s", warning, extra=fields.of(FILE=warning.file, LINE=warning.line))
        if self.loaded.is_kept:
            logger.warning("keeping the last accepted configuration")
