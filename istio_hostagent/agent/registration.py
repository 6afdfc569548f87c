"""The registration part of the agent: services of this host in a registry while it is joined.

They are registered once this host is in the mesh for the first time. From then on the registry is
told when it is not, and when it is again; besides, it asks the proxy itself whether it is ready,
which goes on when nobody is here any more. What was registered is written down before it is, so
that a later start knows what to take away. Told to stop, the agent waits a moment for the
registry, before the rules go. Nothing else waits for it: what has failed is tried again.
"""

import ipaddress
import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from ..config import model, services
from ..errors import HostAgentError
from ..host import ports, processes
from ..host.answers import registration as answers
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from . import events, fields, part, places, statedir, tasks

logger = logging.getLogger(__name__)

WORKER = "registration"
TIMEOUT_S = 20.0
_SPARE_S = 5.0  # for the worker to begin and to end
# So long a stop waits for the registry.
LEAVE_TIME_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
# What is registered is looked at so often: an agent of Consul may have lost what it knew.
RECHECK_S = 300.0
# What is over again so soon, as while rules are replaced, is told to nobody.
PATIENCE_S = 3.0
TROUBLE = "this host is not in the mesh (istio-hostagent status says why)"


class Standing(NamedTuple):
    """How this host stands to the mesh."""

    is_joined: bool = False
    is_whole: bool = False


class Subject(NamedTuple):
    """What the registry is to have; without services: nothing of this host."""

    of: tuple[services.Registration, ...] = ()
    access: services.Access = services.Access()
    is_well: bool = True

    @property
    def ids(self) -> tuple[str, ...]:
        """Of every instance."""
        return tuple(each.find_id(port) for each in self.of for port in each.ports)


NOTHING = Subject()


