"""The machine part of the agent: what this host is now, and when that has to be looked at again.

The one owner of `HostFacts`. The kernel tells that links, addresses or routes have changed; what
they are then is asked for once, a moment later, since such changes come in bursts. Who listens is
told by nobody, and is looked at with each reading of the files and at every heartbeat; so are
name servers, users and groups.
"""

import ipaddress
import logging

from ..config import model
from ..host import ports, rtmonitor
from ..supervise import instance, upstream
from . import events, fields, part, places, statedir

logger = logging.getLogger(__name__)

# Changes come in bursts (DHCP, a link that comes up); more than one look in so long is of no use.
SETTLE_S = 0.1
LOOK_INTERVAL_S = 1.0


class MachinePart(part.Part):
    """Keeps the facts of this host up to date."""

    def __init__(
        self,
        host: ports.Machine,
        facts: model.HostFacts,
        state: statedir.StateDirectory,
        clock: ports.Clock,
    ) -> None:
        """Take what was found at the start, and which address an earlier agent registered."""
        self._host = host
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
        self._choose_at: float | None = None  # when the proxy may be told of other name servers
        self.facts = facts._replace(proxy_servers=facts.name_servers)
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
        name = config.proxy.discovery_address.rpartition(":")[0].strip("[]")
        self._towards = self._host.find_address(name)
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
            case events.Heartbeat() | events.Reloading():
                is_other = self.look_at_files()
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
        due = (each for each in (self._look_at, self._choose_at) if each is not None)
        return min(due, default=None)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self._look_at is not None and self._clock.monotonic() >= self._look_at

    @property
    def _is_choice_due(self) -> bool:
        return self._choose_at is not None and self._clock.monotonic() >= self._choose_at

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
        return self._take(found._replace(proxy_servers=self._choose_servers(found.name_servers)))

    def _choose_servers(self, listed: tuple[model.Address, ...]) -> tuple[model.Address, ...]:
        """Give those with which the proxy is to be started: a change of them starts it anew."""
        before = self._upstream
        if not self._forwards:
            before = upstream.Upstream(listed)
        now = self._clock.monotonic()
        self._upstream, self._choose_at = upstream.choose(before, listed, now)
        if self._upstream.servers != before.servers:
            logger.info(
                "a pilot-agent that runs is started anew: it reads resolv.conf only then",
                extra=fields.of(DETAIL=[str(each) for each in listed]),
            )
        return self._upstream.servers

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
