"""The proxy part of the agent: which program, is its bootstrap valid, does it run with it."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import model
from ..errors import ChildFailed, HostAgentError, HostUnsupported
from ..host import mailbox, ports, processes, proxyfiles
from ..supervise import child, specs
from . import events, fields, join, programs, supervisor, tasks

logger = logging.getLogger(__name__)

VALIDATION = "validation"
JUDGEMENT = "judgement"
VALIDATE_TIME_S = 20.0
TAIL_LINES = 20
# What a shell says of a program that it could not run (POSIX, "Exit Status for Commands"): the
# check did not take place.
NOT_RUN = (126, 127)


@dataclass
class _Check:
    """A bootstrap that the proxy itself is asked about, until it has given its verdict."""

    spec: specs.ProcessSpec
    built: proxyfiles.Build
    done: Callable[[HostAgentError | None], None]
    failures: int = 0
    error: HostAgentError | None = None  # why the last try gave no verdict
    retry_at: float | None = None  # monotonic seconds; None: it is under way


class ProxyPart:
    """Finds the proxy, has its bootstrap judged, and keeps it running."""

    def __init__(
        self, inbox: mailbox.Mailbox[events.Event], work: tasks.Tasks, clock: ports.Clock
    ) -> None:
        """Start with nothing configured."""
        self._work = work
        self._config: model.Config | None = None
        self._files: proxyfiles.ProxyFiles | None = None
        self._wanted: proxyfiles.Build | None = None
        self._started: proxyfiles.Build | None = None
        self._served: proxyfiles.Build | None = None
        self._passed: proxyfiles.Build | None = None
        self._asked: proxyfiles.Build | None = None
        self._refusal: HostAgentError | None = None
        self._clock = clock
        self._checks: dict[str, _Check] = {}
        self.child = supervisor.Supervisor(inbox, clock)
        self.kind = model.ProxyKind.AUTO
        self.binary: str | None = None
        self.bootstrap = join.Check.UNKNOWN

    def configure(self, config: model.Config, facts: model.HostFacts) -> None:
        """Take a configuration; what runs goes on until it is started anew."""
        self._config = config
        self._files = proxyfiles.ProxyFiles(facts)
        self._wanted = None
        self.look_for_binary()

    def look_for_binary(self) -> None:
        """Find the program to run; what was judged before stays so if nothing differs."""
        if self._config is None or self._files is None:
            return
        self.kind, self.binary = self._find(self._config.proxy)
        if self.binary is None:
            self._wanted = self._running_build(self._config)
            return
        wanted = self._files.build(self._config, self.kind, self.binary)
        if wanted != self._wanted or self.bootstrap is join.Check.BAD:
            self._wanted = wanted
            is_judged = wanted in self._good
            self.bootstrap = join.Check.GOOD if is_judged else join.Check.UNKNOWN
            self._refusal = None
            self._forget_check(VALIDATION)

    def _running_build(self, config: model.Config) -> proxyfiles.Build | None:
        """What runs, if it is what `config` wants although its program is gone."""
        assert self._files is not None
        if self._started is None or self.child.state is child.State.IDLE:
            return None
        program = self._started.spec.argv[0]
        is_same = self._files.build(config, self.kind, program) == self._started
        return self._started if is_same else None

    def _find(self, settings: model.ProxySettings) -> tuple[model.ProxyKind, str | None]:
        # Who installs pilot-agent does not mean: replace the Envoy that serves, now.
        is_running = self.child.state is not child.State.IDLE
        served = self._served or self._started
        is_envoy = served is not None and served.spec.name == specs.ENVOY
        return programs.find(settings, is_envoy_kept=is_running and is_envoy)

    @property
    def _good(self) -> tuple[proxyfiles.Build, ...]:
        """What needs no judgement: it runs, has served, or has been judged already."""
        known = (self._started, self._served, self._passed)
        return tuple(built for built in known if built is not None)

    @property
    def is_outdated(self) -> bool:
        """Whether something else runs than what is wanted."""
        return self.child.state is not child.State.IDLE and self._started != self._wanted

    def remember(self) -> None:
        """What runs has worked: it may be started again without being judged."""
        self._served = self._started

    @property
    def searched(self) -> tuple[str, ...]:
        """The places where the program is looked for."""
        return programs.places(self._config.proxy, self.kind) if self._config is not None else ()

    @property
    def is_validating(self) -> bool:
        """Whether the bootstrap is being judged, or will be again after a pause."""
        return VALIDATION in self._checks

    @property
    def check_trouble(self) -> str:
        """Why another configuration could not be judged yet; it is tried again by itself."""
        check = self._checks.get(JUDGEMENT)
        return str(check.error) if check is not None and check.error is not None else ""

    @property
    def is_first_check(self) -> bool:
        """Whether a bootstrap is being judged that has not failed to be judged before."""
        return any(check.error is None for check in self._checks.values())

    def validate(self) -> None:
        """Let the proxy's own parser judge the bootstrap that is wanted."""
        assert self._config is not None and self._wanted is not None
        self._begin_check(
            VALIDATION, self._config, self._wanted, functools.partial(self._judged, self._wanted)
        )

    def deadline(self) -> float | None:
        """When `tick` has something to do (monotonic seconds)."""
        moments = [check.retry_at for check in self._checks.values() if check.retry_at is not None]
        moments += [moment] if (moment := self.child.deadline()) is not None else []
        return min(moments, default=None)

    def tick(self) -> None:
        """Try the checks again whose pause is over, and let the child's timers run out."""
        self.child.tick()
        now = self._clock.monotonic()
        for task, check in list(self._checks.items()):
            if check.retry_at is not None and now >= check.retry_at:
                check.retry_at = None
                self._run_check(task, check)

    def _judged(self, wanted: proxyfiles.Build, error: HostAgentError | None) -> None:
        if wanted is not self._wanted:
            return  # asked about a configuration that is not wanted any more
        self._refusal = error
        self.bootstrap = join.Check.BAD if error is not None else join.Check.GOOD
        if error is not None:
            logger.error("proxy refuses its bootstrap", extra=fields.of(DETAIL=str(error)))

    def judge(self, config: model.Config, done: Callable[[HostAgentError | None], None]) -> None:
        """Find out whether a proxy would take another configuration; nothing that runs changes.

        `done` gets the reason why not, or None; it may be called at once.
        """
        assert self._files is not None
        kind, binary = self._find(config.proxy)
        if binary is None:
            # Where no proxy is anyway, the operator may want just this: to capture less.
            places = ", ".join(programs.places(config.proxy, kind))
            missing = HostUnsupported(f"no {kind.value} found; searched {places}")
            is_there = self.binary is not None or self.child.state is not child.State.IDLE
            done(missing if is_there else None)
            return
        built = self._asked = self._files.build(config, kind, binary)
        if built == self._wanted or built in self._good:
            done(None)
        else:
            self._begin_check(JUDGEMENT, config, built, done)

    def stop_judging(self) -> None:
        """What `judge` was asked about is not of interest any more."""
        self._asked = None
        self._forget_check(JUDGEMENT)

    def _forget_check(self, task: str) -> None:
        self._checks.pop(task, None)
        self._work.abandon(task)

    def _begin_check(
        self,
        task: str,
        config: model.Config,
        built: proxyfiles.Build,
        done: Callable[[HostAgentError | None], None],
    ) -> None:
        """Let the proxy's own check judge `built`; `done` gets its verdict, now or later.

        pilot-agent has none, and its files are those that one that runs is reading: they are
        written when it is started.
        """
        assert self._files is not None
        spec = self._files.validation(config, built)
        if spec is None:
            self._passed = built
            done(None)
            return
        check = self._checks[task] = _Check(spec, built, done)
        self._run_check(task, check)

    def _run_check(self, task: str, check: "_Check") -> None:
        assert self._files is not None
        program = check.built.spec.argv[0]
        try:
            self._files.write(check.built)
            user = processes.User(check.spec.user_uid, check.spec.user_gid)
            run = processes.Run(check.spec.argv, user=user, has_errors=True)
        except OSError as error:
            self._try_later(task, check, ChildFailed(program, f"cannot be validated: {error}"))
            return
        ended = functools.partial(self._check_ended, task, check)
        self._work.start_program(task, run, timeout_s=VALIDATE_TIME_S, done=ended)

    def _check_ended(self, task: str, check: "_Check", answer: Any) -> None:
        """The exit status is the proxy's verdict; a check that gave none is tried again."""
        status, text = answer
        error = None
        if status != 0:
            lines = text.decode(errors="replace").splitlines()[-TAIL_LINES:]
            program = check.built.spec.argv[0]
            error = ChildFailed(f"{program} --mode validate", processes.outcome(status), lines)
            if status is None or status < 0 or status in NOT_RUN:
                self._try_later(task, check, error)
                return
        else:
            self._passed = check.built
        self._checks.pop(task, None)
        check.done(error)
        self._remove_others()

    def _try_later(self, task: str, check: "_Check", error: HostAgentError) -> None:
        check.failures += 1
        check.error = error
        pause = child.restart_delay(check.failures)
        check.retry_at = self._clock.monotonic() + pause
        if task == VALIDATION:
            self._refusal = error
        if check.failures & (check.failures - 1) == 0:
            logger.warning(
                "the proxy's bootstrap could not be validated; trying again",
                extra=fields.of(
                    DETAIL=str(error), FAILURES=check.failures, SECONDS=round(pause, 1)
                ),
            )

    def _remove_others(self) -> None:
        assert self._files is not None
        others = [built for built in (self._wanted, self._asked) if built is not None]
        try:
            self._files.remove_others((*self._good, *others))
        except OSError as error:
            logger.warning("files of a proxy not removed", extra=fields.of(DETAIL=str(error)))

    def start(self) -> None:
        """Start it with the bootstrap that was found valid."""
        assert self._wanted is not None and self._files is not None
        self._started = self._wanted
        self.child.start(self._wanted.spec, functools.partial(self._files.write, self._wanted))

    def would_differ(self, config: model.Config) -> bool:
        """Whether another proxy, or one with another bootstrap, would run with `config`."""
        assert self._files is not None
        kind, binary = self._find(config.proxy)
        if binary is None or self._wanted is None:
            return False
        return self._files.build(config, kind, binary) != self._wanted

    @property
    def trouble(self) -> str:
        """What is wrong with it, in one line, or nothing."""
        return str(self._refusal) if self._refusal is not None else self.child.trouble
