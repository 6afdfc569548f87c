"""The configuration part of the agent: what the files say, and what that comes to.

Which configuration is in force is decided in `lifecycle`; here are the files and the words.
"""

import logging
from typing import Any, cast

from ..config import model
from ..errors import ChildFailed, ConfigInvalid, Problem
from ..host import garbage, layers, ports, processes
from ..lifecycle.life import Life, Offer, Revision
from ..lifecycle.situation import Now
from . import events, fields, part, places, reading, reload, tasks

logger = logging.getLogger(__name__)

# Files that could not be read are tried again after 5 s, then twice as long, up to 5 minutes.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
# What is bad, gone or empty is read again after so long before anything is made of it: somebody
# may be in the middle of writing. While that goes on it is waited for, for so many readings.
DOUBT_S = 0.5
MAX_DOUBTS = 6
# What a mistake in the files does to a host that has accepted others before.
STAYS_ACTIVE = "the previous configuration stays active"


class ConfigurationPart(part.Part):
    """The files as they were read last."""

    def __init__(
        self,
        disk: ports.EnvironmentFiles,
        sources: places.Sources,
        facts: model.HostFacts,
        work: tasks.Tasks,
        clock: ports.Clock,
    ) -> None:
        """Nothing is read yet."""
        user = processes.User(facts.proxy_uid, facts.proxy_gid)
        self._reading = reading.Reading(work, disk, sources.paths, user, name=reading.WORKER)
        self._glance = reading.Reading(work, disk, sources.paths, user, name="reader for plan")
        self._clock = clock
        self._loaded_from: object = None  # from what `_last` was made
        self._last = reload.Loaded()  # what came of the last reading, taken or not
        self._taken_from: object = None
        self._reported: object = None
        self._failures = 0
        self._retry_at: float | None = None
        self._again: list[reading.Taken] = []  # who is to be given the next reading
        self._doubted: layers.Found | None = None
        self._doubted_at = 0.0
        self._doubts = 0
        self._changed: layers.Found | None = None  # what was read when it was not as accepted
        self._before: model.Config | None = None  # what was accepted then; not its texts
        self._is_verbose: bool | None = None  # every step is logged, whatever the files say
        self.failure: Problem | None = None  # why the last reading came to nothing
        self.sources = sources
        self.facts = facts
        self.loaded = reload.Loaded()

    def begin(self, kept: reload.Loaded | None) -> None:
        """What the accepted texts come to is all that is known before the first reading."""
        self.loaded = self._last = kept or reload.Loaded()

    def read(self, taken: reading.Taken) -> None:
        """Begin to read the files; who is given what was read hands it to `take`."""
        self._retry_at = None
        again, self._again = self._again, []
        for each in (*again, taken):
            self._reading.ask(each)

    def handle(self, event: events.Event) -> events.Event | None:
        """What the files mean depends on the machine; they are read again when that is due."""
        match event:
            case events.MachineSeen(facts):
                # Which units run says nothing of what the files mean.
                self.facts = facts._replace(control_groups=())
            case events.TimePassed():
                is_due = self._retry_at is not None and self._clock.monotonic() >= self._retry_at
                return events.FilesChanged() if is_due else None
        return None

    def deadline(self) -> float | None:
        """When the files are to be read again by themselves (monotonic seconds)."""
        return self._retry_at

    def put_off(
        self, found: layers.Found | Problem, accepted: Revision | None, taken: reading.Taken
    ) -> bool:
        """Whether what was read is no good yet: `taken` gets what is read in a moment.

        A host that has accepted nothing has nothing to lose, and is told at once.
        """
        if isinstance(found, Problem) or accepted is None:
            return False
        loaded = self._load(found, accepted)
        if not (loaded.problems or loaded.restored):
            self._doubted, self._doubts = None, 0
            return False
        now = self._clock.monotonic()
        if found != self._doubted:
            self._doubted, self._doubted_at = found, now
            self._doubts += 1
        if now >= self._doubted_at + DOUBT_S or self._doubts > MAX_DOUBTS:
            self._doubts = 0
            return False
        if taken not in self._again:
            self._again.append(taken)
        self._retry_at = self._doubted_at + DOUBT_S
        return True

    def take(self, found: layers.Found | Problem, accepted: Revision | None) -> Offer | None:
        """Take what was read; what is wrong with it is logged once. None: nothing was read.

        `accepted` is what stays if the files are bad.
        """
        if isinstance(found, Problem):
            self._failed(found)
            return None
        self.failure, self._failures = None, 0
        is_first = self._taken_from is None
        self.loaded = self._load(found, accepted)
        if self._taken_from == self._loaded_from:
            return offer(self.loaded)
        self._taken_from = self._loaded_from
        if self._reported != (self.loaded.problems, self.loaded.layers, self.loaded.restored):
            self._reported = self.loaded.problems, self.loaded.layers, self.loaded.restored
            self._report()
        self._set_log_level()
        if not is_first:
            garbage.collect()
        return offer(self.loaded)

    def _load(self, found: layers.Found, accepted: Revision | None) -> reload.Loaded:
        """Make sense of what was read, once: ten thousand networks take a tenth of a second."""
        kept = layers_of(accepted)
        for known in (kept, self._last.layers):
            if found.layers == known:
                found = found._replace(layers=known)  # one copy, of what may be large
        if self._loaded_from != (found, self.facts, kept):
            self._loaded_from = (found, self.facts, kept)
            before = self._find_before(found, accepted)
            loaded = reload.load(found, self.facts, kept, before)
            if accepted is not None:
                loaded = _share_networks(loaded, config_of(accepted))
            self._last = _share_networks(loaded, self._last.config)
        return self._last

    def _find_before(self, found: layers.Found, accepted: Revision | None) -> model.Config | None:
        """What had worked when the files became what they are: also once these have worked."""
        if self._changed is None or found.layers != self._changed.layers:
            self._changed = found
            self._before = config_of(accepted) if accepted is not None else None
        return self._before

    def _failed(self, failure: Problem) -> None:
        if failure is self.failure:
            return  # of one reading, for one more who had asked
        self.failure = failure
        self._failures += 1
        pause = min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S)
        self._retry_at = self._clock.monotonic() + pause
        if self._failures & (self._failures - 1) == 0:
            extra = fields.of(CODE="child-failed", FILE=failure.file, FAILURES=self._failures)
            logger.error("%s", failure, extra=extra)

    def glance(self, taken: reading.Taken) -> None:
        """Read the files without taking what they say."""
        self._glance.ask(taken)

    def loaded_for(self, life: Life) -> reload.Loaded:
        """What the files came to: with the reason why they do not hold, if they do not."""
        loaded = self._loaded_by(life)
        if self.failure is None:
            return loaded
        is_previous = life.in_force is not None
        return loaded._replace(problems=(self.failure,), is_previous=is_previous)

    def _loaded_by(self, life: Life) -> reload.Loaded:
        refusal, accepted = life.refusal, life.disk.accepted
        is_refused = refusal is not None and refusal.texts == self.loaded.layers
        if refusal is None or accepted is None or not is_refused or self.loaded.problems:
            return self.loaded
        previous = reload.Loaded(config_of(accepted), layers_of(accepted))
        return reload.refuse(
            previous, self.loaded, refusal.reason, is_final=refusal.retry_at is None
        )

    def obstacle(self, life: Life) -> str:
        """What is missing, or wrong in the files, with file and line."""
        if life.offer.is_empty and life.in_force is None:
            return f"waiting for {self.sources.cluster} or {self.sources.sidecar}"
        loaded = self.loaded_for(life)
        if not loaded.problems:
            return str(loaded.restored[0]) if loaded.restored else ""
        others = len(loaded.problems) - 1
        more = f" (and {others} more)" if others else ""
        active = f"; {STAYS_ACTIVE}" if loaded.is_previous else ""
        return f"{loaded.problems[0]}{more}{active}"

    def code(self, life: Life) -> str:
        """Whether files are missing, bad or refused, or could not be read."""
        if life.offer.is_empty and life.in_force is None:
            return "config-missing"
        if self.failure is not None:
            return ChildFailed.code
        if self.loaded.problems:
            return ConfigInvalid.code
        return "rejected" if self.loaded_for(life).problems else "config-gone"

    def status(self, life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        loaded = self.loaded_for(life)
        is_waiting = loaded.is_empty and life.in_force is None
        state = "waiting" if loaded.config is None or is_waiting else "accepted"
        if loaded.is_previous or (
            loaded.restored and not loaded.problems and not life.is_changing
        ):
            state = "kept"
        elif loaded.problems:
            state = "invalid"
        elif life.is_changing:
            state = "trial"
        return {
            "state": state,
            "files": list(self.sources.paths),
            "problems": [str(problem) for problem in loaded.problems],
            "warnings": [str(warning) for warning in loaded.warnings],
        }

    def _set_log_level(self) -> None:
        """What the files say counts, unless somebody has asked for every step (run --debug)."""
        package = logging.getLogger(__name__.split(".")[0])
        if self._is_verbose is None:
            self._is_verbose = package.level == logging.DEBUG
        if not self._is_verbose and package.level != self.loaded.log_level:
            package.setLevel(self.loaded.log_level)

    def _report(self) -> None:
        for problem in self.loaded.problems:
            extra = fields.of(CODE="config-invalid", FILE=problem.file, LINE=problem.line)
            logger.error("%s", problem, extra=extra)
        for warning in self.loaded.warnings:
            logger.warning("%s", warning, extra=fields.of(FILE=warning.file, LINE=warning.line))
        if self.loaded.is_previous:
            logger.warning("%s", STAYS_ACTIVE)


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


def _share_networks(loaded: reload.Loaded, known: model.Config | None) -> reload.Loaded:
    """Give the same with the networks of another one where they are equal: they may be large."""
    if loaded.config is None or known is None:
        return loaded
    redirection = loaded.config.redirection
    if redirection.outbound != known.redirection.outbound:
        return loaded
    redirection = redirection._replace(outbound=known.redirection.outbound)
    return loaded._replace(config=loaded.config._replace(redirection=redirection))
