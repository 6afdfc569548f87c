"""The outputs part of the agent: further places that get the certificate after each renewal.

A worker as root writes them (`workers.outputs`); what has failed is tried again, ever more seldom,
and at once with the next renewal or `reload`. Nothing waits for it but the renewal hook.
"""

import logging
from typing import Any, NamedTuple

from ..config import model
from ..errors import HostAgentError
from ..host import ports, processes
from ..host.answers import outputs as answers
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from . import certificate, events, fields, part, places, statedir, tasks

logger = logging.getLogger(__name__)

WORKER = "outputs"
RECORD = f"{places.OUTPUTS}/record.json"  # written by the worker, once there is something
TIMEOUT_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 3600.0


class Subject(NamedTuple):
    """Of what is written: another one is written anew."""

    serial: str
    obtained: int  # the roots may have changed beside the same certificate
    directory: str
    outputs: tuple[model.Output, ...]


class OutputsPart(part.Part):
    """Has the outputs written, and knows what became of each."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        held: certificate.CertificatePart,
        state: statedir.StateDirectory,
        facts: model.HostFacts,
    ) -> None:
        """Start with none; of `facts` only what never changes is used."""
        self._state = state
        self._work = work
        self._clock = clock
        self._certificate = held
        self._user = processes.User(facts.proxy_uid, facts.proxy_gid)
        self._record = f"{facts.state_dir}/{places.OUTPUTS}"
        self._outputs: tuple[model.Output, ...] = ()
        self._subject: Subject | None = None
        self._written: tuple[answers.Written, ...] = ()  # of the last attempt, if it got so far
        self._error = ""  # of the attempt as a whole
        self._failures = 0
        self._retry_at: float | None = None
        self._is_writing = False
        self._is_release_wanted = False
        self._is_releasing = False
        self._not_removed = ""  # why what no key names is still there
        self._release_at: float | None = None
        self._release_failures = 0
        self.changes = 0  # outputs that were written since the agent started

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take the outputs that are wanted; what was written for others stays until these work."""
        outputs = config.delivery.outputs
        if outputs == self._outputs:
            return
        # What became of others says nothing about these, also what a worker is about to say.
        self._work.abandon(WORKER)
        self._is_writing = self._is_releasing = self._is_release_wanted = False
        self._written, self._error = (), ""
        self._retry_at, self._subject = None, None
        self._release_at, self._release_failures, self._not_removed = None, 0, ""
        self._outputs = outputs

    def handle(self, event: events.Event) -> None:
        """See what is held now, and try again what is due."""
        match event:
            case events.Reloading(is_asked=True):
                self._subject = None
                if self._release_at is not None:
                    self._release_at = self._clock.monotonic()
            case events.TimePassed():
                self._look()

    def deadline(self) -> float | None:
        """When it tries again (monotonic seconds)."""
        if self._is_writing or self._is_releasing:
            return None  # its end is waited for
        return min(filter(None, (self._retry_at, self._release_at)), default=None)

    @property
    def is_settled(self) -> bool:
        """Whether what is held has been written, or could not be, for now."""
        return not self._outputs or (self._subject == self._wanted() and not self._is_writing)

    def _wanted(self) -> Subject | None:
        found = self._certificate
        held, place = found.value.held, found.place
        if not self._outputs or place is None or held is None:
            return None
        if not found.value.is_held(self._clock.now()):
            return None
        return Subject(held.serial, found.obtained, place.directory, self._outputs)

    def release_others(self) -> None:
        """Remove what was written for outputs that no key names any more.

        Only when what is in force has worked: until then the ones before may come back.
        """
        self._is_release_wanted = True
        self._look()

    def _release(self) -> bool:
        """Begin, if there is anything to look at."""
        self._is_release_wanted = False
        self._release_at = None
        if not self._state.has(RECORD):
            return False
        self._is_releasing = True
        kept = [each.path for each in self._outputs]
        request = {"record": self._record, "kept": kept}
        self._work.start_worker(
            WORKER, request, user=None, timeout_s=TIMEOUT_S, done=self._released
        )
        return True

    def _released(self, answer: answers.Outputs | HostAgentError) -> None:
        self._is_releasing = False
        if isinstance(answer, HostAgentError):
            answer = answers.Outputs(failed=(answer.text,))
        for path in answer.removed:
            logger.info("%s removed: no key names it any more", path)
        before, self._not_removed = self._not_removed, "; ".join(answer.failed)
        for text in (*answer.left, *(answer.failed if self._not_removed != before else ())):
            logger.warning("not removed", extra=fields.of(CODE="not-removed", DETAIL=text))
        self._release_failures = self._release_failures + 1 if answer.failed else 0
        if answer.failed:
            self._release_at = self._clock.monotonic() + _pause(self._release_failures - 1)
        self._look()

    def _look(self) -> None:
        # One worker at a time: both write down what they have done in one file.
        if self._is_releasing:
            return
        if self._release_at is not None and self._clock.monotonic() >= self._release_at:
            self._is_release_wanted = True
        if self._is_release_wanted and not self._is_writing and self._release():
            return
        wanted = self._wanted()
        if wanted is None:
            # Nothing to write: what has failed begins anew when there is.
            self._retry_at, self._subject = None, None
            return
        is_due = self._retry_at is not None and self._clock.monotonic() >= self._retry_at
        if wanted != self._subject:
            self._failures = 0
            self._write(wanted)
        elif is_due and not self._is_writing:
            self._write(wanted)

    def _write(self, subject: Subject) -> None:
        place, held = self._certificate.place, self._certificate.value.held
        assert place is not None and held is not None
        if self._subject is None or self._subject.outputs != subject.outputs:
            self._written, self._error = (), ""  # of other outputs
        self._subject = subject
        self._is_writing = True
        self._retry_at = None
        request = {
            "output_dir": place.directory,
            "store_dir": place.store,
            "identity": held.identity,
            "user": [self._user.uid, self._user.gid],
            "record": self._record,
            "outputs": [each._asdict() | {"kind": each.kind.value} for each in subject.outputs],
        }

        def done(answer: answers.Outputs | HostAgentError) -> None:
            self._done(subject, answer)

        self._work.start_worker(WORKER, request, user=None, timeout_s=TIMEOUT_S, done=done)

    def _done(self, subject: Subject, answer: answers.Outputs | HostAgentError) -> None:
        before = self._not_written
        self._is_writing = False
        self._written, self._error = (), ""
        if isinstance(answer, HostAgentError):
            self._error = answer.text
        elif answer.error is not None:
            self._error = answer.error.message
        else:
            self._written = answer.outputs
        changed = sum(each.is_changed for each in self._written)
        self.changes += changed
        if changed:
            extra = fields.of(SERIAL=subject.serial, COUNT=changed)
            logger.info("certificate written for other programs", extra=extra)
        if not self._not_written:
            self._failures = 0
            return
        self._retry_at = self._clock.monotonic() + _pause(self._failures)
        self._failures += 1
        if self._not_written != before:
            extra = fields.of(CODE="not-written", DETAIL=self._not_written)
            logger.warning("certificate not written for other programs", extra=extra)

    @property
    def last_error(self) -> str:
        """What could not be written or removed, and why."""
        return "; ".join(filter(None, (self._not_written, self._not_removed)))

    @property
    def _not_written(self) -> str:
        return self._error or "; ".join(each.error for each in self._written if each.error)

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        state = "written"
        if self.last_error:
            state = "failed"
        elif not self._outputs:
            state = "none"
        elif not self._written or not self.is_settled:
            state = "pending"
        of_each = self._written or (None,) * len(self._outputs)
        return {
            "state": state,
            "files": [
                {
                    "kind": output.kind.value,
                    "path": output.path,
                    "last_error": written.error if written is not None else self._error,
                }
                for output, written in zip(self._outputs, of_each, strict=False)
            ],
            "last_error": self.last_error,
        }


def _pause(failures: int) -> float:
    """Seconds after so many failures before the last one."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures, 10), LONGEST_PAUSE_S)
