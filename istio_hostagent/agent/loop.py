"""The deciding thread: events in, one turn each; every part is brought forward, nothing blocks.

Rules for editing: order and conditions belong to `join`, what a part does belongs to the part.
Here are only the turn itself, the joining marker and the way out. A broad handler stands around
one event, so that a bug in one part does not take the redirection's keeper away.
"""

import logging
import os
import signal
from dataclasses import dataclass

from ..config import model
from ..host import files, mailbox, nftables, notify, ports, watch
from ..redirect import guard
from . import (
    certificate,
    events,
    fields,
    join,
    places,
    proxy,
    readiness,
    redirection,
    reload,
    requests,
    tasks,
)

logger = logging.getLogger(__name__)

JOIN_TIME_S = 30.0
# READY=1 is sent at the latest so long after start (design 3.5).
READY_TIME_S = 15.0
# The loop wakes at least this often: clocks may jump, and a host may have slept.
HEARTBEAT_S = 45.0
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
    certificate: certificate.CertificatePart
    redirection: redirection.RedirectionPart
    proxy: proxy.ProxyPart
    is_stored: bool  # systemd already keeps the socket that owns the main table


class Agent:
    """One host's agent, from start to SIGTERM."""

    def __init__(
        self,
        parts: Parts,
        sources: reload.Sources,
        facts: model.HostFacts,
        watchdog_s: float | None,
    ) -> None:
        """Read the marker and the accepted texts; nothing is changed yet."""
        self.parts = parts
        self.sources = sources
        self.facts = facts
        self.is_joined = os.path.exists(self._path(places.MARKER))
        self.accepted = reload.load_accepted(str(facts.state_dir), sources)
        self.loaded = reload.load(sources, facts, self.accepted)
        self.requests = requests.Requests(self)
        self.config: model.Config | None = None
        self._fallback: reload.Loaded | None = None
        self._watchdog_s = watchdog_s
        self._started_at = parts.clock.monotonic()
        self._alive_at = 0.0
        self._attempt_at = 0.0
        self._attempts = 0
        self._is_ready_sent = False
        self._is_watching = False
        self._status = ""
        self._is_stopping = False

    def _path(self, name: str) -> str:
        return places.in_state(self.facts, name)

    # -- one life -------------------------------------------------------------------------------

    def run(self) -> None:
        """Live until a signal says stop."""
        self._report_files()
        if not self.is_joined and os.path.exists(self._path(places.ATTEMPT)):
            logger.warning("the last attempt to join was cut short; taking its rules out")
            if self.parts.redirection.withdraw():
                files.remove(self._path(places.ATTEMPT))
        self._configure()
        self.advance()
        while not self._is_stopping:
            for event in self.parts.inbox.wait(self._patience()):
                try:
                    self._take(event)
                except Exception:
                    logger.exception("event not handled", extra=fields.of(CODE="bug"))
            self._tick()
            self.advance()
        self._leave()

    def _take(self, event: events.Event) -> None:
        match event:
            case events.FilesChanged():
                self.reload()
            case events.KernelChanged(changes):
                foreign = tuple(change for change in changes if change.pid != os.getpid())
                if foreign:
                    self.parts.redirection.check(foreign)
            case events.TaskEnded(name):
                self.parts.work.finish(name)
            case events.ProxyEnded():
                self.parts.proxy.child.ended()
            case events.Signalled(signal.SIGHUP):
                self.reload()
            case events.Signalled():
                self._is_stopping = True
            case events.Asked(caller):
                self.requests.take(caller)

    def _tick(self) -> None:
        self.parts.work.tick()
        self.parts.proxy.child.tick()
        now = self.parts.clock.monotonic()
        if self._watchdog_s is not None and now >= self._alive_at + self._watchdog_s / 2:
            self._alive_at = now
            self.parts.notifier.send(WATCHDOG="1")

    def _patience(self) -> float:
        now = self.parts.clock.monotonic()
        wall = self.parts.clock.now()
        moments = [HEARTBEAT_S]
        if self._watchdog_s is not None:
            moments.append(self._alive_at + self._watchdog_s / 2 - now)
        if not self._is_ready_sent:
            moments.append(self._started_at + READY_TIME_S - now)
        parts = self.parts
        # What is overdue there is done at the next turn: do not sleep at all.
        overdue = [parts.work.deadline(), parts.proxy.child.deadline()]
        moments += [moment - now for moment in overdue if moment is not None]
        if self.config is not None:
            # These say from when on something may be tried; what is past holds nothing up.
            pauses = [parts.redirection.apply_at, parts.redirection.prove_at, self._attempt_at]
            moments += [moment - now for moment in pauses if moment > now]
            if not parts.certificate.is_asking:
                moments.append(max(parts.certificate.next_at - wall, 0.05))
        return max(min(moments), 0.0)

    # -- going forward --------------------------------------------------------------------------

    def situation(self) -> join.Situation:
        """What is known now, as the value that decides."""
        parts = self.parts
        now = parts.clock.monotonic()
        return join.Situation(
            has_config=self.config is not None,
            is_joined=self.is_joined,
            is_attempt_due=now >= self._attempt_at,
            is_attempt_over=parts.proxy.child.has_waited(JOIN_TIME_S),
            has_binary=parts.proxy.binary is not None,
            bootstrap=parts.proxy.bootstrap,
            is_validating=parts.proxy.is_validating,
            has_certificate=parts.certificate.is_held,
            is_asking=parts.certificate.is_asking,
            is_certificate_due=parts.certificate.is_due,
            rules=parts.redirection.rules,
            is_apply_due=now >= parts.redirection.apply_at,
            is_proving=parts.redirection.is_proving,
            is_proof_due=now >= parts.redirection.prove_at,
            is_proof_broken=parts.redirection.is_proof_broken,
            proxy=parts.proxy.child.state,
        )

    def knowledge(self) -> readiness.Knowledge:
        """What is known now, as the value that becomes words."""
        parts = self.parts
        held = parts.certificate.held
        trouble = parts.certificate.trouble
        return readiness.Knowledge(
            situation=self.situation(),
            is_empty=self.loaded.is_empty,
            is_kept=self.loaded.is_kept,
            cluster_file=self.sources.cluster,
            problems=self.loaded.problems,
            identity=held.identity if held is not None else "",
            held_until=fields.moment(held.not_after) if held is not None else "",
            certificate_trouble=trouble.text if trouble is not None else "",
            rules_trouble=str(parts.redirection.trouble or ""),
            proxy_name=parts.proxy.kind.value,
            proxy_trouble=parts.proxy.trouble,
            searched=parts.proxy.searched,
        )

    def advance(self) -> None:
        """Perform steps until the situation names none that was not just performed."""
        done: set[join.Step] = set()
        while True:
            steps = [step for step in join.next_steps(self.situation()) if step not in done]
            if not steps:
                break
            done.add(steps[0])
            self._perform(steps[0])
        self._after_proof()
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
            part.withdraw()
            files.remove(self._path(places.ATTEMPT))

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
        self._accept()
        self._write(places.MARKER)
        files.remove(self._path(places.ATTEMPT))
        self.is_joined = True
        self._attempts = 0
        held = self.parts.certificate.held
        logger.info(
            "joined the mesh",
            extra=fields.of(IDENTITY=held.identity if held else "", FILE=places.MARKER),
        )

    def _withdraw(self) -> None:
        """An attempt to join failed: the network goes back to what it was."""
        if self.parts.redirection.withdraw():
            files.remove(self._path(places.ATTEMPT))
        trouble = self.parts.proxy.trouble
        self.parts.proxy.child.stop()
        self._attempts += 1
        pause = min(5.0 * 2 ** min(self._attempts - 1, 4), 60.0)
        self._attempt_at = self.parts.clock.monotonic() + pause
        logger.error(
            "could not join; the rules are out again",
            extra=fields.of(
                DETAIL=trouble or str(self.parts.redirection.trouble or "the proxy was not ready"),
                ATTEMPT=self._attempts,
            ),
        )

    def _write(self, name: str) -> None:
        moment = fields.moment(self.parts.clock.now())
        files.write_atomically(self._path(name), f"{moment}\n".encode(), mode=0o644)

    # -- configuration --------------------------------------------------------------------------

    def look(self) -> reload.Loaded:
        """What the files say now, without taking it."""
        return reload.load(self.sources, self.facts, self.accepted)

    def reload(self) -> None:
        """Read the files again and take what differs; a bad file changes nothing."""
        before = self.loaded
        self.loaded = self.look()
        parts = self.parts
        parts.certificate.look_at_credentials()
        parts.proxy.look_for_binary()
        same = (self.loaded.problems, self.loaded.layers) == (before.problems, before.layers)
        if not same:
            self._report_files()
            if before.config is not None and not before.is_kept and self.is_joined:
                self._fallback = before
            self._configure()
        if self._follow():
            self.reload()

    def _configure(self) -> None:
        config = self.loaded.config
        if config is None and self.config is not None:
            if self.is_joined or self.loaded.problems:
                return  # what was in force stays in force
            self._forget()
            return
        if config is None or config == self.config:
            if config is not None and not self.loaded.is_kept and self.is_joined:
                self._accept()
            return
        self.config = config
        self._attempt_at = 0.0
        parts = self.parts
        parts.certificate.configure(config.identity)
        parts.proxy.configure(config, self.facts)
        parts.redirection.configure(config.redirection, self.facts)

    def _forget(self) -> None:
        """The configuration of a host that never joined is gone: so is what was tried with it."""
        self.config = None
        if self.parts.redirection.withdraw():
            files.remove(self._path(places.ATTEMPT))
        self.parts.proxy.child.stop()

    def _after_proof(self) -> None:
        """A changed configuration that packets refute is taken back; a proven one is kept."""
        part = self.parts.redirection
        if part.rules is join.Rules.PROVEN:
            self._fallback = None
            if self.is_joined and not self.loaded.is_kept and self.loaded.config == self.config:
                self._accept()
        elif part.trouble is not None and self._fallback is not None:
            refused, self.loaded, self._fallback = self.loaded, self._fallback, None
            logger.error(
                "the new configuration does not hold; the one before is in force again",
                extra=fields.of(CODE="not-kept", DETAIL=str(part.trouble)),
            )
            reason = str(part.trouble)
            self._configure()
            self.loaded = reload.refuse(self.loaded, refused, reason)
            self.advance()

    def _accept(self) -> None:
        if self.loaded.layers != self.accepted and not self.loaded.is_kept:
            reload.save_accepted(str(self.facts.state_dir), self.loaded.layers)
            self.accepted = self.loaded.layers

    def _report_files(self) -> None:
        for problem in self.loaded.problems:
            extra = fields.of(CODE="config-invalid", FILE=problem.file, LINE=problem.line)
            logger.error("%s", problem, extra=extra)
        for warning in self.loaded.warnings:
            logger.warning("%s", warning, extra=fields.of(FILE=warning.file, LINE=warning.line))
        if self.loaded.is_kept:
            logger.warning("keeping the last accepted configuration")

    def _follow(self) -> bool:
        """Watch every file whose change matters; True if something may have been missed."""
        paths = list(self.sources.paths)
        if self.parts.proxy.binary is None:
            paths += self.parts.proxy.searched
        if self.config is not None:
            identity = self.config.identity
            paths += [str(identity.token_file), str(identity.root_file)]
        return self.parts.watcher.follow(paths)

    # -- the outside ----------------------------------------------------------------------------

    def _tell(self) -> None:
        """READY, STATUS and the callers that wait."""
        report = readiness.describe(self.knowledge())
        age = self.parts.clock.monotonic() - self._started_at
        if report.summary != self._status:
            self._status = report.summary
            self.parts.notifier.send(STATUS=report.summary)
            logger.info("%s", report.summary)
        if not self._is_ready_sent and (report.is_in_control or age >= READY_TIME_S):
            self._is_ready_sent = True
            self.parts.notifier.send(READY="1")
        if not self._is_watching and self._is_ready_sent:
            # Only now: importing and starting the watcher costs more than the whole join, and a
            # change that came meanwhile is seen by reading the files once more.
            self._is_watching = True
            self.reload()
        self.requests.tell(report)

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
        self.requests.close()
        logger.info("stopped")
