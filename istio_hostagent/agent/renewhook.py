"""The hook part of the agent: what is done after each renewal, once all outputs are written.

A command runs as istio-proxy, who can read the certificate and nothing else of root's; units are
reloaded by root, which runs nothing but systemctl for that. Nothing waits for either. What has
ended well is written down by serial number, so that a renewal right before a crash is told after
it, and a restart tells nothing anew; what has failed is tried again, ever more seldom.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import model
from ..errors import ChildFailed, HostAgentError, describe
from ..host import ports, processes
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from . import certificate, events, fields, outputs, part, places, statedir, tasks

logger = logging.getLogger(__name__)

TASK = "renew-hook"
TIMEOUT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
_SYSTEMCTL = "/usr/bin/systemctl"
_ROOT = processes.User(0, 0)
# What `systemctl is-active` says of a unit that will read its files when it is started.
_ASLEEP = ("inactive", "failed", "unknown")


class _Subject(NamedTuple):
    """What is told: another one is told anew."""

    serial: str
    obtained: int
    changes: int


class HookPart(part.Part):
    """Runs the hook, and knows what became of it."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        held: certificate.CertificatePart,
        written: outputs.OutputsPart,
        state: statedir.StateDirectory,
        facts: model.HostFacts,
    ) -> None:
        """Start with nothing told; of `facts` only what never changes is used."""
        self._work = work
        self._clock = clock
        self._certificate = held
        self._outputs = written
        self._state = state
        self._user = processes.User(facts.proxy_uid, facts.proxy_gid)
        self._hook = model.RenewHook()
        self._told: _Subject | None = None
        self._units: list[str] = []  # still to be reloaded
        self._errors: list[str] = []  # of this run
        self._is_running = False
        self._is_known = False  # it is known what an earlier agent has told
        self._failures = 0
        self._retry_at: float | None = None
        self._ended: float | None = None  # unix seconds
        self.last_error = ""

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take the hook that is wanted; another one begins with the next renewal."""
        if config.delivery.hook == self._hook:
            return
        self._hook = config.delivery.hook
        self._work.abandon(TASK)
        if self._is_running or self.last_error:
            self._told = None  # the one before has not done it
        self._is_running = False
        self._failures, self._retry_at, self.last_error = 0, None, ""

    def handle(self, event: events.Event) -> None:
        """See what is held now, and try again what is due."""
        match event:
            case events.Reloading(is_asked=True):
                self._wait_for_another()
            case events.TimePassed():
                self._look()

    def deadline(self) -> float | None:
        """When it tries again (monotonic seconds)."""
        return self._retry_at

    @property
    def _is_wanted(self) -> bool:
        return bool(self._hook.command or self._hook.units)

    def _wanted(self) -> _Subject | None:
        found = self._certificate
        if found.value.held is None or not found.value.is_held(self._clock.now()):
            return None
        return _Subject(found.value.held.serial, found.obtained, self._outputs.changes)

    def _look(self) -> None:
        wanted = self._wanted()
        if wanted is None or not self._is_wanted or not self._outputs.is_settled:
            self._wait_for_another()
            return
        if not self._is_known:
            self._is_known = True
            is_same = self._state.read(places.TOLD) == wanted.serial
            if is_same and not wanted.obtained and not wanted.changes:
                self._told = wanted
        is_due = self._retry_at is not None and self._clock.monotonic() >= self._retry_at
        if wanted != self._told:
            self._failures = 0
            self._begin(wanted)
        elif is_due and not self._is_running:
            self._begin(wanted)

    def _wait_for_another(self) -> None:
        """What has failed begins anew once it can."""
        if self._retry_at is not None:
            self._retry_at, self._told = None, None

    def _begin(self, wanted: _Subject) -> None:
        """Run it from the start; one that still runs is for a renewal before, and is ended."""
        self._told = wanted
        self._is_running = True
        self._retry_at = None
        self._errors = []
        self._units = list(self._hook.units)
        if self._hook.command:
            self._run_command()
        else:
            self._reload_next()

    def _run_command(self) -> None:
        held, place = self._certificate.value.held, self._certificate.place
        assert held is not None and place is not None
        told = {"CERTS": place.directory, "IDENTITY": held.identity, "SERIAL": held.serial}
        variables = [f"ISTIO_HOSTAGENT_{name}={value}" for name, value in told.items()]
        command = self._hook.command
        argv = ("/usr/bin/env", *variables, *command)

        def ended(error: str) -> None:
            self._errors += [error] if error else []
            self._end()

        self._run(argv, self._user, command[0], ended)

    def _reload_next(self) -> None:
        if not self._units:
            self._end()
            return
        unit = self._units.pop(0)

        def asked(state: str, error: str) -> None:
            # One that does not run reads its files when it is started.
            self._errors += [] if state in _ASLEEP else [error]
            self._reload_next()

        def ended(error: str) -> None:
            if not error:
                self._reload_next()
                return
            argv = (_SYSTEMCTL, "is-active", "--", unit)
            self._start(argv, _ROOT, lambda _, said: asked(said.strip(), error), unasked)

        def unasked(why: str) -> None:
            asked("", why)

        name = f"systemctl reload {unit}"
        self._run((_SYSTEMCTL, "reload", "--", unit), _ROOT, name, ended)

    def _run(
        self, argv: tuple[str, ...], user: processes.User, name: str, ended: Callable[[str], None]
    ) -> None:
        """`ended` gets why it did not succeed, or nothing."""

        def finished(status: int | None, said: str) -> None:
            error = processes.ended_badly(name, status, said.splitlines())
            ended("" if status == 0 else error.text)

        self._start(argv, user, finished, ended)

    def _start(
        self,
        argv: tuple[str, ...],
        user: processes.User,
        finished: Callable[[int | None, str], None],
        failed: Callable[[str], None],
    ) -> None:
        def done(result: tuple[int | None, bytes] | HostAgentError) -> None:
            if isinstance(result, HostAgentError):
                failed(result.text)
            else:
                finished(result[0], result[1].decode(errors="replace"))

        try:
            self._work.start_program(TASK, argv, user=user, timeout_s=TIMEOUT_S, done=done)
        except OSError as error:
            failed(str(ChildFailed(argv[0], f"cannot be started: {describe(error)}")))

    def _end(self) -> None:
        before, self.last_error = self.last_error, "; ".join(self._errors)
        self._is_running = False
        self._ended = self._clock.now()
        assert self._told is not None
        if not self.last_error:
            self._failures = 0
            self._state.write(places.TOLD, self._told.serial)
            logger.info("renewal hook done", extra=fields.of(SERIAL=self._told.serial))
            return
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_S)
        self._failures += 1
        self._retry_at = self._clock.monotonic() + pause_s
        if self.last_error != before or self._failures == 1:
            extra = fields.of(CODE="hook-failed", DETAIL=self.last_error)
            logger.warning("renewal hook failed; it is tried again", extra=extra)

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        state = "done" if self._ended is not None or self._told is not None else "pending"
        if not self._is_wanted:
            state = "none"
        elif self._is_running:
            state = "running"
        elif self.last_error:
            state = "failed"
        return {
            "state": state,
            "ended": self._ended,
            "failures": self._failures,
            "last_error": self.last_error,
        }
