"""The main event loop: takes events, updates the parts, performs what `lifecycle` names.

Every part runs under one catch-all, so that a bug in one cannot stop the agent. Order and
conditions belong to `lifecycle.decide`, what a part does belongs to the part: of events, deadlines
and steps the loop knows them through `part.Part` alone.
A turn waits for nobody but the kernel itself: whatever needs another process, or a file system
that may not answer, is begun in one turn and ends as the event of a later one.
"""

import functools
import logging
import signal
from collections.abc import Callable

from ..errors import Problem
from ..host import garbage, layers
from ..lifecycle import decide
from ..lifecycle import life as lives
from ..lifecycle.phase import Phase
from ..lifecycle.redirection import Rules
from ..supervise import liveness
from . import (
    components,
    configuration,
    events,
    fields,
    part,
    performer,
    places,
    publishing,
    reading,
    recent,
    registration,
    reload,
    requests,
)

logger = logging.getLogger(__name__)

# READY=1 is sent at the latest so long after start (design 3.5).
READY_TIME_S = 15.0
# After something unexpected the loop waits so long for an event: a bug must not burn the CPU.
STUMBLE_PAUSE_S = 1.0
# The loop wakes at least this often: clocks may jump, and a host may have slept.
HEARTBEAT_S = 60.0
# Files that no event tells of, because the kernel gives no more watches, are looked at so often.
UNWATCHED_S = 5.0
# What the service manager did not take is sent again this often.
NOTIFY_PAUSE_S = 1.0
# So long what is under way in the proxy may end once nothing new comes; it is looked so often.
QUIET_S = 1.0
QUIET_PAUSE_S = 0.05
# More steps than this in one turn are a bug; the next turn goes on.
MAX_STEPS = 60


