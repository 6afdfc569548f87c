"""Performs the steps of the proxy's processes through the process port; `supervise.child` decides.

There is one, or two of which the newer one takes over from the other: until it does, `rounds` of
questions are about that other one, since it is the one that answers.
Where they have units of their own they go on without the agent, and the next one takes them on.
Elsewhere they die with the agent; captured traffic is then refused, never let around.
"""

import logging
import signal
from collections.abc import Callable

from ..errors import ChildFailed, describe
from ..host import ports, processes, procstate
from ..supervise import child, liveness, refusals, specs
from . import events, fields, part, rounds, running, succession

logger = logging.getLogger(__name__)

# After these nothing runs that could be asked, or only what was told to end.
_WITHOUT_ROUNDS = (
    child.Action.TERMINATE,
    child.Action.KILL,
    child.Action.DELAY,
    child.Action.FORGET,
)
DRAIN_S = 0.02
# One that may have handed over to another that is gone answers by then, or never.
DOUBT_S = 3.0
# When it is not known yet whether one has taken over, it is asked again so much later.
WATCH_PAUSE_S = 1.0


class Supervisor(part.Part):
    """Keeps one child running as long as it is wanted."""

    def __init__(
        self,
        inbox: ports.Inbox[events.Event],
        clock: ports.Clock,
        processes: ports.Processes,
        doors: ports.Doors,
        held: ports.HeldPorts,
        successors: succession.Succession,
    ) -> None:
        """Start with nothing wanted."""
        self.rounds = rounds.Rounds(clock, doors, held)
        self._succession = successors
        self._inbox = inbox
        self._clock = clock
        self._processes = processes
        self._spec: specs.ProcessSpec | None = None
        self._prepare: Callable[[], None] | None = None
        self._current: running.Running | None = None  # that was started, or taken on, last
        self._other: running.Running | None = None  # from which it takes over
        self._is_taken_on = False  # both are: nobody has asked this agent to start them
        self._held_end: tuple[str, bool] | None = None  # of the child, until the other has ended
        self._is_unmarking = False  # before that no other one is started beside what serves
        self._watch_at: float | None = None  # when to ask whether it has taken over
        self._doubt_until: float | None = None  # it may wait for ever, or have handed over
        self.refused: tuple[refusals.Refusal, ...] = ()  # of what its control plane sent
        self._was_continued = False
        self._killed_at: float | None = None
        self._held = ""  # who keeps it from running
        self.child = child.Child()
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The process id of the newest one while it runs, once it is known."""
        return self._current.pid if self._current is not None else None

    @property
    def unit(self) -> str:
        """The unit in which it runs; empty: it is a child of this process."""
        return self._current.unit if self._current is not None else ""

    @property
    def launched(self) -> specs.ProcessSpec | None:
        """What the newest one was started with, while it runs."""
        return self._current.spec if self._current is not None else None

    @property
    def other(self) -> running.Running | None:
        """The one beside it."""
        return self._other

    @property
    def serving(self) -> running.Running | None:
        """Of the two, the one that serves, or may."""
        return self._other if self.child.is_handing_over else self._current

    def take_on(self) -> tuple[specs.ProcessSpec, ...]:
        """Look after what an earlier agent has started; with what it was, the newest first.

        Whatever else an earlier one has left of its proxy is ended: it keeps the ports.
        """
        found = self._find()
        if not found:
            self._end_leftover()
            return ()
        now = self._clock.monotonic()
        if len(found) > 1 and found[1][1].child.pid and not found[0][1].child.pid:
            # The newer one is gone. Whether the other one serves is asked.
            found = (found[1], found[0])
            self._doubt_until = now + DOUBT_S
        (self._spec, program), *others = found
        self._is_taken_on = True
        has_other = any(each.child.pid for _, each in others)
        self.child = child.taken_on(now, has_other=has_other)
        for spec, each in others:
            self._other = self._follow(spec, each)
            if not has_other:
                self.child = self.child._replace(other=child.Other.ENDING)
        self._begin(self._spec, program, now)
        if has_other:
            self._watch_at = now
        extra = fields.of(PROXY=self._spec.name, PROXY_PID=self.pid, PROXY_UNIT=program.unit)
        if program.child.pid:
            logger.info("an earlier agent has started the proxy, which goes on", extra=extra)
        else:
            logger.info("what an earlier agent has left of its proxy is ended", extra=extra)
            self._report(child.Event.STOP)
        return tuple(spec for spec, _ in found)

    def _find(self) -> tuple[tuple[specs.ProcessSpec, ports.Program], ...]:
        try:
            return self._processes.find_programs()
        except OSError as error:
            logger.warning("cannot look for a proxy", extra=fields.of(DETAIL=describe(error)))
            return ()

    def is_like(self, spec: specs.ProcessSpec) -> bool:
        """Whether what was taken on runs and is what this asks for, by whatever file."""
        is_there = self.state in (child.State.STARTING, child.State.READY)
        launch = self.launched
        return is_there and launch is not None and specs.run_alike(launch, spec)

    def keep(self, spec: specs.ProcessSpec, prepare: Callable[[], None]) -> None:
        """What was taken on is what this asks for, and is looked after as this says."""
        self._spec = spec
        self._prepare = prepare
        if self.child.is_handing_over:
            return
        self.rounds.begin(spec, self._clock.monotonic())

    def start(self, spec: specs.ProcessSpec, prepare: Callable[[], None]) -> None:
        """Want this process; one with another specification is replaced.

        `prepare` puts its files in place before each start; it may raise OSError.
        """
        if spec == self._spec and self.state is not child.State.IDLE:
            return
        self._want(child.Event.START, spec, prepare)

    def succeed(self, spec: specs.ProcessSpec, prepare: Callable[[], None]) -> None:
        """Want this process; it takes over from the one that is ready."""
        self._want(child.Event.SUCCEED, spec, prepare)

    def go_back(self, spec: specs.ProcessSpec, prepare: Callable[[], None]) -> None:
        """Want the one that serves, and no other one to take over from it."""
        self._want(child.Event.RETURN, spec, prepare)
        if self._is_unmarking and self.child.other is child.Other.NONE:
            # The next one waits for that.
            self.child = self.child._replace(other=child.Other.ENDING)

    def _want(
        self, event: child.Event, spec: specs.ProcessSpec, prepare: Callable[[], None]
    ) -> None:
        self._spec = spec
        self._prepare = prepare
        self._report(event)

    def may_succeed(self, spec: specs.ProcessSpec) -> bool:
        """Whether another one as this says could take over now, as far as its program does."""
        is_alone = self.child.other is child.Other.NONE and self.state is child.State.READY
        launch = self.launched
        return is_alone and launch is not None and specs.may_succeed(launch, spec)

    def replace(self) -> None:
        """Start the process anew, with the same specification."""
        if self._prepare is not None and self._spec is not None:
            if self.may_succeed(self._spec):
                self._report(child.Event.SUCCEED)
            elif self.state is child.State.READY and not self.child.is_blocked:
                self._report(child.Event.START)

    def stop(self) -> None:
        """Want no process; its end arrives later."""
        self._spec = None
        self._report(child.Event.STOP)

    def end(self) -> None:
        """Stop it and wait for its end, unless it has a unit: the way out of the agent."""
        if any(each.unit for each in self._all):
            for each in self._all:
                each.let_go()
            self._current = self._other = None
            return
        self.stop()
        left = self._all
        for each in left:
            each.ignore()
        deadline = self._clock.monotonic() + child.STOP_TIME_S
        while (running_on := [each for each in left if not each.process.has_ended()]) and (
            self._clock.monotonic() < deadline
        ):
            # A proxy whose log nobody reads any more would block in a write, and not end.
            running_on[0].process.await_end(DRAIN_S)
            for each in left:
                each.tail()
        for each in left:
            # Before its status is taken: then the number of its group is nobody else's.
            each.process.end_group()
            if each.process.end(0.0) is None:
                words = self._processes.describe_stuck(each.process.pid)
                logger.error("proxy %s; it is left behind", words, extra=fields.of(CODE="stuck"))
            each.tail()
            if each.spec.base_id:
                self._processes.remove_memory(each.spec)
        self._current = self._other = None

    @property
    def _all(self) -> tuple[running.Running, ...]:
        return tuple(each for each in (self._current, self._other) if each is not None)

    @property
    def state(self) -> child.State:
        """Where it is."""
        return self.child.state

    @property
    def last_error(self) -> str:
        """What is wrong with it, in one line, or nothing."""
        stuck = self.stuck
        return stuck[0] if stuck else self._held or self.child.last_error or self._closed

    @property
    def _closed(self) -> str:
        return self.rounds.describe_closed(self._subject)

    @property
    def stuck(self) -> tuple[str, ...]:
        """Those of its processes that have not ended although they were killed."""
        pids = self._processes.find_killed()
        at = self._killed_at
        is_late = at is not None and self._clock.monotonic() >= at + processes.STUCK_S
        if is_late:
            pids = (*(each.process.pid for each in self._all), *pids)
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
        timer_at = None if self._is_held_up else self.child.timer_at
        moments = (timer_at, self.rounds.at, stuck_at, self._watch_at, self.child.other_at)
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def _is_held_up(self) -> bool:
        """Whether the next one, which is due, cannot be started yet."""
        is_early = self.child.is_blocked or self._is_unmarking
        return is_early and self.state is child.State.BACKOFF

    def tick(self) -> None:
        """Ask whether it lives and is ready, and report the timers that are over."""
        now = self._clock.monotonic()
        if self.rounds.is_silent(now):
            # Whoever asks for the status meanwhile is not to hear that it serves; whether it hangs
            # is for the end of the round to say.
            self._report(child.Event.UNREADY)
        if self.rounds.at is not None and now >= self.rounds.at:
            if self.rounds.is_under_way:
                self._read_round(now)
            elif self._subject is not None and self.serving is not None:
                self._begin_round(now)
        timer_at, other_at = self.child.timer_at, self.child.other_at
        if timer_at is not None and now >= timer_at and not self._is_held_up:
            self._report(child.Event.TIMER)
        if other_at is not None and now >= other_at:
            self.child = self.child._replace(other_at=None)
            if self._other is not None:
                self._other.process.end_group()
        if self._watch_at is not None and now >= self._watch_at:
            self._watch_successor()

    def answered(self) -> None:
        """All doors have answered."""
        if self.rounds.is_answered:
            self._read_round(self._clock.monotonic())

    @property
    def _subject(self) -> specs.ProcessSpec | None:
        """What a round of questions is about."""
        is_other = self.child.is_handing_over and self._other is not None
        return self._other.spec if is_other and self._other is not None else self._spec

    @property
    def _is_steady(self) -> bool:
        return self.state is child.State.READY or self.child.is_handing_over

    def _begin_round(self, now: float) -> None:
        subject = self._subject
        assert subject is not None
        self.rounds.ask(subject, now, is_steady=self._is_steady)
        if self.rounds.is_answered:
            self._read_round(now)

    def _read_round(self, now: float) -> None:
        """Take the answers, say what they mean, and set when to ask again."""
        subject = self._subject
        assert subject is not None
        answer = self.rounds.read(subject, now)
        if answer is not None:
            if self.child.is_handing_over:
                # Where only this one listens the next one will not: closed there is no failure.
                common = subject._replace(listens=self._common_ports(subject))
                self.rounds.look_at_ports(common, is_ready=answer is liveness.Answer.READY)
            else:
                self._take_answer(answer, now)
                self._look_at_control_plane(now)
            self._held = ""
            if self.rounds.watch.is_suspicious:
                self._help_on()
        self.rounds.schedule(now, is_steady=self._is_steady)
        if failure := self.rounds.find_failure(subject):
            extra = fields.of(CODE=ChildFailed.code, DETAIL=failure.error)
            logger.error("%s", failure.summary, extra=extra)
            self._give_up(failure.error)

    def _common_ports(self, subject: specs.ProcessSpec) -> tuple[int, ...]:
        """The ports on which both this one and the next one have to listen."""
        following = self._spec.listens if self._spec is not None else ()
        return tuple(port for port in subject.listens if port in following)

    def _take_answer(self, answer: liveness.Answer, now: float) -> None:
        is_ready = answer is liveness.Answer.READY
        assert self._spec is not None
        is_ready = self.rounds.look_at_ports(self._spec, is_ready=is_ready) and is_ready
        self._report(child.Event.READY if is_ready else child.Event.UNREADY)
        if answer is not liveness.Answer.REFUSED:
            self._doubt_until = None
        elif self._doubt_until is not None and now >= self._doubt_until:
            self._doubt_until = None
            error = str(ChildFailed(self._name, "serves no more: another one has taken over"))
            logger.error("proxy is replaced", extra=fields.of(CODE=ChildFailed.code, DETAIL=error))
            self._give_up(error)

    def _give_up(self, error: str) -> None:
        """It runs and is of no use: it is killed, and another one takes its place."""
        self.rounds.forget_silences()
        if self.state not in (child.State.STARTING, child.State.READY):
            # It was to be replaced anyway, but by one that takes over from it.
            if self._other is not None:
                self._other.process.end_group()
        elif not self._is_taken_on:
            self._report(child.Event.HUNG, error=error)
        else:
            self._report(child.Event.STOP)
            for each in self._all:
                each.process.end_group()

    def _look_at_control_plane(self, now: float) -> None:
        assert self._spec is not None
        self.rounds.look_at_control_plane(self._spec, now)
        if self._spec.remembered:
            self._look_for_refusals()

    def _look_for_refusals(self) -> None:
        """Name what it has refused, each resource once."""
        before, self.refused = (
            self.refused,
            refusals.parse_lines(self._current.marked() if self._current is not None else ()),
        )
        if added := tuple(each for each in self.refused if each not in before):
            text = refusals.describe(added)
            extra = fields.of(CODE="not-taken", COUNT=len(added))
            logger.error("proxy %s", text, extra=extra)

    def _help_on(self) -> None:
        """A process that somebody keeps from running does not hang."""
        assert self.serving is not None
        process = self.serving.process
        for name, _ in self.rounds.watch.silences:
            # Its Envoy may be called anything, and is the only one that pilot-agent starts.
            own = process.pid
            pids = (own,) if name == self._name else self._processes.find_children(own)
            pid, hold = self._processes.find_held(pids)
            if hold is procstate.Hold.NONE:
                continue
            if hold is not procstate.Hold.STOPPED or not self._was_continued:
                self.rounds.forget_silences()
            self._held = str(ChildFailed(name, f"is {hold.value} (pid {pid})"))
            if hold is procstate.Hold.STOPPED and not self._was_continued:
                self._was_continued = True
                logger.warning("proxy was stopped; continuing it", extra=fields.of(PROXY_PID=pid))
                process.signal_group(signal.SIGCONT)

    def ended(self) -> None:
        """One of the processes has ended."""
        for each in (self._other, self._current):
            if each is not None and each.process.has_ended():
                self._see_to(each)

    def _see_to(self, ended: running.Running) -> None:
        # pilot-agent's Envoy outlives it, holds its ports, and the next one could never start.
        ended.process.end_group()
        status = ended.process.poll()
        if not ended.unit:
            self._processes.kill_behind(ended.process.pid)
        error = processes.ended_badly(ended.spec.name, status, ended.tail())
        # A shortage of the machine has a remedy, and says nothing about the configuration.
        has_exited = status is not None and status >= 0 and not error.hint
        if len(self._all) == 1:
            self._killed_at = None
        if ended is self._other:
            self._other = None
            if self._current is not None and ended.spec.epoch > self._current.spec.epoch:
                self._unmark(ended.spec)  # it was not to take over any more
            else:
                self._other_ended(status, error.text)
        else:
            self._current = None
            self._child_ended(ended, error.text, has_exited=has_exited)

    def _other_ended(self, status: int | None, error: str) -> None:
        if not self.child.is_handing_over:
            self._report(child.Event.DRAINED)
        elif status == 0:
            # As it does when the newer one tells it to: that has taken over, and will say so.
            self._doubt_until = self._clock.monotonic() + DOUBT_S
            self._report(child.Event.DRAINED)
            self._serve(self._clock.monotonic())
        else:
            logger.error("proxy ended", extra=fields.of(CODE="child-failed", DETAIL=error))
            self.rounds.end()
            self._report(child.Event.LOST)
        self._release()

    def _release(self) -> None:
        """Report the end of one that was told to end, once another one may be started."""
        is_over = self._other is None or self.child.is_handing_over
        if self._held_end is not None and is_over and not self._is_unmarking:
            (error, has_exited), self._held_end = self._held_end, None
            self._report(child.Event.EXITED, error=error, has_exited=has_exited)

    def _child_ended(self, ended: running.Running, error: str, *, has_exited: bool) -> None:
        self._watch_at = None
        self._succession.forget()
        is_handing_over = self.child.is_handing_over
        is_known = not self._is_taken_on or (is_handing_over and self._prepare is not None)
        if not is_known and self.state in (child.State.STARTING, child.State.READY):
            # Whether another one may be started in its place is not known here.
            self._report(child.Event.STOP)
            logger.error("proxy ended", extra=fields.of(CODE="child-failed", DETAIL=error))
        elif is_handing_over:
            self._unmark(ended.spec)
        if self._is_asked_to_end:
            self._held_end = error, has_exited
            self._release()
        else:
            self._report(child.Event.EXITED, error=error, has_exited=has_exited)

    @property
    def _is_asked_to_end(self) -> bool:
        return self.state in (child.State.STOPPING, child.State.REPLACING)

    def _unmark(self, spec: specs.ProcessSpec) -> None:
        """One has ended before it has taken over, and may have left its mark."""
        self._is_unmarking = True

        def done() -> None:
            self._is_unmarking = False
            if self._other is None and self.child.other is child.Other.ENDING:
                self._report(child.Event.DRAINED)
            self._release()
            self.tick()

        self._succession.unmark(spec, done)

    def _report(self, event: child.Event, *, error: str = "", has_exited: bool = False) -> None:
        now = self._clock.monotonic()
        before = self.child
        drain_s = self._current.spec.shutdown_s if self._current is not None else 0
        self.child, action = child.take(
            before, event, now, error=error, has_exited=has_exited, drain_s=drain_s
        )
        self._move(before, action)
        if action in _WITHOUT_ROUNDS and not self.child.is_handing_over:
            self.rounds.end()
        match action:
            case child.Action.SPAWN:
                self._spawn(now)
            case child.Action.SETTLE:
                logger.info("proxy ready", extra=fields.of(PROXY=self._name))
            case child.Action.WATCH:
                self.rounds.unready(now)
                logger.warning("proxy not ready any more", extra=fields.of(PROXY=self._name))
            case child.Action.TERMINATE if self._current is not None:
                # On SIGTERM an Envoy ends the one that it was to take over from as well.
                is_alone = not self.child.is_handing_over
                self._current.process.signal(signal.SIGTERM if is_alone else signal.SIGKILL)
            case child.Action.KILL:
                self._kill(now)
            case child.Action.DELAY:
                self._log_failure(now)

    def _move(self, before: child.Child, action: child.Action) -> None:
        """Let the two processes be what the child says they are now."""
        is_other = child.Other
        if self.child.other is is_other.SERVING and before.other is is_other.NONE:
            self._current, self._other = None, self._current
        elif action is child.Action.PROMOTE:
            self._current, self._other = self._other, self._current
            self._watch_at = None
            self._succession.forget()
            logger.warning("the proxy before goes on", extra=fields.of(PROXY=self._name))
        elif before.state is child.State.BACKOFF and action is child.Action.TERMINATE:
            self._current, self._other = self._other, None
        if self._other is None:
            return
        if self.child.other is is_other.DRAINING and before.is_handing_over:
            logger.info(
                "the proxy has taken over; connections of the one before are drained",
                extra=fields.of(PROXY_PID=self._other.pid, SECONDS=self._other.spec.shutdown_s),
            )
            self._serve(self._clock.monotonic())
        elif self.child.other is is_other.ENDING and before.other is not is_other.ENDING:
            is_over = action in (child.Action.KILL, child.Action.PROMOTE)
            self._other.process.signal(signal.SIGKILL if is_over else signal.SIGTERM)

    def _kill(self, now: float) -> None:
        self._killed_at = now
        if self._current is not None:
            self._current.process.end_group()
        if self._other is not None and self.child.other is child.Other.ENDING:
            self._other.process.end_group()

    def _serve(self, now: float) -> None:
        """From now on rounds of questions are about the newest one."""
        self.rounds.begin(self._spec, now)
        self._watch_at = None
        self._was_continued = False

    def _watch_successor(self) -> None:
        """Have it asked whether it has taken over."""
        self._watch_at = None
        asked = self._current
        if asked is None or not self.child.is_handing_over:
            return

        def done(is_ready: bool) -> None:
            if asked is not self._current or not self.child.is_handing_over:
                return
            if is_ready and self.state is child.State.STARTING:
                self._report(child.Event.READY)
                return
            self._report(child.Event.OTHER_SERVES)
            self._watch_at = self._clock.monotonic() + WATCH_PAUSE_S

        is_unknown = self.child.other is child.Other.UNKNOWN
        within_s = succession.LOOK_S if is_unknown else succession.WATCH_S
        self._succession.watch(asked.spec, within_s, done)

    @property
    def _name(self) -> str:
        return self._spec.name if self._spec is not None else ""

    def _spawn(self, now: float) -> None:
        assert self._spec is not None and self._prepare is not None
        self._is_taken_on = False
        if self._processes.find_killed() or self.child.is_blocked:
            # It may hold the ports, and two would share what arrives there (SO_REUSEPORT).
            error = f"cannot be started beside an earlier one: {', '.join(self.stuck)}"
            self._report(child.Event.EXITED, error=str(ChildFailed(self._spec.name, error)))
            return
        launch = self._launched(self._spec)
        try:
            self._prepare()
            program = self._processes.start_program(launch)
        except OSError as error:
            last_error = ChildFailed(self._spec.name, f"cannot be started: {describe(error)}")
            self._report(child.Event.EXITED, error=str(last_error))
            return
        self._begin(launch, program, now)
        if self.child.is_handing_over:
            self._watch_successor()
        if not program.unit:
            self._write_down(program.child.pid, is_beside=self._other is not None)
        extra = fields.of(
            PROXY=launch.name, PROXY_PID=self.pid, PROXY_UNIT=program.unit, EPOCH=launch.epoch
        )
        logger.info("proxy started", extra=extra)

    def _launched(self, spec: specs.ProcessSpec) -> specs.ProcessSpec:
        if self._other is not None and self.child.is_handing_over:
            before = self._other.spec
            return specs.launched(spec, before.base_id, before.epoch + 1)
        return specs.launched(spec, self._processes.find_base_id(spec), 0)

    def _begin(self, spec: specs.ProcessSpec, program: ports.Program, now: float) -> None:
        """Look after the newest process."""
        self._current = self._follow(spec, program)
        if self.child.is_handing_over:
            return
        self.refused = ()
        self._serve(now)

    def _follow(self, spec: specs.ProcessSpec, program: ports.Program) -> running.Running:
        self.starts += 1
        return running.Running(self._inbox, spec, program, self.starts)

    def _write_down(self, pid: int, *, is_beside: bool) -> None:
        """So that the next agent can end what of the proxy outlives a kill of this one."""
        try:
            self._processes.record(pid, is_beside=is_beside)
        except OSError as error:
            logger.warning("the proxy was not written down", extra=fields.of(DETAIL=str(error)))

    def _end_leftover(self) -> None:
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
