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
from ..supervise import builds, child, controlplane, refusals, specs, validation
from ..supervise.validation import Validation
from . import events, fields, part, programs, succession, supervisor, tasks, upgrade

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
        successors: succession.Succession,
    ) -> None:
        """Start with nothing configured."""
        self._upgrade = upgrade.Upgrade(successors, supervised)
        self._work = work
        self._clock = clock
        self._config: model.Config | None = None
        self._facts: model.HostFacts | None = None
        self._files = files
        self._desired: builds.Build | None = None
        self._started: builds.Build | None = None
        self._before: builds.Build | None = None  # from which that takes over
        self._last_accepted: builds.Build | None = None
        self._candidate: builds.Build | None = None
        self._passed: collections.deque[builds.Build] = collections.deque(maxlen=REMEMBERED)
        self.child = supervised
        self.validation = Validation()
        self._is_taken_on = False  # what runs is of an earlier agent, and not recognised yet
        self._has_said_so = False  # that no Envoy can take over from another here
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
        if self.is_envoy and config.proxy.restart_drain_s and not facts.has_shared_memory:
            self._say_that_restarts_are_ordinary()

    def _say_that_restarts_are_ordinary(self) -> None:
        if not self._has_said_so:
            logger.warning(
                "each change of what Envoy runs with ends its connections: this host has no memory"
                " to share (/dev/shm)"
            )
        self._has_said_so = True

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
            case events.Heartbeat():
                self.look_for_binary()  # it may lie where nobody tells of changes
            case events.TimePassed():
                self._lead_to_admin()

    def take_on(self) -> None:
        """Take on what an earlier agent has started, or end what it has left."""
        if not (found := self.child.take_on()):
            return
        self._started, *others = map(builds.running, found)
        self._before = others[0] if others and self.child.child.is_handing_over else None
        self._is_taken_on = True

    def _recognise(self, built: builds.Build) -> None:
        """What was taken on may be what is asked for, and then it is as if we had started it."""
        if not self._is_taken_on:
            return
        launch, other = self.child.launched, self.child.other
        if launch is not None and self.child.is_like(built.spec):
            self._is_taken_on = False
            self._started = builds.of_program(built, launch.program)
            write = functools.partial(self._files.write, self._started)
            self.child.keep(self._started.spec, write)
        elif self._before is not None and other is not None:
            if specs.run_alike(other.spec, built.spec):
                self._before = builds.of_program(built, other.spec.program)

    def look_for_binary(self) -> None:
        """Find the program to run; what was validated before stays so if nothing differs."""
        if self._config is None:
            return
        self.kind, self.binary = self._find(self._config.proxy)
        if self.binary is None:
            self._desired = self._running_build(self._config)
            return
        desired = self._build(self._config, self.kind, self.binary)
        self._recognise(desired)
        self._is_overtaken = True
        if desired != self._desired or self.validation.check is validation.Check.BAD:
            self._desired = desired
            self._work.abandon(VALIDATION)
            self._upgrade.forget(VALIDATION)
            self.validation = validation.passed() if desired in self._good else Validation()

    def _running_build(self, config: model.Config) -> builds.Build | None:
        """What runs, if it is what `config` asks for although its program is gone."""
        if self._started is None or self.child.state is child.State.IDLE:
            return None
        program = self._started.spec.argv[0] if self._started.spec.argv else ""
        built = self._build(config, self.kind, program)
        self._recognise(built)
        is_same = builds.of_program(built, self._started.spec.program) == self._started
        return self._started if is_same else None

    def _build(self, config: model.Config, kind: model.ProxyKind, binary: str) -> builds.Build:
        assert self._facts is not None
        # What pilot-agent starts it with is its own matter.
        is_envoy = kind is model.ProxyKind.ENVOY
        program = self._files.fingerprint(binary) if is_envoy else ()
        return builds.build(config, self._facts, kind, binary, self._files.directory, program)

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
        known = (self._started, self._before, self._last_accepted, *self._passed)
        return tuple(built for built in known if built is not None)

    @property
    def is_envoy(self) -> bool:
        """Whether Envoy without pilot-agent is, or will be, the proxy of this host."""
        return self.kind is model.ProxyKind.ENVOY and self.binary is not None

    @property
    def must_show(self) -> bool:
        """Whether what it shows is all that tells that this host is in the mesh."""
        is_none = self._config is not None and self._config.redirection.is_none
        built = self.serving_build
        return is_none and built is not None and builds.shows_certificate(built)

    @property
    def is_outdated(self) -> bool:
        """Whether something else runs than what is desired."""
        return self.child.state is not child.State.IDLE and self._started != self._desired

    @property
    def is_upgrade(self) -> bool:
        """Whether what serves is what is desired but for the file at the path of its program."""
        served, desired = self.serving_build, self._desired
        if served is None or desired is None or self.child.state is child.State.IDLE:
            return False
        return builds.differ_in_program(served, desired)

    @property
    def is_elsewhere(self) -> bool:
        """Whether what runs does not listen where what is desired would."""
        launch, desired = self.child.launched, self._desired
        if launch is None or desired is None or not self.is_outdated:
            return False
        return not {*desired.spec.listens} <= {*launch.listens}

    @property
    def serving_build(self) -> builds.Build | None:
        """What serves, or may: while another one takes over it is the one before."""
        return self._before if self.child.child.is_handing_over else self._started

    @property
    def is_serving(self) -> bool:
        """Whether the proxy that is desired is ready, by whatever file it was started."""
        is_ready = self.child.state is child.State.READY
        if self.is_upgrade:
            return is_ready or self.child.child.is_handing_over
        return is_ready and not self.is_outdated

    def must_wait(self, config: model.Config) -> bool:
        """Whether what this wants could only be started as the third one."""
        return self.child.child.is_blocked and self.would_differ(config)

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
        if self._facts is None:
            return ""  # nobody has said which
        if self.binary is None:
            return _missing(self.kind, self.searched)
        if not self.last_error and not self.is_serving and self.child.refused:
            return f"proxy: Envoy {refusals.describe(self.child.refused)}"
        if not self.last_error:
            return ""
        if self.is_upgrade:
            return f"proxy: the new {self.binary} does not take over: {self.last_error}"
        return f"proxy: {self.last_error}"

    def code(self, _life: Life) -> str:
        """Whether it is not there, its bootstrap is no good, or it does not run."""
        if self.binary is None:
            return "proxy-missing"
        is_bad = self.validation.check is validation.Check.BAD
        return "bootstrap-invalid" if is_bad else ChildFailed.code

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        check = self.validation.check
        launch = self.child.launched
        # While it is being validated nothing is known of its bootstrap.
        shown = validation.Check.UNKNOWN if check is validation.Check.RUNNING else check
        return {
            "kind": self.kind.value,
            "binary": self.binary,
            "state": self.child.state.value,
            "bootstrap": shown.value,
            "pid": self.child.pid,
            "unit": self.child.unit,
            "closed_ports": list(self.child.rounds.closed_ports),
            "starts": self.child.starts,
            "epoch": launch.epoch if launch is not None else 0,
            "other": _describe_other(self.child),
            "restart": self._upgrade.kind_of_restart,
            "last_error": self.last_error,
        }

    @property
    def has_control_plane(self) -> bool:
        """Whether the proxy is one that is told what to do."""
        is_told = self._desired is not None and self._desired.spec.control_plane is not None
        return self.kind is model.ProxyKind.PILOT_AGENT or is_told

    @property
    def is_decided(self) -> bool:
        """Whether it is known which proxy this host has, if not whether it runs."""
        return self._desired is not None

    @property
    def control_plane(self) -> controlplane.ControlPlane:
        """What is known of its control plane, if it has one."""
        return self.child.rounds.control_plane

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
        desired, before = self._desired, self._before
        self._is_taken_on = False
        if before is not None and self._is_before(desired):
            self._started, self._before = before, None
            self.child.go_back(before.spec, functools.partial(self._files.write, before))
            return
        is_hot = self._started is not None and self._upgrade.may_succeed(desired.spec)
        if is_hot:
            self._before = self._started
        self._started = desired
        begin = self.child.succeed if is_hot else self.child.start
        begin(desired.spec, functools.partial(self._files.write, desired))

    def _is_before(self, built: builds.Build) -> bool:
        """Whether this is what serves while another one takes over, by whatever file."""
        before = self._before
        if before is None or self.child.child.other is not child.Other.SERVING:
            return False
        return builds.of_program(built, before.spec.program) == before

    def _lead_to_admin(self) -> None:
        """Let whoever looks for the admin interface find that of the one that serves."""
        serving = self.child.serving
        if serving is not None and serving.spec.name == specs.ENVOY:
            self._files.lead_to(specs.PLACES[serving.spec.slot])

    @property
    def started(self) -> builds.Build | None:
        """What was started last."""
        return self._started

    @property
    def resolver(self) -> tuple[str, ...] | None:
        """Arguments of the resolver of names that what runs needs beside it, if it does."""
        built = self.serving_build
        if built is None or self.child.state is child.State.IDLE:
            return None
        return built.resolver or None

    @property
    def is_known(self) -> bool:
        """Whether it is known what runs needs beside it: not yet of one that was taken on."""
        return not self._is_taken_on or self.child.state is child.State.IDLE

    @property
    def wants_resolver(self) -> bool:
        """Whether queries for names are answered beside what runs, as far as that is known."""
        return self.is_known and self.resolver is not None

    @property
    def has_unit(self) -> bool:
        """Whether what was started last may have a unit of its own."""
        return self._started is not None and self._started.spec.has_unit

    @property
    def answers_queries(self) -> bool:
        """Whether queries for names are answered here while this proxy runs."""
        return not self.is_envoy or bool(self._desired is not None and self._desired.resolver)

    @property
    def secret_sockets(self) -> tuple[str, ...]:
        """Of the servers that give their certificate to what is wanted, and to what runs."""
        is_running = self.child.state is not child.State.IDLE
        found = (self._desired, *((self._started, self.serving_build) if is_running else ()))
        return tuple(built.spec.secret_socket for built in found if built is not None)

    def load_again(self, count: int) -> None:
        """Make an Envoy that runs read the files of the certificate; `count`: another each time.

        Raises OSError. pilot-agent reads them by itself, and nobody can tell it to.
        """
        built = self.serving_build
        if built is not None and self._config is not None:
            output = self._config.identity.output_dir
            self._files.write(builds.respelled(built, output, count))

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
        self._upgrade.forget(CANDIDATE)

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
            ended = functools.partial(self._ended, task, built, before, done)
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
        task: str,
        built: builds.Build,
        before: Validation,
        done: Callable[[Validation], None],
        answer: Any,
    ) -> None:
        status, text = answer
        if status == 0:
            self._upgrade.compare(task, built.spec, functools.partial(self._pass, built, done))
        else:
            lines = text.decode(errors="replace").splitlines()
            program = built.spec.argv[0]
            error = processes.ended_badly(f"{program} --mode validate", status, lines)
            # A shortage of the machine has a remedy, and says nothing about the bootstrap.
            if validation.is_verdict(status) and not error.hint:
                extra = fields.of(CODE="bootstrap-invalid", DETAIL=str(error))
                logger.error("proxy refuses its bootstrap", extra=extra)
                done(validation.refused(str(error)))
            else:
                self._undecided(before, error, done)
        self._remove_others()

    def _pass(self, built: builds.Build, done: Callable[[Validation], None]) -> None:
        self._passed.append(built)
        done(validation.passed())

    def _undecided(
        self, before: Validation, error: HostAgentError, done: Callable[[Validation], None]
    ) -> None:
        now = self._clock.monotonic()
        found = validation.undecided(before, error.text, now)
        if found.failures & (found.failures - 1) == 0:
            logger.warning(
                "the proxy's bootstrap could not be validated; trying again",
                extra=fields.of(
                    CODE=error.code,
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


def _describe_other(supervised: supervisor.Supervisor) -> dict[str, Any] | None:
    """Of two that run side by side, the one that started first."""
    other = supervised.other
    if other is None:
        return None
    return {"state": supervised.child.other.value, "pid": other.pid, "unit": other.unit}


def _missing(kind: model.ProxyKind, places: Sequence[str]) -> str:
    """No program: where it was looked for, and how it comes there."""
    package = "istio-sidecar.deb of your Istio release"
    if kind is model.ProxyKind.PILOT_AGENT:
        remedy = f"install {package}, or name its directory with ISTIO_BIN_BASE"
    else:
        remedy = f"install Envoy, or {package}, or name it with ISTIO_HOSTAGENT_ENVOY"
    remedy += " in /etc/istio-hostagent/hostagent.env"
    return f"no {kind.value} found; searched {', '.join(places)} ({remedy})"
