"""Has a worker look at the files on file systems that may never answer.

Not here: what was seen, and whether a file is one of those (`ports.Sights`).
"""

import logging

from ..errors import HostAgentError
from ..host import ports, processes
from ..host.answers import looker
from . import events, fields, part, tasks

logger = logging.getLogger(__name__)

WORKER = "looker"
TIMEOUT_S = 5.0


class Lookout(part.Part):
    """One look at a time; what differs from the one before is told like a changed file."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        work: tasks.Tasks,
        sights: ports.Sights,
        user: processes.User,
    ) -> None:
        """`user` looks where this process must not wait."""
        self._inbox = inbox
        self._work = work
        self._sights = sights
        self._user = user
        self.last_error = ""  # why the last look came to nothing

    def handle(self, event: events.Event) -> None:
        """Look again now and then."""
        if isinstance(event, events.Heartbeat):
            self.look()

    def look_at_new(self) -> None:
        """Look if somebody has asked for a file that was never looked at."""
        if self._sights.is_behind and not self.last_error:
            self.look()

    def look(self) -> None:
        """Look again at all that anybody has asked for."""
        paths = self._sights.remote()
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
