"""The proxy part of the agent: which program, is its bootstrap valid, does it run with it."""

import functools
import logging
from collections.abc import Callable
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
        """Whether the bootstrap is being judged."""
        return self._work.is_running(VALIDATION)

    def validate(self) -> None:
        """Let the proxy's own parser judge the bootstrap that is wanted."""
        assert self._config is not None and self._wanted is not None
        self._check(
            VALIDATION, self._config, self._wanted, functools.partial(self._judged, self._wanted)
        )

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
            self._check(JUDGEMENT, config, built, done)

    def stop_judging(self) -> None:
        """What `judge` was asked about is not of interest any more."""
        self._asked = None
        self._work.abandon(JUDGEMENT)

    def _check(
        self,
        task: str,
        config: model.Config,
        built: proxyfiles.Build,
        done: Callable[[HostAgentError | None], None],
    ) -> None:
        """Write the files and run the proxy's own check, if it has one.

        pilot-agent has none, and its files are those that one that runs is reading: they are
        written when it is started.
        """
        assert self._files is not None
        program = built.spec.argv[0]

        def ended(answer: Any) -> None:
            status, text = answer
            if status == 0:
                self._passed = built
                done(None)
            else:
                lines = text.decode(errors="replace").splitlines()[-TAIL_LINES:]
                outcome = processes.outcome(status)
                done(ChildFailed(f"{program} --mode validate", outcome, lines))
            self._remove_others()

        check = self._files.validation(config, built)
        if check is None:
            self._passed = built
            done(None)
            return
        try:
            self._files.write(built)
            user = processes.User(check.user_uid, check.user_gid)
            run = processes.Run(check.argv, user=user, has_errors=True)
        except OSError as error:
            done(ChildFailed(program, f"cannot be validated: {error}"))
            return
        self._work.start_program(task, run, timeout_s=VALIDATE_TIME_S, done=ended)

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
        try:
            self._files.write(self._wanted)
        except OSError as error:
            program = self._wanted.spec.argv[0]
            self._judged(self._wanted, ChildFailed(program, f"cannot be started: {error}"))
            return
        self._started = self._wanted
        self.child.start(self._wanted.spec)

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
        error = self._refusal or self.child.trouble
        return str(error) if error is not None else ""
