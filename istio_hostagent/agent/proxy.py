"""The proxy part of the agent: which program, is its bootstrap valid, does it run with it.

When something is validated or started is not decided here (`lifecycle`).
"""

import collections
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import model
from ..errors import ChildFailed, HostAgentError, HostUnsupported, describe
from ..host import ports, processes
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..lifecycle.steps import Step
from ..supervise import builds, child, controlplane, specs, validation
from ..supervise.validation import Validation
from . import events, fields, part, programs, supervisor, tasks

logger = logging.getLogger(__name__)

VALIDATION = "validation"
CANDIDATE = "candidate"
VALIDATE_TIME_S = 20.0
# So many bootstraps that have passed are remembered: that in force, and those it may give way to.
REMEMBERED = 4


class ProxyPart(part.Part):
    """Finds the proxy, has its bootstrap validated, and keeps it running."""

    def __init__(
        self,
        supervised: supervisor.Supervisor,
        work: tasks.Tasks,
        clock: ports.Clock,
        files: ports.ProxyFiles,
    ) -> None:
        """Start with nothing configured."""
        self._work = work
        self._clock = clock
        self._config: model.Config | None = None
        self._facts: model.HostFacts | None = None
        self._files = files
        self._desired: builds.Build | None = None
        self._started: builds.Build | None = None
        self._last_accepted: builds.Build | None = None
        self._candidate: builds.Build | None = None
        self._passed: collections.deque[builds.Build] = collections.deque(maxlen=REMEMBERED)
        self.child = supervised
        self.validation = Validation()
        self._is_overtaken = False  # the files were looked at since the check began
        self.kind = model.ProxyKind.AUTO
        self.binary: str | None = None

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """What becomes of the program."""
        return {
            Step.VALIDATE: part.silently(self.validate),
            Step.START: part.silently(self.start),
            Step.STOP_PROXY: part.silently(self.child.stop),
        }

    def configure(self, config: model.Config, facts: model.HostFacts) -> None:
        """Take a configuration; what runs goes on until it is started anew."""
        self._config = config
        self._facts = facts
        self._desired = None
        self.look_for_binary()

    def handle(self, event: events.Event) -> None:
        """Another machine may need another bootstrap; programs come and go."""
        match event:
            case events.MachineSeen(facts):
                if self._config is not None and facts != self._facts:
                    self._facts = facts
                    self.look_for_binary()
            case events.Reloading(is_asked):
                if is_asked:
                    self.validation = self.validation._replace(retry_at=0.0)
                self.look_for_binary()

    def look_for_binary(self) -> None:
        """Find the program to run; what was validated before stays so if nothing differs."""
        if self._config is None:
            return
        self.kind, self.binary = self._find(self._config.proxy)
        if self.binary is None:
            self._desired = self._running_build(self._config)
            return
        desired = self._build(self._config, self.kind, self.binary)
        self._is_overtaken = True
        if desired != self._desired or self.validation.check is validation.Check.BAD:
            self._desired = desired
            self._work.abandon(VALIDATION)
            self.validation = validation.passed() if desired in self._good else Validation()

    def _running_build(self, config: model.Config) -> builds.Build | None:
        """What runs, if it is what `config` asks for although its program is gone."""
        if self._started is None or self.child.state is child.State.IDLE:
            return None
        program = self._started.spec.argv[0]
        is_same = self._build(config, self.kind, program) == self._started
        return self._started if is_same else None

    def _build(self, config: model.Config, kind: model.ProxyKind, binary: str) -> builds.Build:
        assert self._facts is not None
        return builds.build(config, self._facts, kind, binary, self._files.directory)

    def _find(self, settings: model.ProxySettings) -> tuple[model.ProxyKind, str | None]:
        # Who installs pilot-agent does not mean: replace the Envoy that serves, now.
        is_running = self.child.state is not child.State.IDLE
        served = self._last_accepted or self._started
        is_envoy = served is not None and served.spec.name == specs.ENVOY
        return programs.find(
            settings, self._files.is_program, is_envoy_kept=is_running and is_envoy
        )

    @property
    def _good(self) -> tuple[builds.Build, ...]:
        """What needs no validation: it runs, has worked, or has passed already."""
        known = (self._started, self._last_accepted, *self._passed)
        return tuple(built for built in known if built is not None)

    @property
    def is_envoy(self) -> bool:
        """Whether Envoy without pilot-agent is, or will be, the proxy of this host."""
        return self.kind is model.ProxyKind.ENVOY and self.binary is not None

    @property
    def is_outdated(self) -> bool:
        """Whether something else runs than what is desired."""
        return self.child.state is not child.State.IDLE and self._started != self._desired

    @property
    def is_serving(self) -> bool:
        """Whether the proxy that is desired is ready."""
        return self.child.state is child.State.READY and not self.is_outdated

    def remember(self) -> None:
        """What runs has worked: it may be started again without being validated."""
        self._last_accepted = self._started

    @property
    def searched(self) -> tuple[str, ...]:
        """The places where the program is looked for."""
        return programs.places(self._config.proxy, self.kind) if self._config is not None else ()

    @property
    def last_error(self) -> str:
        """What is wrong with it, in one line, or nothing."""
        # What ails one that gives way to another is not what keeps this host waiting.
        return self.validation.last_error or ("" if self.is_outdated else self.child.last_error)

    def obstacle(self, _life: Life) -> str:
        """Why it does not run as it should."""
        if self.binary is None:
            return _missing(self.kind, self.searched)
        return f"proxy: {self.last_error}" if self.last_error else ""

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        check = self.validation.check
        # While it is being validated nothing is known of its bootstrap.
        shown = validation.Check.UNKNOWN if check is validation.Check.RUNNING else check
        return {
            "kind": self.kind.value,
            "binary": self.binary,
            "state": self.child.state.value,
            "bootstrap": shown.value,
            "pid": self.child.pid,
            "closed_ports": list(self.child.closed_ports),
            "starts": self.child.starts,
            "last_error": self.last_error,
        }

    @property
    def control_plane(self) -> controlplane.ControlPlane:
        """What is known of its control plane, if it has one."""
        return self.child.control_plane

    def would_differ(self, config: model.Config) -> bool:
        """Whether another proxy, or one with another bootstrap, would run with `config`."""
        if self._facts is None:
            return False
        kind, binary = self._find(config.proxy)
        if binary is None or self._desired is None:
            return False
        return self._build(config, kind, binary) != self._desired

    def start(self) -> None:
        """Start it with the bootstrap that was found valid."""
        assert self._desired is not None
        self._started = self._desired
        self.child.start(self._desired.spec, functools.partial(self._files.write, self._desired))

    @property
    def started(self) -> builds.Build | None:
        """What was started last."""
        return self._started

    def load_again(self, count: int) -> None:
        """Make an Envoy that runs read the files of the certificate; `count`: another each time.

        Raises OSError. pilot-agent reads them by itself, and nobody can tell it to.
        """
        if self._started is not None and self._config is not None:
            output = self._config.identity.output_dir
            self._files.write(builds.respelled(self._started, output, count))

    # -- validation -----------------------------------------------------------------------------

    def validate(self) -> None:
        """Let the proxy's own parser check the bootstrap that is desired."""
        assert self._config is not None and self._desired is not None
        desired, before = self._desired, self.validation
        self.validation = validation.begun(before)
        self._is_overtaken = False

        def ended(found: Validation) -> None:
            if desired is self._desired:
                # The program that said no may not be the one that is there now.
                is_no = found.check is validation.Check.BAD
                self.validation = Validation() if is_no and self._is_overtaken else found

        self._check(VALIDATION, self._config, desired, before, ended)

    def validate_candidate(
        self, config: model.Config, before: Validation, done: Callable[[Validation], None]
    ) -> None:
        """Let a proxy check what it would get with another configuration; what runs goes on.

        `before`: the checks until now; `done` gets what is known then, and may be called at once.
        """
        kind, binary = self._find(config.proxy)
        if binary is None:
            # Where no proxy is anyway, the operator may want just this: to capture less.
            places = programs.places(config.proxy, kind)
            missing = HostUnsupported(_missing(kind, places))
            if not all(map(self._files.is_known, places)):
                self._undecided(before, missing, done)
                return
            is_there = self.binary is not None or self.child.state is not child.State.IDLE
            done(validation.refused(str(missing)) if is_there else validation.passed())
            return
        built = self._candidate = self._build(config, kind, binary)
        if built == self._desired or built in self._good:
            done(validation.passed())
        else:
            self._check(CANDIDATE, config, built, before, done)

    def drop_candidate(self) -> None:
        """What `validate_candidate` was asked about is not of interest any more."""
        self._candidate = None
        self._work.abandon(CANDIDATE)

    def _check(
        self,
        task: str,
        config: model.Config,
        built: builds.Build,
        before: Validation,
        done: Callable[[Validation], None],
    ) -> None:
        """Write the files and run the proxy's own check, if it has one.

        pilot-agent has none, and its files are those that one that runs is reading: they are
        written when it is started.
        """
        assert self._facts is not None
        spec = builds.validation(config, self._facts, built)
        if spec is None:
            self._passed.append(built)
            done(validation.passed())
            return
        try:
            self._files.write(built)
            user = processes.User(spec.user_uid, spec.user_gid)
            ended = functools.partial(self._ended, built, before, done)
            self._work.start_program(
                task, spec.argv, user=user, timeout_s=VALIDATE_TIME_S, done=ended
            )
        except OSError as error:
            program = built.spec.argv[0]
            self._undecided(
                before, ChildFailed(program, f"cannot be validated: {describe(error)}"), done
            )

    def _ended(
        self,
        built: builds.Build,
        before: Validation,
        done: Callable[[Validation], None],
        answer: Any,
    ) -> None:
        status, text = answer
        if status == 0:
            self._passed.append(built)
            done(validation.passed())
        else:
            lines = text.decode(errors="replace").splitlines()
            program = built.spec.argv[0]
            error = processes.ended_badly(f"{program} --mode validate", status, lines)
            # A shortage of the machine has a remedy, and says nothing about the bootstrap.
            if validation.is_verdict(status) and not error.hint:
                logger.error("proxy refuses its bootstrap", extra=fields.of(DETAIL=str(error)))
                done(validation.refused(str(error)))
            else:
                self._undecided(before, error, done)
        self._remove_others()

    def _undecided(
        self, before: Validation, error: HostAgentError, done: Callable[[Validation], None]
    ) -> None:
        now = self._clock.monotonic()
        found = validation.undecided(before, error.text, now)
        if found.failures & (found.failures - 1) == 0:
            logger.warning(
                "the proxy's bootstrap could not be validated; trying again",
                extra=fields.of(
                    DETAIL=str(error),
                    HINT=error.hint,
                    FAILURES=found.failures,
                    SECONDS=round(found.retry_at - now, 1),
                ),
            )
        done(found)

    def _remove_others(self) -> None:
        others = [built for built in (self._desired, self._candidate) if built is not None]
        try:
            self._files.remove_others((*self._good, *others))
        except OSError as error:
            logger.warning("files of a proxy not removed", extra=fields.of(DETAIL=str(error)))


def _missing(kind: model.ProxyKind, places: Sequence[str]) -> str:
    """No program: where it was looked for, and how it comes there."""
    package = "istio-sidecar.deb of your Istio release"
    if kind is model.ProxyKind.PILOT_AGENT:
        remedy = f"install {package}, or name its directory with ISTIO_BIN_BASE"
    else:
        remedy = f"install Envoy, or {package}, or name it with ISTIO_HOSTAGENT_ENVOY"
    remedy += " in /etc/istio-hostagent/hostagent.env"
    return f"no {kind.value} found; searched {', '.join(places)} ({remedy})"
