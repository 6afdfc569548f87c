"""The proxy part of the agent: which program, is its bootstrap valid, does it run with it."""

import logging
import os

from ..config import model
from ..errors import ChildFailed, HostAgentError
from ..host import mailbox, ports, processes, proxyfiles
from ..supervise import child, specs
from . import events, fields, join, supervisor, tasks

logger = logging.getLogger(__name__)

VALIDATION = "validation"
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
        self._refusal: HostAgentError | None = None
        self.child = supervisor.Supervisor(inbox, clock)
        self.kind = model.ProxyKind.AUTO
        self.binary: str | None = None
        self.bootstrap = join.Check.UNKNOWN

    def configure(self, config: model.Config, facts: model.HostFacts) -> None:
        """Take a configuration; a running proxy is replaced once its new bootstrap is valid."""
        self._config = config
        self._files = proxyfiles.ProxyFiles(facts)
        self.look_for_binary()

    def look_for_binary(self) -> None:
        """Find the program to run; what was judged before stays so if nothing differs."""
        if self._config is None or self._files is None:
            return
        self.kind, self.binary = find_binary(self._config.proxy)
        if self.binary is None:
            return
        wanted = self._files.build(self._config, self.kind, self.binary)
        if wanted != self._wanted or self.bootstrap is join.Check.BAD:
            self._wanted = wanted
            # What runs has been judged.
            is_judged = wanted == self._started
            self.bootstrap = join.Check.GOOD if is_judged else join.Check.UNKNOWN
            self._refusal = None

    @property
    def searched(self) -> tuple[str, ...]:
        """The places where the program is looked for."""
        if self._config is None:
            return ()
        settings = self._config.proxy
        places = specs.binary_candidates(settings, self.kind.value)
        if settings.kind is model.ProxyKind.AUTO:
            places = (*specs.binary_candidates(settings, specs.PILOT_AGENT), *places)
        return places

    @property
    def is_validating(self) -> bool:
        """Whether the bootstrap is being judged."""
        return self._work.is_running(VALIDATION)

    def validate(self) -> None:
        """Write the bootstrap and let the proxy's own parser judge it."""
        assert self._config is not None and self._files is not None
        assert self.binary is not None and self._wanted is not None
        wanted = self._wanted
        try:
            self._files.write(wanted)
            self._files.remove_others((wanted, self._started or wanted))
            check = self._files.validation(self._config, wanted)
            if check is None:
                self._judged(wanted, (0, b""))
                return
            user = processes.User(check.user_uid, check.user_gid)
            run = processes.Run(check.argv, user=user, has_errors=True)
        except OSError as error:
            self._refused(ChildFailed(self.binary, f"cannot be validated: {error}"))
            return
        self._work.start_program(
            VALIDATION,
            run,
            timeout_s=VALIDATE_TIME_S,
            done=lambda answer: self._judged(wanted, answer),
        )

    def _judged(self, wanted: proxyfiles.Build, answer: object) -> None:
        if wanted is not self._wanted or not isinstance(answer, tuple):
            return  # asked about a configuration that is not wanted any more
        status, text = answer
        if status == 0:
            self.bootstrap = join.Check.GOOD
            self._refusal = None
            # Judged again with the outcome of before, what runs is not disturbed.
            if self.child.state is not child.State.IDLE and wanted != self._started:
                self._started = wanted
                self.child.start(wanted.spec)
            return
        lines = text.decode(errors="replace").splitlines()[-TAIL_LINES:]
        name = f"{self.binary} --mode validate"
        self._refused(ChildFailed(name, processes.outcome(status), lines))

    def _refused(self, error: ChildFailed) -> None:
        self.bootstrap = join.Check.BAD
        self._refusal = error
        logger.error("proxy refuses its bootstrap", extra=fields.of(DETAIL=str(error)))

    def start(self) -> None:
        """Start it with the bootstrap that was found valid."""
        assert self._wanted is not None
        self._started = self._wanted
        self.child.start(self._wanted.spec)

    def would_differ(self, config: model.Config) -> bool:
        """Whether another proxy, or one with another bootstrap, would run with `config`."""
        assert self._files is not None
        kind, binary = find_binary(config.proxy)
        if binary is None or self._wanted is None:
            return False
        return self._files.build(config, kind, binary) != self._wanted

    @property
    def trouble(self) -> str:
        """What is wrong with it, in one line, or nothing."""
        error = self._refusal or self.child.trouble
        return str(error) if error is not None else ""


def find_binary(settings: model.ProxySettings) -> tuple[model.ProxyKind, str | None]:
    """Which proxy this host runs, and its program: the first that is there, None if none is."""
    pilot = _first_program(specs.binary_candidates(settings, specs.PILOT_AGENT))
    if settings.kind is model.ProxyKind.PILOT_AGENT:
        return model.ProxyKind.PILOT_AGENT, pilot
    if settings.kind is model.ProxyKind.AUTO and pilot is not None:
        return model.ProxyKind.PILOT_AGENT, pilot
    envoy = _first_program(specs.binary_candidates(settings, specs.ENVOY))
    return model.ProxyKind.ENVOY, envoy


def _first_program(candidates: tuple[str, ...]) -> str | None:
    return next(
        (path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), None
    )
