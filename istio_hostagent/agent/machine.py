"""The machine part of the agent: what this host is now, and when that has to be looked at again.

The one owner of `HostFacts`. The kernel tells that links, addresses or routes have changed; what
they are then is asked for once, a moment later, since such changes come in bursts. Who listens is
told by nobody, and is looked at with each reading of the files and at every heartbeat; so are
name servers, users and groups.
"""

import ipaddress
import logging
from collections.abc import Callable

from ..config import model
from ..host import ports, rtmonitor
from ..supervise import instance, upstream
from . import events, fields, part, places, statedir

logger = logging.getLogger(__name__)

# Changes come in bursts (DHCP, a link that comes up); more than one look in so long is of no use.
SETTLE_S = 0.1
LOOK_INTERVAL_S = 1.0
# A unit that starts or stops is looked for at once; where one does so all the time, so many times
# in so many seconds.
UNITS_LOOKS, UNITS_WINDOW_S = 6, 1.0
# Where the kernel tells of no starts, they are looked for this often.
UNTOLD_S = 5.0


class MachinePart(part.Part):
    """Keeps the facts of this host up to date."""

    def __init__(
        self,
        host: ports.Machine,
        groups: ports.Groups,
        facts: model.HostFacts,
        state: statedir.StateDirectory,
        clock: ports.Clock,
        count_starts: Callable[[], int],
    ) -> None:
        """Take what was found at the start, and which address an earlier agent registered.

        `count_starts`: how often a proxy has been started.
        """
        self._host = host
        self._groups = groups
        self._units = model.Units()
        self._units_at: float | None = None  # when they are to be looked at
        self._units_looks: tuple[float, ...] = ()  # when they were, the last few times
        self._untold = ""  # why nobody tells of them
        self._state = state
        self._clock = clock
        self._towards: model.Address | None = None
        self._looked_at = clock.monotonic()
        self._look_at: float | None = None
        self._changes = rtmonitor.Change(0)  # since the last look
        self._choice = instance.Choice(registered=self._read_registered(facts))
        self._saved = self._choice.registered
        self._forwards = False  # whether a proxy asks name servers for this host
        self._upstream = upstream.Upstream(facts.name_servers)
        self._count_starts = count_starts
        self._starts = 0  # of the proxy, when its servers were looked at last
        self._choose_at: float | None = None  # when the proxy may be told of other name servers
        self.facts = facts
        self.look()

    def _read_registered(self, facts: model.HostFacts) -> model.Address | None:
        text = self._state.read(places.ADDRESS)
        if text is not None:
            try:
                return ipaddress.ip_address(text.strip())
            except ValueError:
                return None
        if not self._state.has(places.MARKER):
            return None
        # Agents before this file took the lowest number; a joined host keeps its name in the mesh.
        of_v4 = [each for each in facts.addresses if each.version == 4]
        return min(of_v4 or facts.addresses, key=int, default=None)

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """The control plane is where this configuration says: the facts are those towards it."""
        self._forwards = config.redirection.dns.is_captured
        istiod = config.proxy.istiod
        address = config.proxy.discovery_address
        name = istiod.host if istiod else address.rpartition(":")[0].strip("[]")
        self._towards = self._host.find_address(name)
        self._units = config.redirection.owners.units
        self.look_for_units()
        self.look()

    def handle(self, event: events.Event) -> events.Event | None:
        """See what this host is now, when that may have changed; every other part is told."""
        match event:
            case events.MachineChanged(change):
                self.changed(change)
            case events.TimePassed() if self.is_due:
                moves_packets = self.moves_packets
                is_other = self.look()
                return events.MachineSeen(self.facts, moves_packets or is_other)
            case events.TimePassed() if self._is_choice_due:
                self.look_at_files()
                return events.MachineSeen(self.facts, moves_packets=False)
            case events.UnitsChanged():
                self._units_at = self._clock.monotonic()
                if len(self._units_looks) == UNITS_LOOKS:
                    self._units_at = max(self._units_at, self._units_looks[0] + UNITS_WINDOW_S)
            case events.TimePassed() if self._are_units_due:
                if self.look_for_units():
                    return events.MachineSeen(self.facts, moves_packets=False)
            case events.Heartbeat() | events.Reloading():
                is_other = self.look_at_files()
                is_other |= self.look_for_units()
                if self.look_for_sshd() or is_other:
                    return events.MachineSeen(self.facts, moves_packets=False)
        return None

    def changed(self, change: rtmonitor.Change) -> None:
        """Something in the network of this host has changed: look soon."""
        self._changes |= change
        if change and self._look_at is None:
            now = self._clock.monotonic()
            self._look_at = max(now + SETTLE_S, self._looked_at + LOOK_INTERVAL_S)

    def deadline(self) -> float | None:
        """When there is something to look at (monotonic seconds)."""
        due = (self._look_at, self._choose_at, self._units_at)
        return min((each for each in due if each is not None), default=None)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self._look_at is not None and self._clock.monotonic() >= self._look_at

    @property
    def _is_choice_due(self) -> bool:
        return self._choose_at is not None and self._clock.monotonic() >= self._choose_at

    @property
    def _are_units_due(self) -> bool:
        return self._units_at is not None and self._clock.monotonic() >= self._units_at

    @property
    def moves_packets(self) -> bool:
        """Whether packets may go other ways since the last look."""
        return bool(self._changes & ~rtmonitor.Change.ADDRESSES)

    def look(self) -> bool:
        """Ask the kernel; says whether the facts differ from before."""
        self._changes = rtmonitor.Change(0)
        now = self._looked_at = self._clock.monotonic()
        found = self._host.look_again(self.facts, self._towards)
        self._choice, self._look_at = instance.choose(
            self._choice, found.addresses, found.primary_address, now
        )
        return self._take(found._replace(primary_address=self._choice.address))

    def look_at_files(self) -> bool:
        """See which name servers, users and groups this host has now; whether they differ."""
        known = self.facts
        found = self._host.read_files_again(known)
        if found.name_servers != known.name_servers:
            detail = [str(each) for each in found.name_servers]
            logger.info("this host asks other name servers", extra=fields.of(DETAIL=detail))
        version = self._choose_version(known.name_servers, found.name_servers)
        return self._take(found._replace(resolver_version=version))

    def _choose_version(
        self, before: tuple[model.Address, ...], listed: tuple[model.Address, ...]
    ) -> int:
        """Give another version than the last once the proxy is to be started anew.

        `before`: what was listed until now, which one that was started meanwhile has read.
        """
        known = self._upstream
        if self._starts != (starts := self._count_starts()):
            known = upstream.started(known, before)
            self._starts = starts
        if not self._forwards:
            known = upstream.started(known, listed)
        now = self._clock.monotonic()
        self._upstream, self._choose_at = upstream.choose(known, listed, now)
        if self._upstream.version != known.version:
            logger.info(
                "a pilot-agent that runs is started anew: it reads resolv.conf only then",
                extra=fields.of(DETAIL=[str(each) for each in listed]),
            )
        return self._upstream.version

    def look_for_units(self) -> bool:
        """See which units are there now that make a difference; whether any does.

        Packets from here have to be captured, or nothing would be proven.
        """
        found = self._groups.follow(self._units, self.facts.own_group)
        now = self._clock.monotonic()
        self._units_looks = (*self._units_looks, now)[-UNITS_LOOKS:]
        self._units_at = None
        if self._groups.last_error:
            self._units_at = now + UNTOLD_S
        if self._groups.last_error not in ("", self._untold):
            logger.warning("%s", self._groups.last_error, extra=fields.of(SECONDS=UNTOLD_S))
        self._untold = self._groups.last_error
        return self._take(self.facts._replace(control_groups=found))

    def with_units(self, facts: model.HostFacts, units: model.Units) -> model.HostFacts:
        """Give facts with the groups that make a difference to these, maybe other, units."""
        return facts._replace(control_groups=self._groups.look(units, facts.own_group))

    def look_for_sshd(self) -> bool:
        """See whether sshd listens somewhere else as well: that port is left alone from now on.

        The one before stays so too: sshd may not have been restarted yet.
        """
        known = self.facts.ssh_ports
        if not (added := set(self._host.probe_ssh_ports()).difference(known)):
            return False
        logger.info("sshd has another port", extra=fields.of(DETAIL=sorted(added)))
        ssh_ports = tuple(sorted(added.union(known)))
        return self._take(self.facts._replace(ssh_ports=ssh_ports))

    def _take(self, found: model.HostFacts) -> bool:
        before, self.facts = self.facts, found
        if found.primary_address != before.primary_address and before.primary_address is not None:
            logger.info(
                "the mesh is to know this host by another address",
                extra=fields.of(DETAIL=f"{found.primary_address}, was {before.primary_address}"),
            )
        return found != before

    def register(self) -> None:
        """A proxy is ready: the control plane knows the address that it was started with."""
        self._choice = self._choice.register()
        registered = self._choice.registered
        if registered is None or registered == self._saved:
            return
        if not self._state.write(places.ADDRESS, f"{registered}\n"):
            self._saved = registered
