"""The deciding thread: events in, one turn each; every part is brought forward, nothing blocks.

Rules for editing: order and conditions belong to `join`, what a part does belongs to the part.
Here are only the turn itself, the joining marker and the way out. A broad handler stands around
one event, so that a bug in one part does not take the redirection's keeper away.
"""

import logging
import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from ..config import model
from ..host import files, mailbox, nftables, notify, ports, watch
from ..redirect import guard
from . import (
    certificate,
    configuration,
    events,
    fields,
    join,
    places,
    proxy,
    readiness,
    redirection,
    requests,
    survey,
    tasks,
)

logger = logging.getLogger(__name__)

# READY=1 is sent at the latest so long after start (design 3.5).
READY_TIME_S = 15.0
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
STORED_SOCKET = "nft"


@dataclass
class Parts:
    """Everything the loop was given by the composition root."""

    inbox: mailbox.Mailbox[events.Event]
    clock: ports.Clock
    kernel: nftables.NftKernel
    watcher: watch.FileWatcher
    notifier: notify.Notifier
    work: tasks.Tasks
    configuration: configuration.ConfigurationPart
    certificate: certificate.CertificatePart
    redirection: redirection.RedirectionPart
    proxy: proxy.ProxyPart
    is_stored: bool  # systemd already keeps the socket that owns the main table


