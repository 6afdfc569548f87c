"""The catalogue part of the agent: destinations that are captured because a service is there.

A worker of istio-proxy's waits at Consul's agent until the catalogue changes, and tells which
addresses its services have. What was known last is written down, and counts until there is
something newer: also over a start, and while Consul is away. None of these addresses is one that
somebody has named (design invariant 2): those of metadata services, of loopback and link-local
ones are left out.
"""

import ipaddress
import json
import logging
from typing import Any, NamedTuple

from ..config import model, services
from ..errors import HostAgentError
from ..host import ports, processes
from ..host.answers import catalogue as answers
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..redirect import exemptions, ranges
from . import events, fields, part, places, statedir, tasks

logger = logging.getLogger(__name__)

WORKER = "catalogue"
WAIT_S = 300.0
# Consul adds a sixteenth of it by chance, and an answer takes its time.
TIMEOUT_S = WAIT_S + WAIT_S / 16 + 40.0
# Between two answers: a catalogue that always changes costs a worker so often.
LEAST_PAUSE_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 120.0


class Wanted(NamedTuple):
    """Whose addresses, and from whom; `is_all`: those of every service."""

    is_all: bool = False
    names: tuple[str, ...] = ()
    access: services.Access = services.Access()

    def __bool__(self) -> bool:
        """Whether the catalogue is read at all."""
        return self.is_all or bool(self.names)

    @property
    def key(self) -> str:
        """What the addresses of one answer belong to, as it is written down beside them."""
        return json.dumps("*" if self.is_all else sorted(self.names))

    def covers(self, key: str) -> bool:
        """Whether what has this key is wanted, or some of it that cannot be told from the rest."""
        try:
            names = json.loads(key)
        except ValueError:
            return False
        return self.is_all or (isinstance(names, list) and not set(self.names).isdisjoint(names))


class CataloguePart(part.Part):
    """Knows where services are, as far as that decides what is captured."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        state: statedir.StateDirectory,
        facts: model.HostFacts,
    ) -> None:
        """Start with what an earlier agent has written down."""
        self._work = work
        self._clock = clock
        self._state = state
        self._user = processes.User(facts.proxy_uid, facts.proxy_gid)
        self._wanted = Wanted()
        self._known_for, self._known = _read_known(state.read(places.CATALOGUE))
        self._version = 0
        self._is_asking = False
        self._has_answered = False
        self._ask_at = 0.0
        self._failures = 0
        self.last_error = self.last_code = ""

    @property
    def destinations(self) -> tuple[model.Address, ...]:
        """What is captured for the services that are wanted, ascending."""
        is_known = self._wanted and self._wanted.covers(self._known_for)
        return self._known if is_known else ()

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take whose addresses are wanted."""
        wanted = Wanted(
            config.registry.captures_all, config.registry.captured, config.registry.access
        )
        if wanted == self._wanted:
            return
        self._work.abandon(WORKER)
        self._wanted, self._version, self._is_asking = wanted, 0, False
        self._has_answered, self._ask_at, self._failures, self.last_error = False, 0.0, 0, ""

    def handle(self, event: events.Event) -> events.Event | None:
        """Ask anew when it is time; the others are told of other destinations."""
        match event:
            case events.Reloading(is_asked=True) if not self._is_asking:
                self._ask_at = 0.0
            case events.TaskEnded(name) if name == WORKER:
                # The task before this one in the order of parts has taken its answer.
                return events.DestinationsChanged()
            case events.TimePassed():
                self._look()
        return None

    def deadline(self) -> float | None:
        """When Consul is asked again (monotonic seconds)."""
        return None if self._is_asking or not self._wanted else self._ask_at

    def _look(self) -> None:
        if self._is_asking or not self._wanted or self._clock.monotonic() < self._ask_at:
            return
        self._is_asking = True
        # The first answer comes at once, the others when something changes.
        request = {
            "access": self._wanted.access._asdict(),
            "names": [] if self._wanted.is_all else list(self._wanted.names),
            "version": self._version,
            "wait_s": WAIT_S,
        }
        self._work.start_worker(
            WORKER, request, user=self._user, timeout_s=TIMEOUT_S, done=self._done
        )

    def _done(self, answer: answers.Catalogue | HostAgentError) -> None:
        self._is_asking = False
        error = ""
        if isinstance(answer, HostAgentError):
            error, self.last_code = answer.text, answer.code
        elif answer.error is not None:
            hint = f" ({answer.error.hint})" if answer.error.hint else ""
            error, self.last_code = f"{answer.error.message}{hint}", answer.error.code
        now = self._clock.monotonic()
        if isinstance(answer, HostAgentError) or answer.error is not None:
            self._version = 0
            pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_S)
            self._failures += 1
            self._ask_at = now + pause_s
            if error != self.last_error:
                extra = fields.of(CODE=self.last_code, DETAIL=error)
                logger.warning("what is captured by the catalogue stays as it is", extra=extra)
            self.last_error = error
            return
        self.last_error, self._failures = "", 0
        self._has_answered = True
        self._version, self._ask_at = answer.version, now + LEAST_PAUSE_S
        self._take(tuple(sorted(filter(_may_be_derived, answer.addresses), key=_order)))

    def _take(self, found: tuple[model.Address, ...]) -> None:
        if (found, self._wanted.key) == (self._known, self._known_for):
            return
        added, gone = set(found) - set(self._known), set(self._known) - set(found)
        detail = [f"+{each}" for each in sorted(added, key=_order)]
        detail += [f"-{each}" for each in sorted(gone, key=_order)]
        if detail:
            logger.info("services are at other addresses", extra=fields.of(DETAIL=detail[:100]))
        self._known, self._known_for = found, self._wanted.key
        lines = [self._known_for, *map(str, found)]
        self._state.write(places.CATALOGUE, "".join(f"{each}\n" for each in lines))

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        state = "known" if self._has_answered else "pending"
        if not self._wanted:
            state = "none"
        elif self.last_error:
            state = "failed"
        return {
            "state": state,
            "destinations": [str(each) for each in self.destinations],
            "failures": self._failures,
            "last_error": self.last_error,
        }


def _order(address: model.Address) -> tuple[int, int]:
    return address.version, int(address)


def _may_be_derived(address: model.Address) -> bool:
    """Whether it may be captured without having been named."""
    never = exemptions.NEVER_V4 if address.version == 4 else exemptions.NEVER_V6
    return not ranges.contains(never, int(address))


def _read_known(text: str | None) -> tuple[str, tuple[model.Address, ...]]:
    """For what, and the addresses."""
    key, _, lines = (text or "").partition("\n")
    try:
        found = [ipaddress.ip_address(line) for line in lines.split()]
    except ValueError:
        return "", ()
    return key, tuple(sorted(filter(_may_be_derived, found), key=_order))
