"""The deciding thread: events in, one turn each; every part is brought forward, nothing blocks.

Rules for editing: order and conditions belong to `join`, what a part does belongs to the part,
rules and their marks on disk to `membership`. Here is only the turn itself. A broad handler stands
around everything that is done, so that a bug in one part does not take the redirection's keeper
away.
"""

import dataclasses
import functools
import gc
import logging
import os
import signal
from collections.abc import Callable

from ..config import model
from ..host import facts as host
from ..host import nftables
from ..supervise import liveness
from . import events, fields, join, membership, readiness, requests, state, survey, trial

logger = logging.getLogger(__name__)

# READY=1 is sent at the latest so long after start (design 3.5).
READY_TIME_S = 15.0
# After something unexpected the loop waits so long for an event: a bug must not burn the CPU.
STUMBLE_PAUSE_S = 1.0


class Agent:
    """One host's agent, from start to SIGTERM."""

    def __init__(self, parts: state.Parts, watchdog_s: float | None) -> None:
        """Look whether this host has joined; nothing is changed yet."""
        self._parts = parts
        self._membership = membership.Membership(parts)
        self._trial = trial.Trial(parts, self._membership, self._put_into_force)
        self._requests = requests.Requests(parts, functools.partial(self.reload, is_asked=True))
        self._watchdog_s = watchdog_s
        self._started_at = parts.clock.monotonic()
        self._alive_at = 0.0
        self._looked_at = self._started_at
        self._is_ready_sent = False
        self._is_watching = False
        self._has_stumbled = False
        self._status = ""
        self._unwatched = ""
        self._is_stopping = False

    def run(self) -> None:
        """Live until a signal says stop."""
        self._guarded(self._begin)
        while not self._is_stopping:
            self._guarded(self._turn)
        self._leave()

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception:
            self._has_stumbled = True
            logger.exception("not done", extra=fields.of(CODE="bug"))

    def _begin(self) -> None:
        if self._parts.is_attempting:
            logger.warning("the last attempt to join was cut short; taking its rules out")
            self._membership.take_out()
        self._configure()
        self.advance()

    def _turn(self) -> None:
        # What came several times until now is done once: a storm is over when it is over.
        for event in dict.fromkeys(self._parts.inbox.wait(self._patience_s())):
            self._guarded(functools.partial(self._take, event))
        self._tick()
        self.advance()

    def _take(self, event: events.Event) -> None:
        match event:
            case events.FilesChanged():
                self.reload()
            case events.Signalled(signal.SIGHUP):
                self.reload(is_asked=True)
            case events.KernelChanged(changes):
                self._check(changes)
            case events.TaskEnded(name):
                self._parts.work.ended(name)
            case events.ProxyEnded():
                self._parts.proxy.child.ended()
            case events.ProxyAnswered():
                self._parts.proxy.child.answered()
            case events.Signalled():
                self._is_stopping = True
            case events.Asked(caller):
                self._requests.take(caller)

    def _check(self, changes: tuple[nftables.Change, ...]) -> None:
        parts = self._parts
        foreign = tuple(
            change
            for change in changes
            if change.pid != os.getpid() and not parts.work.has_started(change.pid)
        )
        if foreign:
            parts.redirection.check(foreign)

    def _patience_s(self) -> float:
        now = self._parts.clock.monotonic()
        longest = [survey.patience_s(self._parts)]
        if self._watchdog_s is not None:
            longest.append(self._alive_at + self._watchdog_s - now)
        if not self._is_ready_sent:
            longest.append(self._started_at + READY_TIME_S - now)
        least = STUMBLE_PAUSE_S if self._has_stumbled else 0.0
        self._has_stumbled = False
        return max(min(longest), least)

    def _tick(self) -> None:
        self._parts.work.tick()
        self._parts.proxy.tick()
        now = self._parts.clock.monotonic()
        soon = now + liveness.STEADY_S  # what is due before the next wake-up is done at this one
        if self._watchdog_s is not None and soon >= self._alive_at + self._watchdog_s / 3:
            self._alive_at = now
            self._parts.notifier.send(WATCHDOG="1")
        if self._is_watching and soon >= self._looked_at + survey.HEARTBEAT_S:
            # Not every change is an event: inotify has limits, directories are moved away, and
            # a thread more for sshd's own directory would cost memory for ever.
            self._looked_at = now
            self._parts.redirection.look_at_addresses()
            if self._follow_sshd() or self._parts.watcher.is_stale():
                self.reload()

    # -- going forward --------------------------------------------------------------------------

    def advance(self) -> None:
        """Perform steps until the situation names none that was not just performed."""
        done: set[join.Step] = set()
        while True:
            steps = join.next_steps(survey.situation(self._parts))
            if not (left := [step for step in steps if step not in done]):
                break
            done.add(left[0])
            self._perform(left[0])
        if self._parts.configuration.candidate is not None:
            self._tell()  # what is whole now may be tried against something else at once
        if self._trial.advance():
            if self._is_watching and self._follow():
                self._parts.inbox.post(events.FilesChanged())
            self.advance()
            return
        self._tell()

    def _perform(self, step: join.Step) -> None:
        parts = self._parts
        match step:
            case join.Step.VALIDATE:
                parts.proxy.validate()
            case join.Step.OBTAIN:
                parts.certificate.ask()
            case join.Step.APPLY:
                self._membership.apply()
            case join.Step.PROVE:
                parts.redirection.prove()
            case join.Step.START:
                parts.proxy.start()
            case join.Step.MARK:
                self._membership.mark()
            case join.Step.WITHDRAW:
                self._membership.withdraw()

    # -- configuration --------------------------------------------------------------------------

    def reload(self, *, is_asked: bool = False) -> None:
        """Read the files again and take what differs; a bad file changes nothing.

        `is_asked`: an operator wants it: what did not hold before is tried once more.
        """
        parts = self._parts
        parts.watcher.mark()
        self._follow_sshd()
        has_changed = parts.configuration.refresh(is_asked=is_asked)
        parts.certificate.look_at_credentials()
        parts.proxy.look_for_binary()
        if has_changed:
            self._configure()
        parts.redirection.look_at_addresses()
        gc.collect()  # what has been replaced is in circles, and would raise the memory for ever
        if self._is_watching and self._follow():
            parts.inbox.post(events.FilesChanged())

    def _follow_sshd(self) -> bool:
        """See whether sshd listens somewhere else as well: that port is left alone from now on.

        The one before stays so too: sshd may not have been restarted yet.
        """
        parts = self._parts
        known = parts.facts.ssh_ports
        if not (added := set(host.probe_ssh_ports()).difference(known)):
            return False
        ports = tuple(sorted(added.union(known)))
        parts.facts = parts.configuration.facts = dataclasses.replace(parts.facts, ssh_ports=ports)
        logger.info("sshd has another port", extra=fields.of(DETAIL=sorted(added)))
        if parts.configuration.in_force is not None:
            self._put_into_force(parts.configuration.in_force)
        return True

    def _configure(self) -> None:
        part = self._parts.configuration
        if part.is_withdrawn and not self._parts.is_joined:
            part.forget()
            self._membership.take_out()
            self._parts.proxy.child.stop()
            return
        self._trial.consider()

    def _put_into_force(self, config: model.Config) -> None:
        self._parts.attempt_at = 0.0
        self._parts.attempt_trouble = ""
        self._parts.certificate.configure(config.identity)
        self._parts.proxy.configure(config, self._parts.facts)
        self._parts.redirection.configure(config.redirection, self._parts.facts)

    def _follow(self) -> bool:
        """Watch every file whose change matters; True if something may have been missed."""
        parts = self._parts
        paths = list(parts.configuration.sources.paths)
        if parts.proxy.binary is None:
            paths += parts.proxy.searched
        config = parts.configuration.in_force
        if config is not None:
            paths += [str(config.identity.token_file), str(config.identity.root_file)]
        is_missed = parts.watcher.follow(paths)
        if parts.watcher.trouble != self._unwatched:
            self._unwatched = parts.watcher.trouble
            if self._unwatched:
                logger.warning(
                    "changed files are noticed late: %s",
                    self._unwatched,
                    extra=fields.of(CODE="not-watched", SECONDS=survey.HEARTBEAT_S),
                )
        return is_missed

    # -- the outside ----------------------------------------------------------------------------

    def _tell(self) -> None:
        """READY, STATUS and the callers that wait."""
        report = readiness.describe(survey.knowledge(self._parts))
        if report.summary != self._status:
            self._status = report.summary
            self._parts.notifier.send(STATUS=report.summary)
            logger.info("%s", report.summary)
        age = self._parts.clock.monotonic() - self._started_at
        if not self._is_ready_sent and (report.is_in_control or age >= READY_TIME_S):
            self._is_ready_sent = True
            self._parts.notifier.send(READY="1")
        if not self._is_watching and self._is_ready_sent:
            # Only now: starting the watcher costs CPU that the way into the mesh has better uses
            # for, and a change that came meanwhile is seen by reading the files once more.
            self._is_watching = True
            self.reload()
        self._requests.tell(report)

    def _leave(self) -> None:
        """SIGTERM: whatever fails on the way out, the rest is done."""
        parts = self._parts
        parts.notifier.send(STOPPING="1", STATUS="stopping")
        self._guarded(parts.watcher.stop)
        self._guarded(parts.work.cancel)
        self._guarded(self._membership.leave)
        self._guarded(parts.proxy.child.end)
        self._guarded(self._requests.close)
        logger.info("stopped")
