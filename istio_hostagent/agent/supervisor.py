"""Performs the steps of one child process through the process port; `supervise.child` decides.

Until the proxy has units of its own it is a child of the agent and dies with it; captured traffic
is then refused, never let around.
"""

import logging
import signal
from collections.abc import Callable

from ..errors import ChildFailed, describe
from ..host import ports, processes, procstate
from ..supervise import child, controlplane, liveness, specs
from . import events, fields, part

logger = logging.getLogger(__name__)

# After these nothing runs that could be asked, or only what was told to end.
_WITHOUT_ROUNDS = (
    child.Action.TERMINATE,
    child.Action.KILL,
    child.Action.DELAY,
    child.Action.FORGET,
)
DRAIN_S = 0.02
# One that answers gets its listeners from a control plane a moment later.
LISTEN_TIME_S = 5.0


class Supervisor(part.Part):
    """Keeps one child running as long as it is wanted."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        clock: ports.Clock,
        processes: ports.Processes,
        doors: ports.Doors,
        held: ports.HeldPorts,
    ) -> None:
        """Start with nothing wanted."""
        self._held_ports = held
        self._inbox = inbox
        self._clock = clock
        self._processes = processes
        self._spec: specs.ProcessSpec | None = None
        self._prepare: Callable[[], None] | None = None
        self._process: ports.Child | None = None
        self._tail: Callable[[], tuple[str, ...]] = tuple  # of the process that was started last
        self._doors = doors
        self._watch = liveness.Watch()
        self._round_at: float | None = None  # when the round of questions begins or is read
        self._asked_at = 0.0
        self._is_asked = False  # a round is under way
        self._unready_since = 0.0
        self._was_continued = False
        self._killed_at: float | None = None
        self._held = ""  # who keeps it from running
        self.closed_ports: tuple[int, ...] = ()  # on which it does not listen, and has to
        self.control_plane = controlplane.ControlPlane()
        self.child = child.Child()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, spec: specs.ProcessSpec, prepare: Callable[[], None]) -> None:
        """Want this process; one with another specification is replaced.

        `prepare` puts its files in place before each start; it may raise OSError.
        """
        if spec == self._spec and self.state is not child.State.IDLE:
            return
        self._spec = spec
        self._prepare = prepare
        self._report(child.Event.START)

    def replace(self) -> None:
        """Start the process anew, with the same specification."""
        if self._spec is not None and self.state is child.State.READY:
            self._report(child.Event.START)

    def stop(self) -> None:
        """Want no process; its end arrives later."""
        self._spec = None
        self._report(child.Event.STOP)

    def end(self) -> None:
        """Stop it and wait for its end: the way out of the agent."""
        self.stop()
        if self._process is not None:
            self._inbox.forget(self._process.descriptor)
            deadline = self._clock.monotonic() + child.STOP_TIME_S
            while not self._process.has_ended() and self._clock.monotonic() < deadline:
                # A proxy whose log nobody reads any more would block in a write, and not end.
                self._process.await_end(DRAIN_S)
                self._tail()
            # Before its status is taken: then the number of its group is nobody else's.
            self._process.end_group()
            if self._process.end(0.0) is None:
                left = self._processes.describe_stuck(self._process.pid)
                logger.error("proxy %s; it is left behind", left)
            self._tail()
            self._process = None

    @property
    def state(self) -> child.State:
        """Where it is."""
        return self.child.state

    @property
    def last_error(self) -> str:
        """What is wrong with it, in one line, or nothing."""
        stuck = self.stuck
        return stuck[0] if stuck else self._held or self.child.last_error or self._closed_error

    @property
    def _closed_error(self) -> str:
        """On which ports it does not listen although it says that it is ready, or did before."""
        is_new = self._clock.monotonic() < self._unready_since + LISTEN_TIME_S
        if self._spec is None or not self.closed_ports or (is_new and not self._watch.listened):
            return ""
        return f"{self._spec.name} does not listen on {fields.name_ports(self.closed_ports)}"

    @property
    def stuck(self) -> tuple[str, ...]:
        """Those of its processes that have not ended although they were killed."""
        pids = self._processes.find_killed()
        at = self._killed_at
        is_late = at is not None and self._clock.monotonic() >= at + processes.STUCK_S
        if self._process is not None and is_late:
            pids = (self._process.pid, *pids)
        return tuple(f"proxy {self._processes.describe_stuck(pid)}" for pid in pids)

    def handle(self, event: events.Event) -> None:
        """Take what becomes of the process, and do what is due."""
        match event:
            case events.ProxyEnded():
                self.ended()
            case events.ProxyAnswered():
                self.answered()
            case events.TimePassed() | events.Asked():
                self.tick()  # what somebody who asks is told is no older than it must be

    def deadline(self) -> float | None:
        """When `tick` has something to do, or `stuck` something to say (monotonic seconds)."""
        stuck_at = self._killed_at and self._killed_at + processes.STUCK_S
        if stuck_at is not None and stuck_at <= self._clock.monotonic():
            stuck_at = None
        moments = (self.child.timer_at, self._round_at, stuck_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def tick(self) -> None:
        """Ask whether it lives and is ready, and report the timers that are over."""
        now = self._clock.monotonic()
        if self._is_asked and self._is_silent(now):
            # Whoever asks for the status meanwhile is not to hear that it serves; whether it hangs
            # is for the end of the round to say.
            self._report(child.Event.UNREADY)
        if self._round_at is not None and now >= self._round_at:
            if self._is_asked:
                self._read_round(now)
            elif self._spec is not None and self._process is not None:
                self._begin_round(now)
        if self.child.timer_at is not None and now >= self.child.timer_at:
            self._report(child.Event.TIMER)

    def answered(self) -> None:
        """All doors have answered."""
        if self._is_asked and self._doors.is_answered:
            self._read_round(self._clock.monotonic())

    def _is_silent(self, now: float) -> bool:
        """Whether the round under way shows a silence already."""
        is_enough = now >= self._asked_at + liveness.SUSPICIOUS_S
        return is_enough and liveness.observe(self._watch, self._doors.look()).is_suspicious

    def _begin_round(self, now: float) -> None:
        assert self._spec is not None
        self._is_asked = True
        self._asked_at = now
        is_steady = self.state is child.State.READY and not self._watch.is_suspicious
        self._round_at = now + (liveness.STEADY_S if is_steady else liveness.SUSPICIOUS_S)
        self._doors.ask(self._spec.doors, None if is_steady else events.ProxyAnswered)
        if self._doors.is_answered:
            self._read_round(now)

    def _read_round(self, now: float) -> None:
        """Take the answers, say what they mean, and set when to ask again."""
        assert self._spec is not None and self._round_at is not None
        is_late = now > self._round_at + liveness.LATE_S
        answers = self._doors.read()
        self._is_asked = False
        if is_late:
            self._watch = liveness.forget_silences(self._watch)
        else:
            self._watch = liveness.observe(self._watch, answers)
            is_ready = answers[self._spec.doors[0]] is liveness.Answer.READY
            is_ready = self._look_at_ports(is_ready=is_ready) and is_ready
            self._report(child.Event.READY if is_ready else child.Event.UNREADY)
            self._look_for_control_plane(now)
            self._held = ""
            if self._watch.is_suspicious:
                self._help_on()
        if self._watch.closed:
            self._round_at = now + liveness.SUSPICIOUS_S  # its doors may answer at once
        elif self.state is child.State.READY or self._watch.is_suspicious:
            self._round_at = now
        elif self._round_at is not None:
            self._round_at = now + liveness.poll_pause_s(now - self._unready_since)
        if self._watch.hung:
            error = "; ".join(self._hang(name) for name in self._watch.hung)
            self._watch = liveness.forget_silences(self._watch)
            logger.error("proxy hangs; it is replaced", extra=fields.of(DETAIL=error))
            self._report(child.Event.HUNG, error=error)
        elif self._watch.lost:
            where = fields.name_ports(self._watch.lost)
            text = f"listens no more on {where}: its listeners were closed"
            error = str(ChildFailed(self._spec.name, text))
            logger.error(
                "proxy is of no use any more; it is replaced", extra=fields.of(DETAIL=error)
            )
            self._watch = liveness.forget_silences(self._watch)
            self._report(child.Event.HUNG, error=error)

    def _look_at_ports(self, *, is_ready: bool) -> bool:
        """Whether it listens wherever it has to, as far as the kernel tells.

        Asked only where it matters: of one that says it is ready, or has listened before.
        """
        assert self._spec is not None
        self.closed_ports = ()
        if not (is_ready or self._watch.listened):
            return False
        found = {port: self._held_ports.find_listening(port) for port in self._spec.listens}
        self._watch = liveness.look(self._watch, found)
        self.closed_ports = tuple(port for port, is_open in found.items() if is_open is False)
        return not self.closed_ports

    def _look_for_control_plane(self, now: float) -> None:
        assert self._spec is not None
        door = self._spec.control_plane
        if door is not None and (text := self._doors.text(door)):
            wall = self._clock.now() - (now - self._asked_at)
            self.control_plane = controlplane.observe(
                self.control_plane, controlplane.parse_answer(text), self._asked_at, wall
            )

    def _hang(self, process: str) -> str:
        assert self._spec is not None
        ports = [door.port for door in self._spec.doors if door.process == process]
        return str(ChildFailed(process, f"hangs: {fields.name_ports(ports)} gave no answer"))

    def _help_on(self) -> None:
        """A process that somebody keeps from running does not hang."""
        assert self._process is not None
        for name, _ in self._watch.silences:
            # Its Envoy may be called anything, and is the only one that pilot-agent starts.
            own = self._process.pid
            pids = (own,) if name == self._name else self._processes.find_children(own)
            pid, hold = self._processes.find_held(pids)
            if hold is procstate.Hold.NONE:
                continue
            if hold is not procstate.Hold.STOPPED or not self._was_continued:
                self._watch = liveness.forget_silences(self._watch)
            self._held = str(ChildFailed(name, f"is {hold.value} (pid {pid})"))
            if hold is procstate.Hold.STOPPED and not self._was_continued:
                self._was_continued = True
                logger.warning("proxy was stopped; continuing it", extra=fields.of(PROXY_PID=pid))
                self._process.signal_group(signal.SIGCONT)

    def ended(self) -> None:
        """The process has ended."""
        if self._process is None or not self._process.has_ended():
            return
        # pilot-agent's Envoy outlives it, holds its ports, and the next one could never start.
        self._process.end_group()
        status = self._process.poll()
        self._processes.kill_behind(self._process.pid)
        lines = self._tail()
        self._process = None
        self._killed_at = None
        name = self._spec.name if self._spec is not None else "proxy"
        error = processes.ended_badly(name, status, lines)
        # A shortage of the machine has a remedy, and says nothing about the configuration.
        has_exited = status is not None and status >= 0 and not error.hint
        self._report(child.Event.EXITED, error=error.text, has_exited=has_exited)

    def _report(self, event: child.Event, *, error: str = "", has_exited: bool = False) -> None:
        now = self._clock.monotonic()
        self.child, action = child.take(self.child, event, now, error=error, has_exited=has_exited)
        if action in _WITHOUT_ROUNDS:
            self._end_rounds()
        match action:
            case child.Action.SPAWN:
                self._spawn(now)
            case child.Action.SETTLE:
                logger.info("proxy ready", extra=fields.of(PROXY=self._name))
            case child.Action.WATCH:
                self._unready_since = now
                logger.warning("proxy not ready any more", extra=fields.of(PROXY=self._name))
            case child.Action.TERMINATE if self._process is not None:
                self._process.signal(signal.SIGTERM)
            case child.Action.KILL if self._process is not None:
                self._process.end_group()
                self._killed_at = now
            case child.Action.DELAY:
                self._log_failure(now)

    def _end_rounds(self) -> None:
        self._doors.close()
        self._is_asked = False
        self._round_at = None
        self.closed_ports = ()
        self.control_plane = controlplane.ControlPlane()

    @property
    def _name(self) -> str:
        return self._spec.name if self._spec is not None else ""

    def _spawn(self, now: float) -> None:
        assert self._spec is not None and self._prepare is not None
        if self._processes.find_killed():
            # It may hold the ports, and two would share what arrives there (SO_REUSEPORT).
            error = f"cannot be started beside an earlier one: {self.stuck[0]}"
            self._report(child.Event.EXITED, error=str(ChildFailed(self._spec.name, error)))
            return
        try:
            self._prepare()
            program = self._processes.start_program(self._spec)
        except OSError as error:
            last_error = ChildFailed(self._spec.name, f"cannot be started: {describe(error)}")
            self._report(child.Event.EXITED, error=str(last_error))
            return
        self._process, self._tail = program.child, program.tail
        self._write_down(self._process.pid)
        self.starts += 1
        self._watch = liveness.Watch()
        self._was_continued = False
        self._unready_since = now
        self._round_at = now if self._spec.doors else None
        ended = events.ProxyEnded()
        descriptor = self._process.descriptor

        def read() -> events.Event:
            self._inbox.forget(descriptor)
            return ended

        self._inbox.watch(descriptor, read)
        extra = fields.of(PROXY=self._spec.name, PROXY_PID=self._process.pid)
        logger.info("proxy started", extra=extra)

    def _write_down(self, pid: int) -> None:
        """So that the next agent can end what of the proxy outlives a kill of this one."""
        try:
            self._processes.record(pid)
        except OSError as error:
            logger.warning("the proxy was not written down", extra=fields.of(DETAIL=str(error)))

    def end_leftover(self) -> None:
        """End what an earlier agent left of its proxy: it keeps the ports."""
        if count := self._processes.end_leftover():
            logger.warning(
                "ended what an earlier agent had left running", extra=fields.of(COUNT=count)
            )

    def _log_failure(self, now: float) -> None:
        failures, timer_at = self.child.failures, self.child.timer_at
        assert timer_at is not None
        if failures & (failures - 1) == 0:
            logger.error(
                "proxy ended; it is started again",
                extra=fields.of(
                    CODE="child-failed",
                    DETAIL=self.child.last_error,
                    FAILURES=failures,
                    SECONDS=round(timer_at - now, 1),
                ),
            )
