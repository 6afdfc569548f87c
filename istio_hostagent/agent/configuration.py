"""The configuration part of the agent: what the files say, and what that comes to.

Which configuration is in force is decided in `lifecycle`; here are the files and the words.
"""

import logging
from typing import cast

from ..config import model
from ..host import ports
from ..lifecycle.life import Life, Offer, Revision
from . import fields, places, reload

logger = logging.getLogger(__name__)


class ConfigurationPart:
    """The files as they were read last."""

    def __init__(
        self, disk: ports.EnvironmentFiles, sources: places.Sources, facts: model.HostFacts
    ) -> None:
        """Nothing is read yet."""
        self._disk = disk
        self.sources = sources
        self.facts = facts
        self.loaded = reload.Loaded()

    def read(self, accepted: Revision | None) -> Offer:
        """Read the files again and judge them; what is wrong with them is logged once."""
        found = self.look(accepted)
        if found == self.loaded:
            # Two equal values of ten thousand networks each take 3 ms to compare, the same none.
            return offer(self.loaded)
        is_news = (self.loaded.problems, self.loaded.layers) != (found.problems, found.layers)
        self.loaded = found
        if is_news:
            self._report()
        return offer(self.loaded)

    def look(self, accepted: Revision | None) -> reload.Loaded:
        """What the files say now, without taking it; `accepted` is what stays if they are bad."""
        return reload.load(self._disk, self.sources, self.facts, layers_of(accepted))

    def judged(self, life: Life) -> reload.Loaded:
        """What the files came to: with the reason why they do not hold, if they do not."""
        refusal, accepted = life.refusal, life.disk.accepted
        is_refused = refusal is not None and refusal.texts == self.loaded.layers
        if refusal is None or accepted is None or not is_refused or self.loaded.problems:
            return self.loaded
        kept = reload.Loaded(config_of(accepted), layers_of(accepted))
        return reload.refuse(kept, self.loaded, refusal.reason, is_final=refusal.retry_at is None)

    def _report(self) -> None:
        for problem in self.loaded.problems:
            extra = fields.of(CODE="config-invalid", FILE=problem.file, LINE=problem.line)
            logger.error("%s", problem, extra=extra)
        for warning in self.loaded.warnings:
            logger.warning("%s", warning, extra=fields.of(FILE=warning.file, LINE=warning.line))
        if self.loaded.is_kept:
            logger.warning("the previous configuration stays active")


def offer(loaded: reload.Loaded) -> Offer:
    """What files that came to this offer."""
    revision = None
    if loaded.config is not None:
        revision = Revision(loaded.layers, loaded.config)
    return Offer(revision, is_empty=loaded.is_empty)


def revision(loaded: reload.Loaded | None) -> Revision | None:
    """The configuration and the texts that made it."""
    return offer(loaded).revision if loaded is not None else None


def config_of(revision: Revision) -> model.Config:
    """The configuration of a revision that was made here."""
    return cast(model.Config, revision.config)


def layers_of(revision: Revision | None) -> tuple[model.Layer, ...]:
    """The texts of a revision that was made here."""
    return cast("tuple[model.Layer, ...]", revision.texts) if revision is not None else ()