class Agent:
    """One host's agent, from start to SIGTERM."""

    def __init__(
        self,
        parts: components.Components,
        watchdog_s: float | None,
        public: publishing.Publishing,
    ) -> None:
        """Nothing is changed yet."""
        self._parts = parts
        self._public = public
        self._performer = performer.Performer(parts)
        self._requests = requests.Requests(parts, functools.partial(self.reload, is_asked=True))
        self._watchdog_s = watchdog_s
        self._started_at = parts.clock.monotonic()
        self._alive_at = 0.0
        self._looked_at = self._files_at = self._started_at
        self._is_ready_sent = False
        self._is_watching = False
        self._has_stumbled = False
        self._status = ""
        self._unwatched = ""
        self._followed: object = None  # for what the files are watched
        self.is_stopping = False
        self.recent = parts.recent  # gets what is logged

    def run(self) -> None:
        """Live until a signal says stop."""
        self.begin()
        while not self.is_stopping:
            self.turn()
        self.leave()

    def begin(self) -> None:
        """Do what can be done before anything happens."""
        if self._parts.life.disk.is_attempting and not self._parts.life.is_joined:
            logger.warning("the last attempt to join was cut short; taking its rules out")
        self._guarded(functools.partial(self._parts.configuration.read, self._was_read))
        self._guarded(self.advance)
        self._measure("start", self._started_at)

    def turn(self) -> None:
        """Wait until something happens or is due, and do what follows from it."""
        self._guarded(self._turn)

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception:
            self._has_stumbled = True
            logger.exception("not done", extra=fields.of(CODE="bug"))

    def _turn(self) -> None:
        # What came several times until now is done once: a storm is over when it is over.
        # Events of two kinds may have equal contents.
        waited = self._parts.inbox.wait(self._patience_s())
        happened = {(type(event), event): event for event in waited}.values()
        begun_at = self._parts.clock.monotonic()
        for event in happened:
            self._take(event)
        self._take(events.TimePassed())
        self.is_stopping = self._parts.leaving.is_over
        self._guarded(self._tick)
        self.advance()
        self._measure(next((type(event).__name__ for event in happened), "time"), begun_at)

    def _measure(self, cause: str, begun_at: float) -> None:
        """Nothing else happens during a turn: the longest of each kind is kept for `status`."""
        spent = self._parts.clock.monotonic() - begun_at
        self._parts.turns[cause] = max(spent, self._parts.turns.get(cause, 0.0))

    def _take(self, event: events.Event) -> None:
        """Let every part handle it, then the loop itself, and then what follows from it."""
        following: list[events.Event] = []
        for each in self._parts.all:
            self._guarded(functools.partial(self._hand, each, event, following))
        self._guarded(functools.partial(self._handle, event))
        for follow in following:
            self._take(follow)

    def _hand(self, to: part.Part, event: events.Event, following: list[events.Event]) -> None:
        follow = to.handle(event)
        if follow is not None:
            following.append(follow)

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.FilesChanged():
                self.reload()
            case events.Signalled(signal.SIGHUP):
                self.reload(is_asked=True)
            case events.Asked(caller):
                self._requests.take(caller)
            case events.Heartbeat():
                self._look_at_disk()

    def _look_at_disk(self) -> None:
        """See whether somebody has removed what says that this host has joined."""
        parts, disk = self._parts, self._parts.life.disk
        before = disk.is_mark_gone, not disk.has_guard, disk.is_accepted_gone
        parts.life = lives.looked_at_disk(
            parts.life,
            has_mark=parts.state.has(places.MARKER),
            has_guard=parts.state.has(places.GUARD),
            has_accepted=parts.state.has(reload.ACCEPTED),
        )
        disk = parts.life.disk
        gone = disk.is_mark_gone, not disk.has_guard, disk.is_accepted_gone
        if any(is_gone and not was_gone for is_gone, was_gone in zip(gone, before, strict=True)):
            logger.warning(
                "somebody has removed files from the state directory; they are written again"
                " (to leave the mesh: systemctl stop istio-hostagent)",
                extra=fields.of(CODE="marks-removed"),
            )

    def _patience_s(self) -> float:
        """How long nothing has to be done unless something happens, in seconds."""
        parts, now = self._parts, self._parts.clock.monotonic()
        pending = [
            now + HEARTBEAT_S,
            *(each.deadline() for each in parts.all),
            lives.deadline(parts.life, parts.situation(), parts.now()),
        ]
        if self._watchdog_s is not None:
            pending.append(self._alive_at + self._watchdog_s)
        if parts.notifier.is_behind:
            pending.append(now + NOTIFY_PAUSE_S)
        if not self._is_ready_sent:
            pending.append(self._started_at + READY_TIME_S)
        if parts.watcher.last_error:
            pending.append(self._files_at + UNWATCHED_S)
        least = STUMBLE_PAUSE_S if self._has_stumbled else 0.0
        self._has_stumbled = False
        return max(min(at for at in pending if at is not None) - now, least)

    def _tick(self) -> None:
        parts, now = self._parts, self._parts.clock.monotonic()
        parts.notifier.flush()
        soon = now + liveness.STEADY_S  # what is due before the next wake-up is done at this one
        if self._watchdog_s is not None and soon >= self._alive_at + self._watchdog_s / 3:
            self._alive_at = now
            parts.notifier.send(WATCHDOG="1")
        if self._is_watching and soon >= self._looked_at + HEARTBEAT_S:
            # Not every change is an event: inotify has limits, directories are moved away, and
            # a thread more for sshd's own directory would cost memory for ever.
            self._looked_at = now
            self._take(events.Heartbeat())
            if parts.watcher.is_stale() or parts.configuration.loaded.is_unread:
                self.reload()
        if parts.watcher.last_error and now >= self._files_at + UNWATCHED_S:
            self._files_at = now
            self._followed = None  # somebody may have raised the limit
            if parts.watcher.is_stale():
                self.reload()

    # -- going forward --------------------------------------------------------------------------

    def advance(self) -> None:
        """Perform what `lifecycle` names until it names nothing."""
        parts = self._parts
        for _ in range(MAX_STEPS):
            before = parts.life
            after, step = decide.advance(before, parts.situation(), parts.now())
            if after.phase is Phase.TRYING and before.phase is not Phase.TRYING:
                self._tell()  # what is whole now is left for what has still to work
            self._log_change(before, after)
            parts.life = after
            if step is None:
                break
            error = self._performer.perform(step)
            parts.life = decide.performed(
                parts.life, step, parts.situation(), parts.now(), error=error
            )
        if parts.life.rollout.candidate is None:
            parts.proxy.drop_candidate()
        if parts.proxy.is_serving:
            parts.machine.register()
        self._tell()
        if self._is_watching and self._follow():
            parts.inbox.post(events.FilesChanged())
        parts.lookout.look_at_new()

    def _log_change(self, before: lives.Life, after: lives.Life) -> None:
        if before.phase is Phase.JOINING and after.phase is Phase.OUT and after.attempt.last_error:
            is_none = self._parts.redirection.value.rules is Rules.NEEDLESS
            logger.error(
                "could not join" if is_none else "could not join; rules removed",
                extra=fields.of(
                    CODE="join-failed",
                    DETAIL=after.attempt.last_error,
                    ATTEMPT=after.attempt.failures,
                ),
            )
        if before.phase is Phase.JOINING and after.phase is Phase.JOINED:
            held = self._parts.certificate.value.held
            extra = fields.of(IDENTITY=held.identity if held is not None else "")
            logger.info("joined the mesh", extra=extra)
        if after.refusal is not None and after.refusal is not before.refusal:
            logger.error(
                "new configuration rejected; the previous one stays active",
                extra=fields.of(CODE="rejected", DETAIL=after.refusal.reason),
            )

    # -- configuration --------------------------------------------------------------------------

    def reload(self, then: Callable[[], None] | None = None, *, is_asked: bool = False) -> None:
        """Begin to read the files again, and look at what else may have changed.

        `is_asked`: an operator wants it: what did not hold before is tried once more. `then` is
        called when what was read has been taken, or nothing could be read.
        """
        parts = self._parts
        parts.watcher.mark()
        self._followed = None
        self._take(events.Reloading(is_asked=is_asked))
        taken: reading.Taken = self._was_read
        if is_asked or then is not None:
            taken = functools.partial(self._was_read, then=then, is_asked=is_asked)
        parts.configuration.read(taken)

    def _was_read(
        self,
        found: layers.Found | Problem,
        *,
        then: Callable[[], None] | None = None,
        is_asked: bool = False,
    ) -> None:
        parts = self._parts
        accepted = parts.life.disk.accepted
        again: reading.Taken = self._was_read
        if is_asked or then is not None:
            again = functools.partial(self._was_read, then=then, is_asked=is_asked)
        if parts.configuration.put_off(found, accepted, again):
            parts.life = lives.unreadable(parts.life)
            return
        offer = parts.configuration.take(found, accepted)
        if offer is None:
            parts.life = lives.unreadable(parts.life)
        else:
            parts.life = lives.offered(parts.life, offer, is_asked=is_asked)
        if then is not None:
            then()

    def _follow(self) -> bool:
        """Watch every file whose change matters; True if something may have been missed."""
        parts = self._parts
        in_force = parts.life.in_force
        in_use = configuration.config_of(in_force) if in_force is not None else None
        identity = in_use.identity if in_use is not None else None
        asks_for_names = in_use is not None and in_use.redirection.dns.is_captured
        # Another program may take the bootstrap that the one which is there refuses.
        wants_binary = parts.proxy.binary is None or not parts.proxy.validation.is_good
        # ... and another file at its path takes the place of an Envoy that runs.
        own_binary = parts.proxy.binary if parts.proxy.is_envoy else None
        follows = identity, wants_binary, own_binary, asks_for_names
        if self._followed == follows:
            return False
        self._followed = follows
        paths = list(parts.configuration.sources.paths)
        if wants_binary:
            paths += parts.proxy.searched
        elif own_binary is not None:
            paths.append(own_binary)
        if identity is not None:
            paths += [identity.token_file, identity.root_file]
            paths += parts.certificate.watched
        if asks_for_names:
            paths += places.FILES_OF_NAMES
        is_missed = parts.watcher.follow(paths)
        garbage.give_back()
        if parts.watcher.last_error != self._unwatched:
            self._unwatched = parts.watcher.last_error
            if self._unwatched:
                logger.warning(
                    "changed files are noticed late: %s",
                    self._unwatched,
                    extra=fields.of(CODE="not-watched", SECONDS=UNWATCHED_S),
                )
            else:
                logger.info("changed files are noticed at once again")
        return is_missed

    # -- the outside ----------------------------------------------------------------------------

    def _tell(self) -> None:
        """READY, STATUS and the callers that wait."""
        report = self._parts.report()
        if report.summary != self._status:
            self._status = report.summary
            self._parts.notifier.send(STATUS=report.summary)
            causes = self._parts.obstacles()
            code = causes[0].code if causes else ""
            recent.summary.info("%s", report.summary, extra=fields.of(CODE=code))
        if report.is_in_mesh != self._parts.was_in_mesh:
            self._parts.was_in_mesh = report.is_in_mesh
            self._parts.since = self._parts.clock.now()
        age = self._parts.clock.monotonic() - self._started_at
        if not self._is_ready_sent and (report.is_in_control or age >= READY_TIME_S):
            self._is_ready_sent = True
            self._parts.notifier.send(READY="1")
        if not self._is_watching and self._is_ready_sent:
            # The watcher starts late to save CPU while joining; files are re-read once it runs.
            self._is_watching = True
            self._parts.inbox.post(events.FilesChanged())
        self._public.tell(report)
        self._requests.tell(report)

    def leave(self) -> None:
        """SIGTERM: whatever fails on the way out, the rest is done."""
        parts = self._parts
        parts.notifier.send(STOPPING="1", STATUS="stopping")
        self._guarded(parts.watcher.stop)
        self._guarded(self._deregister)
        self._guarded(parts.work.cancel)
        self._guarded(parts.packets.close)
        self._guarded(self._take_out)
        self._guarded(self._let_end)
        self._guarded(parts.proxy.child.end)
        self._guarded(self._requests.close)
        self._guarded(self._public.end)
        logger.info("stopped")

    def _deregister(self) -> None:
        """Whoever asks the registry is not sent here any more, while the proxy still serves.

        Not at a restart: a proxy in a unit goes on, and the next agent has what was written down.
        """
        parts = self._parts
        if parts.leaving.is_restart and parts.proxy.child.unit:
            return
        parts.registration.leave()
        until_at = parts.clock.monotonic() + registration.LEAVE_TIME_S
        while parts.registration.is_leaving:
            if (left_s := until_at - parts.clock.monotonic()) <= 0:
                logger.warning(
                    "the registry of services has not forgotten this host in time",
                    extra=fields.of(CODE="not-deregistered"),
                )
                return
            self._wait(left_s)

    def _take_out(self) -> None:
        parts = self._parts
        parts.life = decide.leave(parts.life, parts.now(), is_for_good=parts.leaving.is_for_good)
        self._leave_on()
        while parts.redirection.value.is_changing:
            self._await_rules()
            self._leave_on()
        if parts.life.may_have_rules and not parts.rules.is_owner:
            logger.error("the rules could not be taken out", extra=fields.of(CODE="not-left"))

    def _let_end(self) -> None:
        """With the rules out nothing new comes to the proxy: what is under way ends."""
        parts, now = self._parts, self._parts.clock.monotonic
        until_at = now() + QUIET_S if parts.leaving.is_for_good else 0.0
        while now() < until_at and parts.holding.is_in_use():
            self._wait(QUIET_PAUSE_S)

    def _leave_on(self) -> None:
        parts = self._parts
        for _ in range(MAX_STEPS):
            parts.life, step = decide.advance(parts.life, parts.situation(), parts.now())
            if step is None:
                break
            error = self._performer.perform(step)
            parts.life = decide.performed(
                parts.life, step, parts.situation(), parts.now(), error=error
            )

    def _await_rules(self) -> None:
        """Wait until a change of the rules has ended or is given up: then nobody asks us more."""
        parts, now = self._parts, self._parts.now()
        due_at = lives.deadline(parts.life, parts.situation(), now)
        self._wait(max(due_at - now.monotonic, 0.0) if due_at else 0.0)

    def _wait(self, timeout_s: float) -> None:
        parts = self._parts
        for event in parts.inbox.wait(timeout_s):
            if isinstance(event, events.Asked):
                event.caller.hang_up()
            for each in parts.all:
                self._guarded(functools.partial(each.handle, event))
