"""Performs the steps of one child process through the process port; `supervise.child` decides.

Until the proxy has units of its own it is a child of the agent and dies with it; captured traffic
is then refused, never let around.
"""

import logging
import signal
from collections.abc import Callable

from ..errors import ChildFailed
from ..host import endpoint, mailbox, output, ports, processes
from ..supervise import child, specs
from . import events, fields

logger = logging.getLogger(__name__)

READY_POLL_S = 0.02
READY_TIME_S = 0.25
# Asked again so seldom once it serves: its end is an event, a hang is not.
STEADY_POLL_S = 180.0
START_TIME_S = 60.0
STOP_TIME_S = 8.0
DRAIN_S = 0.02
# It has served for so long: the failures before are forgotten.
STEADY_S = 60.0


class Supervisor:
    """Keeps one child running as long as it is wanted."""

    def __init__(self, inbox: mailbox.Mailbox[events.Event], clock: ports.Clock) -> None:
        """Start with nothing wanted."""
        self._inbox = inbox
        self._clock = clock
        self._spec: specs.ProcessSpec | None = None
        self._prepare: Callable[[], None] | None = None
        self._child: processes.Child | None = None
        self._output: output.OutputPipe | None = None
        self._timer: float | None = None
        self._poll_at: float | None = None
        self._ready_at: float | None = None
        self._wanted_since: float | None = None
        self.failures = 0  # ends in a row that nobody asked for
        self.has_exited = False  # by itself, the last time; not ended by a signal
        self.state = child.State.IDLE
        self.trouble: ChildFailed | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._child.pid if self._child is not None else None

    def start(self, spec: specs.ProcessSpec, prepare: Callable[[], None]) -> None:
        """Want this process; one with another specification is replaced.

        `prepare` puts its files in place before each start; it may raise OSError.
        """
        if spec == self._spec and self.state is not child.State.IDLE:
            return
        self._spec = spec
        self._prepare = prepare
        self._wanted_since = self._clock.monotonic()
        self.failures = 0
        self.trouble = None
        self._report(child.Event.START)

    def stop(self) -> None:
        """Want no process; its end arrives later."""
        self._spec = None
        self._wanted_since = None
        self._report(child.Event.STOP)

    def end(self) -> None:
        """Stop it and wait for its end: the way out of the agent."""
        self.stop()
        if self._child is not None:
            self._inbox.forget(self._child.descriptor)
            deadline = self._clock.monotonic() + STOP_TIME_S
            while self._child.wait(DRAIN_S) is None and self._clock.monotonic() < deadline:
                # A proxy whose log nobody reads any more would block in a write, and not end.
                self._tail()
            self._child.end_group()
            self._child.end(0.0)
            self._tail()
            self._child = None

    @property
    def waiting_since(self) -> float | None:
        """Since when it is wanted without being ready (monotonic seconds); None: it is not so."""
        return self._wanted_since if self._ready_at is None else None

    def deadline(self) -> float | None:
        """When `tick` has something to do (monotonic seconds)."""
        moments = [moment for moment in (self._timer, self._poll_at) if moment is not None]
        return min(moments, default=None)

    def tick(self) -> None:
        """Ask whether it is ready, and report the timers that are over."""
        now = self._clock.monotonic()
        if self._poll_at is not None and now >= self._poll_at:
            self._ask()
        if self._timer is not None and now >= self._timer:
            self._timer = None
            if self.state is child.State.STARTING:
                self.trouble = ChildFailed(self._name, f"was not ready in {START_TIME_S:.0f} s")
            self._report(child.Event.TIMER)

    def ended(self) -> None:
        """The process has ended."""
        if self._child is None or not self._child.has_ended():
            return
        # pilot-agent's Envoy outlives it, holds its ports, and the next one could never start.
        self._child.end_group()
        status = self._child.poll()
        self.has_exited = status is not None and status >= 0
        lines = self._tail()
        self._child = None
        name = self._spec.name if self._spec is not None else "proxy"
        if self.state not in (child.State.STOPPING, child.State.REPLACING):
            self.trouble = ChildFailed(name, processes.outcome(status), lines)
        self._report(child.Event.EXITED)

    def _tail(self) -> tuple[str, ...]:
        return self._output.tail() if self._output is not None else ()

    def _ask(self) -> None:
        if self._spec is None or not self._spec.readiness_port:
            self._poll_at = None
            return
        is_ready = endpoint.is_ready(self._spec.readiness_port, READY_TIME_S)
        self._report(child.Event.READY if is_ready else child.Event.UNREADY)
        if self._poll_at is not None:
            pause = STEADY_POLL_S if is_ready else READY_POLL_S
            self._poll_at = self._clock.monotonic() + pause

    def _report(self, event: child.Event) -> None:
        step = child.next_step(self.state, event)
        self.state = step.state
        now = self._clock.monotonic()
        if step.action is not child.Action.NOTHING:
            self._timer = None
        match step.action:
            case child.Action.NOTHING:
                pass
            case child.Action.SPAWN:
                self._spawn(now)
            case child.Action.SETTLE:
                self._ready_at = now
                self.trouble = None
                logger.info("proxy ready", extra=fields.of(PROXY=self._name))
            case child.Action.WATCH:
                self._timer = now + START_TIME_S
                logger.warning("proxy not ready any more", extra=fields.of(PROXY=self._name))
            case child.Action.TERMINATE:
                self._signal(signal.SIGTERM)
                self._timer = now + STOP_TIME_S
                self._poll_at = None
            case child.Action.KILL:
                self._signal(signal.SIGKILL)
            case child.Action.DELAY:
                self._delay(now)
            case child.Action.FORGET:
                self.failures = 0
                self._ready_at = None
                self._poll_at = None

    @property
    def _name(self) -> str:
        return self._spec.name if self._spec is not None else ""

    def _spawn(self, now: float) -> None:
        assert self._spec is not None and self._prepare is not None
        self._ready_at = None
        try:
            self._prepare()
            self._child = self._spawn_with_output(self._spec)
        except OSError as error:
            self.trouble = ChildFailed(self._spec.name, f"cannot be started: {error}")
            self._report(child.Event.EXITED)
            return
        self.starts += 1
        self._poll_at = now
        self._timer = now + START_TIME_S
        ended = events.ProxyEnded()
        descriptor = self._child.descriptor

        def read() -> events.Event:
            self._inbox.forget(descriptor)
            return ended

        self._inbox.watch(descriptor, read)
        extra = fields.of(PROXY=self._spec.name, PROXY_PID=self._child.pid)
        logger.info("proxy started", extra=extra)

    def _spawn_with_output(self, spec: specs.ProcessSpec) -> processes.Child:
        if self._output is not None:
            self._output.close()
        self._output = output.OutputPipe(self._inbox, spec.name, spec.user_uid, spec.user_gid)
        try:
            return processes.spawn(
                spec.argv,
                user=processes.User(spec.user_uid, spec.user_gid),
                environment={**processes.BASE_ENVIRONMENT, **dict(spec.environment)},
                directory=spec.directory,
                stdout=self._output.write_end,
                stderr=self._output.write_end,
            )
        finally:
            self._output.handed_over()

    def _signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)

    def _delay(self, now: float) -> None:
        if self._ready_at is not None and now - self._ready_at >= STEADY_S:
            self.failures = 0
        self.failures += 1
        self._ready_at = None
        self._poll_at = None
        delay = child.restart_delay(self.failures)
        self._timer = now + delay
        if self.failures & (self.failures - 1) == 0:
            logger.error(
                "proxy ended; it is started again",
                extra=fields.of(
                    CODE="child-failed",
                    DETAIL=str(self.trouble),
                    FAILURES=self.failures,
                    SECONDS=round(delay, 1),
                ),
            )
