"""Has a worker look at the files on file systems that may never answer.

Not here: what was seen, and whether a file is one of those (`ports.Sights`).
"""

import logging
from collections.abc import Callable

from ..errors import HostAgentError
from ..host import ports, processes
from ..host.answers import looker
from . import events, fields, part, tasks

logger = logging.getLogger(__name__)

WORKER = "looker"
TIMEOUT_S = 5.0
# While a new credential would be tried at once, those of which no event tells are looked at so
# often.
URGENT_S = 5.0


class Lookout(part.Part):
    """One look at a time; what differs from the one before is told like a changed file."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        work: tasks.Tasks,
        sights: ports.Sights,
        user: processes.User,
        clock: ports.Clock,
        is_urgent: Callable[[], bool],
    ) -> None:
        """`user` looks where this process must not; `is_urgent`: somebody waits for a change."""
        self._inbox = inbox
        self._work = work
        self._sights = sights
        self._user = user
        self._clock = clock
        self._is_urgent = is_urgent
        self._looked_at = clock.monotonic()
        self.last_error = ""  # why the last look came to nothing

    def deadline(self) -> float | None:
        """When it looks again by itself (monotonic seconds)."""
        is_wanted = self._is_urgent() and self._sights.remote()
        return self._looked_at + URGENT_S if is_wanted else None

    def handle(self, event: events.Event) -> None:
        """Look again now and then."""
        match event:
            case events.Heartbeat() | events.Reloading():
                self.look()
            case events.TimePassed():
                due = self.deadline()
                if due is not None and self._clock.monotonic() >= due:
                    self.look()

    def look_at_new(self) -> None:
        """Look if somebody has asked for a file that was never looked at."""
        if self._sights.is_behind and not self.last_error:
            self.look()

    def look(self) -> None:
        """Look again at all that anybody has asked for."""
        paths = self._sights.remote()
        self._looked_at = self._clock.monotonic()
        if paths and not self._work.is_running(WORKER):
            self._work.start_worker(
                WORKER,
                paths,
                user=self._user,
                timeout_s=TIMEOUT_S,
                done=lambda answer: self._looked(paths, answer),
            )

    def _looked(
        self, paths: tuple[str, ...], answer: tuple[looker.Sight, ...] | HostAgentError
    ) -> None:
        last_error = ""
        if isinstance(answer, HostAgentError):
            last_error = f"{', '.join(paths)}: {answer}"
        elif self._sights.take(paths, answer):
            self._inbox.post(events.FilesChanged())
        if last_error and not self.last_error:
            extra = fields.of(CODE="not-watched")
            logger.warning("changed files are noticed late: %s", last_error, extra=extra)
        self.last_error = last_error
