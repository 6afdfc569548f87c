"""The holding part of the agent: keeps the capture ports from everybody but the proxy.

What is to be held, and when it is tried, is decided in `lifecycle`. A port that somebody else has
is named with address, user and program; a worker finds these out, a moment later.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from ..config import model
from ..errors import HostAgentError, KernelBusy, PortTaken
from ..host import ports
from ..host.answers import port_owner
from ..lifecycle import holding as states
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..lifecycle.steps import Step
from . import events, fields, part, tasks

logger = logging.getLogger(__name__)

WORKER = "port_owner"
WORKER_TIMEOUT_S = 5.0


class HoldingPart(part.Part):
    """Holds ports, and gives their sockets to the service manager, which keeps them over restarts.

    A manager that keeps none makes no difference: they then end with this process.
    """

    def __init__(
        self,
        held: ports.HeldPorts,
        notifier: ports.Notifier,
        work: tasks.Tasks,
        clock: ports.Clock,
    ) -> None:
        """Begin with what an earlier agent has held."""
        self._ports = held
        self._notifier = notifier
        self._work = work
        self._clock = clock
        self._taken: PortTaken | None = None
        self._owner: port_owner.PortOwner | None = None  # of what is taken
        self._code = ""  # of why a port is not held
        self.value = states.Holding(held=held.ports)
        for name in held.useless:
            notifier.forget(name)

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """To hold what is desired."""
        return {Step.HOLD: part.silently(self.hold)}

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take where what is captured is to arrive."""
        wanted = frozenset(config.redirection.capture_ports)
        self.value = states.desire(self.value, wanted)

    def handle(self, event: events.Event) -> None:
        """With each reading of the files, also one that somebody asks for, it is tried again."""
        if isinstance(event, events.Reloading):
            self.value = states.retry(self.value)

    def hold(self) -> None:
        """Hold what is desired, as far as nobody else has it."""
        before = self.value.last_error
        error: HostAgentError | None = None
        for port in sorted(self.value.desired - self._ports.ports):
            try:
                self._hold(port)
            except HostAgentError as found:
                error = error or found
        held = self._ports.ports
        if error is None:
            self.value = states.holds(self.value, held)
            self._taken = self._owner = None
            return
        self.value = states.failed(self.value, held, error.text, self._clock.monotonic())
        self._code = error.code
        self._look_for_owner(error)
        if error.text != before:
            logger.error(
                "capture port not held: %s",
                error.message,
                extra=fields.of(CODE=error.code, HINT=error.hint),
            )

    def find_listening(self, port: int) -> bool | None:
        """Whether the proxy's user, and nobody else, listens there now; None: no telling."""
        return self._ports.find_listening(port)

    def is_in_use(self) -> bool:
        """Whether anything is under way at the ports that are desired."""
        return any(map(self._ports.is_in_use, self.value.desired))

    def _hold(self, port: int) -> None:
        """Hold one port; raises HostAgentError with nothing held."""
        made = self._ports.hold(port)
        try:
            for name, descriptor in made.items():
                self._notifier.store(name, descriptor)
        except OSError as error:
            self._let_go(port)
            reason = f"the service manager did not take its socket: {error.strerror}"
            raise KernelBusy(f"port {port} cannot be held: {reason}") from error

    def let_go(self, *, all_of_them: bool) -> None:
        """Hold what is not desired no longer, or nothing at all."""
        for port in sorted(self.value.held if all_of_them else self.value.others):
            self._let_go(port)
        self.value = states.let_go(self.value, self._ports.ports)

    def _let_go(self, port: int) -> None:
        for name in self._ports.let_go(port):
            self._notifier.forget(name)

    def _look_for_owner(self, error: HostAgentError) -> None:
        if not isinstance(error, PortTaken):
            self._taken = self._owner = None
            return
        if self._taken is not None and self._taken.inode == error.inode and self._owner:
            return  # it is known already
        self._taken, self._owner = error, None
        if error.uid is None:
            return
        self._work.start_worker(
            WORKER,
            {"uid": error.uid, "inode": error.inode},
            user=None,
            timeout_s=WORKER_TIMEOUT_S,
            done=functools.partial(self._owner_found, error),
        )

    def _owner_found(
        self, taken: PortTaken, answer: port_owner.PortOwner | HostAgentError
    ) -> None:
        if taken is self._taken and not isinstance(answer, HostAgentError):
            self._owner = answer
            logger.error(
                "port %d is taken", taken.port, extra=fields.of(CODE=taken.code, CULPRIT=self._who)
            )

    @property
    def _who(self) -> str:
        """Who has what is taken, as far as that is known."""
        taken, owner = self._taken, self._owner
        if taken is None or taken.uid is None:
            return ""
        user = f"user {owner.user} ({taken.uid})" if owner and owner.user else f"user {taken.uid}"
        if owner is None or not owner.pid:
            return f"a program of {user}"
        return f"{owner.program} (pid {owner.pid}) of {user}"

    def _last_error(self, life: Life) -> str:
        """Why a port is not held and what to do about it, or nothing."""
        taken = self._taken
        if not self.value.last_error or taken is None or not self._who:
            return self.value.last_error
        place = f"[{taken.address}]" if ":" in taken.address else taken.address
        what = "captured connections fail until it is the proxy's"
        what = what if life.is_joined else "nothing is captured until it is the proxy's"
        mend = f"end that program (ss -ltnp sport = :{taken.port} shows it)"
        whose = f"taken by {self._who}"
        if taken.is_client:
            mend, whose = taken.hint, f"the client's port of a connection of {self._who}"
        return (
            f"port {taken.port} is {whose} at {place}:{taken.port}; {what}: {mend}, it is tried"
            " again by itself"
        )

    def obstacle(self, life: Life) -> str:
        """Which port is taken, and by whom."""
        return self._last_error(life) if life.in_force is not None else ""

    def code(self, _life: Life) -> str:
        """That it is taken, or why it cannot be held."""
        return self._code

    def status(self, life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        taken, owner = self._taken, self._owner
        by = None
        if taken is not None and self.value.last_error:
            by = {
                "port": taken.port,
                "address": taken.address or None,
                "uid": taken.uid,
                "user": (owner.user if owner else "") or None,
                "pid": (owner.pid if owner else 0) or None,
                "program": (owner.program if owner else "") or None,
            }
        is_held = self.value.is_held and bool(self.value.held)
        return {
            "state": "held" if is_held else "taken" if by else "free",
            "ports": sorted(self.value.held),
            "taken_by": by,
            "last_error": self.obstacle(life),
        }
