"""The answering part of the agent: asks the resolver of names beside Envoy whether it answers.

Where queries are captured, nobody else answers them. It is asked until it does, by a worker as
istio-proxy, and after that now and then; one that has stopped answering is replaced. Not here: its
process (`ownserver`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import HostAgentError, ResolverSilent
from . import events, fields, part

if TYPE_CHECKING:
    from ..host import ports, processes
    from ..lifecycle.life import Life
    from ..lifecycle.situation import Now
    from . import ownserver, tasks

logger = logging.getLogger(__name__)

WORKER = "queries"
TIMEOUT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# Its stream to istiod is opened anew every 3 s; what has not answered by then is named.
PATIENCE_S = 10.0
# One that has answered before and does not any more is asked once more before that counts, and
# ended after so many questions: it hangs.
DOUBTED, MOST_DOUBTED = 2, 5


class AnsweringPart(part.Part):
    """Knows whether queries for names are answered."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        server: ownserver.OwnServerPart,
        is_wanted: Callable[[], bool],
        user: processes.User,
    ) -> None:
        """`is_wanted`: whether a resolver is to answer here; `user`: as whom it is asked."""
        self._work = work
        self._clock = clock
        self._server = server
        self._is_wanted = is_wanted
        self._user = user
        self._subject: object = None  # which process is asked
        self._since = 0.0
        self._is_asking = False
        self._ask_at: float | None = None
        self._failures = 0
        self._has_answered = False
        self._error = ""

    @property
    def is_answering(self) -> bool:
        """Whether queries that are captured are answered; also where none are."""
        return self._has_answered or not self._is_wanted()

    @property
    def last_error(self) -> str:
        """Why they are not, once that is more than a matter of time."""
        if self.is_answering:
            return ""
        is_late = self._clock.monotonic() >= self._since + PATIENCE_S
        return self._error if is_late or self._server.last_error else ""

    def handle(self, event: events.Event) -> None:
        """See what runs, and ask what is due; now and then although nothing has changed."""
        match event:
            case events.TimePassed():
                self._look()
            case events.Heartbeat():
                if self._has_answered:
                    self._ask_at = self._clock.monotonic()

    def deadline(self) -> float | None:
        """When it is asked again, or has had its time."""
        if not self._is_wanted():
            return None
        ends_at = None if self._has_answered else self._since + PATIENCE_S
        moments = [at for at in (self._ask_at, ends_at) if at is not None]
        return min((at for at in moments if at > self._clock.monotonic()), default=self._ask_at)

    def _look(self) -> None:
        now = self._clock.monotonic()
        if not self._is_wanted():
            self._begin(None)
            return
        subject = self._server.subject
        if self._subject is None or subject != self._subject:
            self._begin(subject)
        if subject is None:
            self._error = self._server.last_error
            return
        if self._ask_at is not None and now >= self._ask_at and not self._is_asking:
            self._ask(subject)

    def _begin(self, subject: object) -> None:
        if subject is None and self._subject is None and not self._is_asking:
            if self._is_wanted() and not self._since:
                self._since = self._clock.monotonic()
            return
        self._work.abandon(WORKER)
        self._subject, self._is_asking = subject, False
        now = self._clock.monotonic()
        self._since = now
        self._ask_at = now if subject is not None else None
        self._failures, self._has_answered, self._error = 0, False, ""

    def _ask(self, subject: object) -> None:
        self._is_asking, self._ask_at = True, None

        def done(answer: Any) -> None:
            if subject == self._subject:
                self._answered(answer)

        request = {"port": int(self._server.arguments[2])}
        self._work.start_worker(WORKER, request, user=self._user, timeout_s=TIMEOUT_S, done=done)

    def _answered(self, answer: Any) -> None:
        self._is_asking = False
        if answer is None:
            self._failures, self._has_answered, self._error = 0, True, ""
            return
        text = answer.text if isinstance(answer, HostAgentError) else answer.message
        self._failures += 1
        self._error = f"resolver: {text}"
        pause_s = min(FIRST_PAUSE_S * 2 ** min(self._failures, 8), LONGEST_PAUSE_S)
        self._ask_at = self._clock.monotonic() + pause_s
        if self._has_answered and self._failures >= DOUBTED:
            self._has_answered, self._since = False, 0.0
            extra = fields.of(CODE=ResolverSilent.code, DETAIL=text)
            logger.error("queries for names are not answered", extra=extra)
        if not self._since and self._failures >= MOST_DOUBTED:
            self._server.replace()

    def obstacle(self, life: Life) -> str:
        """That it does not stay, or does not answer."""
        return self._server.obstacle(life) or self.last_error

    def code(self, life: Life) -> str:
        """It has ended, or is silent."""
        return self._server.code(life) if self._server.obstacle(life) else ResolverSilent.code

    def status(self, life: Life, now: Now) -> dict[str, Any]:
        """Its part of the report of `status`: of the process, and whether it answers."""
        told = self._server.status(life, now)
        is_answering = self._has_answered if self._is_wanted() else None
        return told | {
            "answers": is_answering,
            "last_error": told["last_error"] or self.last_error,
        }