class Agent:
    """One host's agent, from start to SIGTERM."""

    # The loop wakes at least this often: clocks may jump, and a host may have slept.
    HEARTBEAT_S: ClassVar[float] = 60.0

    def __init__(self, parts: Parts, facts: model.HostFacts, watchdog_s: float | None) -> None:
        """Look whether this host has joined; nothing is changed yet."""
        self.parts = parts
        self.facts = facts
        self.is_joined = os.path.exists(self._path(places.MARKER))
        self.attempt_at = 0.0
        self._attempts = 0
        self._requests = requests.Requests(self)
        self._watchdog_s = watchdog_s
        self._started_at = parts.clock.monotonic()
        self._alive_at = 0.0
        self._is_ready_sent = False
        self._is_watching = False
        self._status = ""
        self._is_stopping = False

    def _path(self, name: str) -> str:
        return places.in_state(self.facts, name)

    def run(self) -> None:
        """Live until a signal says stop."""
        if not self.is_joined and os.path.exists(self._path(places.ATTEMPT)):
            logger.warning("the last attempt to join was cut short; taking its rules out")
            self._take_out()
        self._configure()
        self.advance()
        while not self._is_stopping:
            for event in self.parts.inbox.wait(self._patience_s()):
                try:
                    self._take(event)
                except Exception:
                    logger.exception("event not handled", extra=fields.of(CODE="bug"))
            self._tick()
            self.advance()
        self._leave()

    def _take(self, event: events.Event) -> None:
        match event:
            case events.FilesChanged() | events.Signalled(signal.SIGHUP):
                self.reload()
            case events.KernelChanged(changes):
                foreign = tuple(change for change in changes if change.pid != os.getpid())
                if foreign:
                    self.parts.redirection.check(foreign)
            case events.TaskEnded(name):
                self.parts.work.finish(name)
            case events.ProxyEnded():
                self.parts.proxy.child.ended()
            case events.Signalled():
                self._is_stopping = True
            case events.Asked(caller):
                self._requests.take(caller)

    def _patience_s(self) -> float:
        now = self.parts.clock.monotonic()
        longest = [self.HEARTBEAT_S, survey.patience_s(self)]
        if self._watchdog_s is not None:
            longest.append(self._alive_at + self._watchdog_s - now)
        if not self._is_ready_sent:
            longest.append(self._started_at + READY_TIME_S - now)
        return max(min(longest), 0.0)

    def _tick(self) -> None:
        self.parts.work.tick()
        self.parts.proxy.child.tick()
        now = self.parts.clock.monotonic()
        if self._watchdog_s is not None and now >= self._alive_at + self._watchdog_s / 3:
            self._alive_at = now
            self.parts.notifier.send(WATCHDOG="1")

    # -- going forward --------------------------------------------------------------------------

    def advance(self) -> None:
        """Perform steps until the situation names none that was not just performed."""
        done: set[join.Step] = set()
        while True:
            steps = join.next_steps(survey.situation(self))
            if not (left := [step for step in steps if step not in done]):
                break
            done.add(left[0])
            self._perform(left[0])
        self._settle()
        self._tell()

    def _perform(self, step: join.Step) -> None:
        parts = self.parts
        match step:
            case join.Step.VALIDATE:
                parts.proxy.validate()
            case join.Step.OBTAIN:
                parts.certificate.ask()
            case join.Step.APPLY:
                self._apply()
            case join.Step.PROVE:
                parts.redirection.prove()
            case join.Step.START:
                parts.proxy.start()
            case join.Step.MARK:
                self._mark()
            case join.Step.WITHDRAW:
                self._withdraw()

    def _apply(self) -> None:
        part = self.parts.redirection
        if self.is_joined:
            if part.apply():
                self._keep()
            return
        # A kill from here on leaves rules on a host that has not joined: the next start sees the
        # attempt's mark and takes them out.
        self._write(places.ATTEMPT)
        if not part.apply():
            self._take_out()

    def _keep(self) -> None:
        """Let the rules outlive us: the guard for early boot, the owning socket with systemd."""
        text = guard.render_guard(self.parts.redirection.desired)
        files.write_atomically(self._path(places.GUARD), text.encode(), mode=0o644)
        if self.parts.kernel.is_owner and not self.parts.is_stored:
            self.parts.notifier.store(STORED_SOCKET, self.parts.kernel.socket.fileno())
            self.parts.is_stored = True

    def _mark(self) -> None:
        """Joined: from now on rules go in first and stay."""
        self._keep()
        self.parts.configuration.accept()
        self._write(places.MARKER)
        files.remove(self._path(places.ATTEMPT))
        self.is_joined = True
        self._attempts = 0
        held = self.parts.certificate.held
        extra = fields.of(IDENTITY=held.identity if held is not None else "")
        logger.info("joined the mesh", extra=extra)

    def _withdraw(self) -> None:
        """An attempt to join failed: the network goes back to what it was."""
        trouble = self.parts.proxy.trouble or str(self.parts.redirection.trouble or "")
        self._take_out()
        self.parts.proxy.child.stop()
        self._attempts += 1
        pause = min(FIRST_PAUSE_S * 2 ** min(self._attempts - 1, 4), LONGEST_PAUSE_S)
        self.attempt_at = self.parts.clock.monotonic() + pause
        logger.error(
            "could not join; the rules are out again",
            extra=fields.of(DETAIL=trouble or "the proxy was not ready", ATTEMPT=self._attempts),
        )

    def _take_out(self) -> None:
        if self.parts.redirection.withdraw():
            files.remove(self._path(places.ATTEMPT))

    def _write(self, name: str) -> None:
        moment = fields.moment(self.parts.clock.now())
        files.write_atomically(self._path(name), f"{moment}\n".encode(), mode=0o644)

    # -- configuration --------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the files again and take what differs; a bad file changes nothing."""
        parts = self.parts
        has_changed = parts.configuration.refresh(has_worked=self.is_joined)
        parts.certificate.look_at_credentials()
        parts.proxy.look_for_binary()
        if has_changed:
            self._configure()
        if self._follow():
            self.reload()

    def _configure(self) -> None:
        part = self.parts.configuration
        if part.is_withdrawn and not self.is_joined:
            part.forget()
            self._take_out()
            self.parts.proxy.child.stop()
            return
        config = part.take()
        if config is not None:
            self._put_into_force(config)

    def _put_into_force(self, config: model.Config) -> None:
        self.attempt_at = 0.0
        self.parts.certificate.configure(config.identity)
        self.parts.proxy.configure(config, self.facts)
        self.parts.redirection.configure(config.redirection, self.facts)

    def _settle(self) -> None:
        """On a joined host proven rules make the files accepted; refused ones take them back."""
        part = self.parts.redirection
        if not self.is_joined:
            return
        if part.rules is join.Rules.PROVEN:
            self.parts.configuration.accept()
        elif part.trouble is not None:
            config = self.parts.configuration.revert(str(part.trouble))
            if config is not None:
                self._put_into_force(config)
                self.advance()

    def _follow(self) -> bool:
        """Watch every file whose change matters; True if something may have been missed."""
        if not self._is_watching:
            return False
        paths = list(self.parts.configuration.sources.paths)
        if self.parts.proxy.binary is None:
            paths += self.parts.proxy.searched
        config = self.parts.configuration.in_force
        if config is not None:
            paths += [str(config.identity.token_file), str(config.identity.root_file)]
        return self.parts.watcher.follow(paths)

    # -- the outside ----------------------------------------------------------------------------

    def _tell(self) -> None:
        """READY, STATUS and the callers that wait."""
        report = readiness.describe(survey.knowledge(self))
        if report.summary != self._status:
            self._status = report.summary
            self.parts.notifier.send(STATUS=report.summary)
            logger.info("%s", report.summary)
        age = self.parts.clock.monotonic() - self._started_at
        if not self._is_ready_sent and (report.is_in_control or age >= READY_TIME_S):
            self._is_ready_sent = True
            self.parts.notifier.send(READY="1")
        if not self._is_watching and self._is_ready_sent:
            # Only now: starting the watcher costs CPU that the way into the mesh has better uses
            # for, and a change that came meanwhile is seen by reading the files once more.
            self._is_watching = True
            self.reload()
        self._requests.tell(report)

    def _leave(self) -> None:
        """SIGTERM: an owned table is systemd's to end (design invariant 8); else take all out."""
        self.parts.notifier.send(STOPPING="1", STATUS="stopping")
        self.parts.watcher.stop()
        self.parts.work.cancel()
        if not self.parts.kernel.is_owner:
            self.parts.redirection.withdraw()
            for name in (places.MARKER, places.ATTEMPT, places.GUARD):
                files.remove(self._path(name))
        self.parts.proxy.child.end()
        self._requests.close()
        logger.info("stopped")
