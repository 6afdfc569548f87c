"""A server of ours that the agent runs beside the proxy: one process, as long as it is wanted.

There are two: of secrets, where no unit is one, and of names of the mesh. Each runs as istio-proxy
and dies with the agent, but for one that has a unit, as the second has where the proxy has one: it
goes on, and the next agent takes it on. The proxy goes on without the first with what it has;
queries for names wait until the second is there again.
Not here: what they give out (`workers.secrets`, `workers.resolver`).
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import ChildFailed, HostAgentError, describe
from ..host import ports, processes
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..supervise import child
from . import events, fields, part

logger = logging.getLogger(__name__)

# One that has run for so long was a good one: its failures are forgotten.
STEADY_S = 60.0


class Server(NamedTuple):
    """What is run: a worker, and what it is called in messages.

    `wanted` gives its arguments, None where none is wanted now; with others it is replaced.
    `is_known`: whether what `wanted` gives is about what runs by now; until then it is left alone.
    `prepare` makes what it needs before each start; it may raise OSError. `may_have_unit`: whether
    it may outlive the agent.
    """

    worker: str
    name: str
    wanted: Callable[[], tuple[str, ...] | None]
    prepare: Callable[[], object] = lambda: None
    is_known: Callable[[], bool] = lambda: True
    may_have_unit: Callable[[], bool] = lambda: False


class OwnServerPart(part.Part):
    """Keeps one running."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        clock: ports.Clock,
        processes: ports.Processes,
        user: processes.User,
        server: Server,
    ) -> None:
        """Start with none."""
        self._inbox = inbox
        self._clock = clock
        self._processes = processes
        self._user = user
        self._server = server
        self._process: ports.Child | None = None
        self._arguments: tuple[str, ...] | None = None  # of the one that was started last
        self._started_at = 0.0
        self._starts = 0
        self._failures = 0
        self._retry_at: float | None = None
        self.last_error = ""

    @property
    def subject(self) -> object:
        """Which process runs, another value for each; None: none does."""
        return None if self._process is None else self._starts

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those of the one that was started last."""
        return self._arguments or ()

    def replace(self) -> None:
        """End it: it is started again."""
        if self._process is not None:
            self._process.end_group()

    def take_on(self) -> None:
        """Take on one that an earlier agent has started."""
        try:
            found = self._processes.find_server(self._server.worker)
        except OSError as error:
            logger.warning("cannot look for a server", extra=fields.of(DETAIL=describe(error)))
            return
        if found is not None:
            self._started_at = self._clock.monotonic()
            self._arguments, process = found
            self._follow(process)

    def handle(self, event: events.Event) -> None:
        """Start it, start it again, or end it."""
        match event:
            case events.ServerEnded(worker) if worker == self._server.worker:
                self._ended()
            case events.TimePassed():
                self._look()

    def deadline(self) -> float | None:
        """When it is started again."""
        return self._retry_at

    def _look(self) -> None:
        if not self._server.is_known():
            return
        wanted = self._server.wanted()
        if self._process is not None:
            if wanted != self._arguments:
                self._process.end_group()  # its end comes as an event
            return
        if wanted is None:
            self._retry_at, self._failures, self.last_error = None, 0, ""
            return
        is_due = self._retry_at is None or self._clock.monotonic() >= self._retry_at
        if is_due or wanted != self._arguments:
            self._start(wanted)

    def _start(self, arguments: tuple[str, ...]) -> None:
        self._started_at, self._retry_at = self._clock.monotonic(), None
        self._arguments = arguments
        try:
            self._server.prepare()
            process = self._processes.start_server(
                self._server.worker,
                arguments,
                user=self._user,
                may_have_unit=self._server.may_have_unit(),
            )
        except OSError as error:
            self._failed(ChildFailed(self._server.name, f"cannot be started: {describe(error)}"))
            return
        self._follow(process)

    def _follow(self, process: ports.Child) -> None:
        self._process = process
        self._starts += 1
        ended = events.ServerEnded(self._server.worker)
        self._inbox.watch(process.descriptor, lambda: ended)

    def _ended(self) -> None:
        if self._process is None or not self._process.has_ended():
            return
        self._inbox.forget(self._process.descriptor)
        status = self._process.poll()
        self._process = None
        if not self._server.is_known():
            return
        if self._server.wanted() != self._arguments:
            return
        if self._clock.monotonic() >= self._started_at + STEADY_S:
            self._failures = 0
        self._failed(processes.ended_badly(self._server.name, status, ()))

    def _failed(self, error: HostAgentError) -> None:
        self._failures += 1
        pause_s = child.restart_delay(self._failures)
        self._retry_at = self._clock.monotonic() + pause_s
        self.last_error = str(error)
        if self._failures & (self._failures - 1) == 0:
            logger.error(
                "%s ended; it is started again",
                self._server.name,
                extra=fields.of(
                    CODE=ChildFailed.code,
                    DETAIL=self.last_error,
                    FAILURES=self._failures,
                    SECONDS=round(pause_s, 1),
                ),
            )

    def obstacle(self, _life: Life) -> str:
        """That it does not stay."""
        return self.last_error if self._process is None else ""

    def code(self, _life: Life) -> str:
        """It ended, or could not be started."""
        return ChildFailed.code

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        process = self._process
        error = self.obstacle(_life)
        state = "running" if process is not None else "failed" if error else "none"
        # Of one in a unit it is not known before the service manager says it.
        return {
            "state": state,
            "pid": (process.pid or None) if process is not None else None,
            "last_error": error,
        }