class RegistrationPart(part.Part):
    """Keeps the registry as it is to be, and knows what became of that."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        state: statedir.StateDirectory,
        facts: model.HostFacts,
        find_standing: Callable[[], Standing],
    ) -> None:
        """Take what an earlier agent has written down."""
        self._work = work
        self._clock = clock
        self._state = state
        self._facts = facts
        self._find_standing = find_standing
        self._user = processes.User(facts.proxy_uid, facts.proxy_gid)
        self._config: model.Config | None = None
        self._recorded = _read_record(state.read(places.REGISTERED))
        self._subject: Subject | None = None  # of the last attempt; None: it is not known
        self._instances: tuple[answers.Instance, ...] = ()
        self._is_asking = False
        self._is_looking = False  # ... whether what was registered is still there
        self._is_leaving = False
        self._failures = 0
        self._retry_at: float | None = None
        self._unwell_at: float | None = None  # when the registry is told, unless it is over then
        self.last_error = self.last_code = ""

    def configure(self, config: model.Config, facts: model.HostFacts) -> None:
        """Take the services that are wanted."""
        self._config, self._facts = config, facts

    def handle(self, event: events.Event) -> None:
        """See how this host stands now, and try again what is due."""
        match event:
            case events.MachineSeen(facts):
                self._facts = facts
            case events.Reloading(is_asked=True):
                self._subject = None
            case events.TimePassed():
                self._look()

    def deadline(self) -> float | None:
        """When there is something to ask for (monotonic seconds)."""
        if self._is_asking or self._is_leaving or self._config is None:
            return None
        if (wanted := self._wanted()) != self._subject:
            return self._clock.monotonic()
        moments = (self._retry_at, self._unwell_at if wanted.is_well else None)
        return min((each for each in moments if each is not None), default=None)

    @property
    def is_leaving(self) -> bool:
        """Whether the registry is still asked to forget this host."""
        return self._is_leaving and self._is_asking

    def leave(self) -> None:
        """Take this host out of the registry; `is_leaving` until that has ended."""
        self._is_leaving, self._is_looking = True, False
        self._work.abandon(WORKER)
        self._is_asking = False
        if self._recorded.ids:
            self._withdraw(self._recorded)

    def _wanted(self) -> Subject:
        config = self._config
        if config is None or not config.registry.services:
            return NOTHING
        own = self._facts.primary_address or next(iter(self._facts.addresses), None)
        address = config.proxy.instance_ip or own
        standing = self._find_standing()
        has_begun = standing.is_whole or bool(self._recorded.ids)
        if address is None or not (standing.is_joined and has_begun):
            return NOTHING
        host = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)
        check = f"http://{host}:{config.proxy.status_port}/healthz/ready"
        found = (
            each._replace(
                address=str(address), account=config.identity.service_account, check=check
            )
            for each in config.registry.services
        )
        return Subject(tuple(found), config.registry.access, self._is_well(standing))

    def _is_well(self, standing: Standing) -> bool:
        now = self._clock.monotonic()
        if standing.is_whole:
            self._unwell_at = None
        elif self._unwell_at is None:
            self._unwell_at = now + PATIENCE_S
        return self._unwell_at is None or now < self._unwell_at

    def _look(self) -> None:
        if self._is_asking or self._is_leaving or self._config is None:
            return
        wanted = self._wanted()
        is_due = self._retry_at is not None and self._clock.monotonic() >= self._retry_at
        if wanted == self._subject and not is_due:
            return
        self._is_looking = wanted == self._subject and not self.last_error
        if wanted != self._subject:
            self._failures = 0
        self._subject, self._retry_at = wanted, None
        recorded = self._recorded
        has_moved = recorded.access.address != wanted.access.address
        if recorded.ids and (not wanted.of or has_moved):
            # Another registry is asked after the one before has forgotten this host.
            self._withdraw(recorded)
        elif wanted.of:
            self._keep(wanted)
        else:
            self._settle("")

    def _keep(self, wanted: Subject) -> None:
        known = (*dict.fromkeys((*self._recorded.ids, *wanted.ids)),)
        if error := self._write(Record(wanted.access, known)):
            self._settle(error)
            return
        gone = [each for each in self._recorded.ids if each not in wanted.ids]
        request = {
            "action": "keep",
            "services": [each._asdict() for each in wanted.of],
            "trouble": "" if wanted.is_well else TROUBLE,
            "gone": gone,
        }

        def kept(found: answers.Registered) -> None:
            if set(found.instances) - set(self._instances):
                detail = [f"{each.id}: {each.outcome}" for each in found.instances]
                logger.info("services registered", extra=fields.of(DETAIL=detail))
            self._instances = found.instances
            self._settle(self._write(Record(wanted.access, wanted.ids)))

        self._ask(wanted.access, request, TIMEOUT_S, kept)

    def _withdraw(self, recorded: "Record") -> None:
        request = {"action": "withdraw", "gone": list(recorded.ids)}
        access = recorded.access
        if self._config is not None and self._config.registry.access.address == access.address:
            access = self._config.registry.access  # a token may be new

        def withdrawn(_found: answers.Registered) -> None:
            self._instances = ()
            logger.info("services deregistered", extra=fields.of(DETAIL=list(recorded.ids)))
            self._settle(self._write(Record(recorded.access)))
            if not self.last_error:
                self._subject = None  # there may be something to register elsewhere

        timeout_s = LEAVE_TIME_S - 1.0 if self._is_leaving else TIMEOUT_S
        self._ask(access, request, timeout_s, withdrawn)

    def _ask(
        self,
        access: services.Access,
        request: dict[str, Any],
        timeout_s: float,
        then: Callable[[answers.Registered], None],
    ) -> None:
        self._is_asking = True

        def done(answer: answers.Registered | HostAgentError) -> None:
            self._is_asking = False
            if isinstance(answer, HostAgentError):
                self._settle(answer.text, answer.code)
            elif answer.error is not None:
                hint = f" ({answer.error.hint})" if answer.error.hint else ""
                self._settle(f"{answer.error.message}{hint}", answer.error.code)
            else:
                then(answer)

        common = {"access": access._asdict(), "user": None, "timeout_s": timeout_s}
        self._work.start_worker(
            WORKER,
            common | request,
            user=self._user,
            timeout_s=timeout_s + _SPARE_S,
            done=done,
        )

    def _settle(self, error: str, code: str = "") -> None:
        before, self.last_error = self.last_error, error
        self.last_code = code or "not-saved"
        if not error:
            self._failures = 0
            if self._recorded.ids:
                self._retry_at = self._clock.monotonic() + RECHECK_S
            return
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_S)
        self._failures += 1
        self._retry_at = self._clock.monotonic() + pause_s
        if error != before:
            extra = fields.of(CODE=self.last_code, DETAIL=error)
            logger.warning("the registry of services is not up to date", extra=extra)

    def _write(self, record: "Record") -> str:
        if record == self._recorded:
            return ""
        if record.ids:
            error = self._state.write(places.REGISTERED, _render_record(record))
        else:
            error = self._state.remove(places.REGISTERED)
        if not error:
            self._recorded = record
        return error

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        is_wanted = self._config is not None and bool(self._config.registry.services)
        state = "registered" if self._instances else "none"
        if self.last_error:
            state = "failed"
        elif (self._is_asking and not self._is_looking) or (is_wanted and not self._instances):
            state = "pending"
        return {
            "state": state,
            "instances": [each._asdict() for each in self._instances],
            "failures": self._failures,
            "last_error": self.last_error,
        }


class Record(NamedTuple):
    """What this host may have in which registry, as it is written down."""

    access: services.Access = services.Access()
    ids: tuple[str, ...] = ()


def _render_record(record: Record) -> str:
    # No token is in it: the agent knows one by its file alone.
    return json.dumps({"access": record.access._asdict(), "ids": record.ids})


def _read_record(text: str | None) -> Record:
    if text is None:
        return Record()
    try:
        found = json.loads(text)
        return Record(services.Access(**found["access"]), tuple(map(str, found["ids"])))
    except (ValueError, TypeError, KeyError) as error:
        logger.warning(
            "what an earlier agent has registered cannot be read, so nobody takes it away",
            extra=fields.of(FILE=places.REGISTERED, DETAIL=f"{type(error).__name__}: {error}"),
        )
        return Record()
