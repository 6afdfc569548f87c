"""The deciding thread: events in, one turn each; every part is brought forward, nothing blocks.

Rules for editing: order and conditions belong to `join`, what a part does belongs to the part.
Here are only the turn itself, the joining marker and the way out. A broad handler stands around
one event, so that a bug in one part does not take the redirection's keeper away.
"""

import logging
import os
import signal

from ..config import model
from ..host import files
from ..redirect import guard
from . import (
    events,
    fields,
    join,
    places,
    readiness,
    requests,
    state,
    survey,
)

logger = logging.getLogger(__name__)

# READY=1 is sent at the latest so long after start (design 3.5).
READY_TIME_S = 15.0
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
STORED_SOCKET = "nft"


class Agent:
    """One host's agent, from start to SIGTERM."""

    def __init__(self, parts: state.Parts, watchdog_s: float | None) -> None:
        """Look whether this host has joined; nothing is changed yet."""
        self._parts = parts
        self._parts.is_joined = os.path.exists(self._path(places.MARKER))
        self._attempts = 0
        self._requests = requests.Requests(parts, self.reload)
        self._watchdog_s = watchdog_s
        self._started_at = parts.clock.monotonic()
        self._alive_at = 0.0
        self._is_ready_sent = False
        self._is_watching = False
        self._status = ""
        self._is_stopping = False

    def _path(self, name: str) -> str:
        return places.in_state(self._parts.facts, name)

    def run(self) -> None:
        """Live until a signal says stop."""
        if not self._parts.is_joined and os.path.exists(self._path(places.ATTEMPT)):
            logger.warning("the last attempt to join was cut short; taking its rules out")
            self._take_out()
        self._configure()
        self.advance()
        while not self._is_stopping:
            for event in self._parts.inbox.wait(self._patience_s()):
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
                    self._parts.redirection.check(foreign)
            case events.TaskEnded(name):
                self._parts.work.finish(name)
            case events.ProxyEnded():
                self._parts.proxy.child.ended()
            case events.Signalled():
                self._is_stopping = True
            case events.Asked(caller):
                self._requests.take(caller)

    def _patience_s(self) -> float:
        now = self._parts.clock.monotonic()
        longest = [survey.patience_s(self._parts)]
        if self._watchdog_s is not None:
            longest.append(self._alive_at + self._watchdog_s - now)
        if not self._is_ready_sent:
            longest.append(self._started_at + READY_TIME_S - now)
        return max(min(longest), 0.0)

    def _tick(self) -> None:
        self._parts.work.tick()
        self._parts.proxy.child.tick()
        now = self._parts.clock.monotonic()
        if self._watchdog_s is not None and now >= self._alive_at + self._watchdog_s / 3:
            self._alive_at = now
            self._parts.notifier.send(WATCHDOG="1")

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
        self._settle()
        self._tell()

    def _perform(self, step: join.Step) -> None:
        parts = self._parts
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
        part = self._parts.redirection
        if self._parts.is_joined:
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
        text = guard.render_guard(self._parts.redirection.desired)
        files.write_atomically(self._path(places.GUARD), text.encode(), mode=0o644)
        if self._parts.kernel.is_owner and not self._parts.is_stored:
            self._parts.notifier.store(STORED_SOCKET, self._parts.kernel.socket.fileno())
            self._parts.is_stored = True

    def _mark(self) -> None:
        """Joined: from now on rules go in first and stay."""
        self._keep()
        self._parts.configuration.accept()
        self._write(places.MARKER)
        files.remove(self._path(places.ATTEMPT))
        self._parts.is_joined = True
        self._attempts = 0
        held = self._parts.certificate.held
        extra = fields.of(IDENTITY=held.identity if held is not None else "")
        logger.info("joined the mesh", extra=extra)

    def _withdraw(self) -> None:
        """An attempt to join failed: the network goes back to what it was."""
        trouble = self._parts.proxy.trouble or str(self._parts.redirection.trouble or "")
        self._take_out()
        self._parts.proxy.child.stop()
        self._attempts += 1
        pause = min(FIRST_PAUSE_S * 2 ** min(self._attempts - 1, 4), LONGEST_PAUSE_S)
        self._parts.attempt_at = self._parts.clock.monotonic() + pause
        logger.error(
            "could not join; the rules are out again",
            extra=fields.of(DETAIL=trouble or "the proxy was not ready", ATTEMPT=self._attempts),
        )

    def _take_out(self) -> None:
        if self._parts.redirection.withdraw():
            files.remove(self._path(places.ATTEMPT))

    def _write(self, name: str) -> None:
        moment = fields.moment(self._parts.clock.now())
        files.write_atomically(self._path(name), f"{moment}\n".encode(), mode=0o644)

    # -- configuration --------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the files again and take what differs; a bad file changes nothing."""
        parts = self._parts
        has_changed = parts.configuration.refresh(has_worked=self._parts.is_joined)
        parts.certificate.look_at_credentials()
        parts.proxy.look_for_binary()
        if has_changed:
            self._configure()
        if self._follow():
            self.reload()

    def _configure(self) -> None:
        part = self._parts.configuration
        if part.is_withdrawn and not self._parts.is_joined:
            part.forget()
            self._take_out()
            self._parts.proxy.child.stop()
            return
        config = part.take()
        if config is not None:
            self._put_into_force(config)

    def _put_into_force(self, config: model.Config) -> None:
        self._parts.attempt_at = 0.0
        self._parts.certificate.configure(config.identity)
        self._parts.proxy.configure(config, self._parts.facts)
        self._parts.redirection.configure(config.redirection, self._parts.facts)

    def _settle(self) -> None:
        """On a joined host proven rules make the files accepted; refused ones take them back."""
        part = self._parts.redirection
        if not self._parts.is_joined:
            return
        if part.rules is join.Rules.PROVEN:
            self._parts.configuration.accept()
        elif part.trouble is not None:
            config = self._parts.configuration.revert(str(part.trouble))
            if config is not None:
                self._put_into_force(config)
                self.advance()

    def _follow(self) -> bool:
        """Watch every file whose change matters; True if something may have been missed."""
        if not self._is_watching:
            return False
        paths = list(self._parts.configuration.sources.paths)
        if self._parts.proxy.binary is None:
            paths += self._parts.proxy.searched
        config = self._parts.configuration.in_force
        if config is not None:
            paths += [str(config.identity.token_file), str(config.identity.root_file)]
        return self._parts.watcher.follow(paths)

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
        """SIGTERM: an owned table is systemd's to end (design invariant 8); else take all out."""
        self._parts.notifier.send(STOPPING="1", STATUS="stopping")
        self._parts.watcher.stop()
        self._parts.work.cancel()
        if not self._parts.kernel.is_owner:
            self._parts.redirection.withdraw()
            for name in (places.MARKER, places.ATTEMPT, places.GUARD):
                files.remove(self._path(name))
        self._parts.proxy.child.end()
        self._requests.close()
        logger.info("stopped")
