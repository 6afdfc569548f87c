"""The facts of a host that come and go, in memory."""

import ipaddress

from istio_hostagent.config import model


class FakePredecessors:
    """The units of another Istio agent; `held`: an earlier agent has left connections held.

    `lacks_port`: it does not listen at every port to which our rules lead.
    """

    units = ("istio.service", "istio-auth-node-agent.service")

    def __init__(self) -> None:
        self.running: tuple[str, ...] = ()
        self.held = False
        self.lacks_port = False
        self.recorded: tuple[str, ...] = ()

    def find_recorded(self) -> tuple[str, ...]:
        return self.recorded

    def find_running(self) -> tuple[str, ...]:
        return self.running

    def is_held(self) -> bool:
        return self.held


class FakeMachine:
    """`facts` is what this host is now."""

    def __init__(self, facts: model.HostFacts) -> None:
        self.facts = facts

    def look_again(
        self, known: model.HostFacts, towards: model.Address | None = None
    ) -> model.HostFacts:
        return known._replace(
            addresses=self.facts.addresses,
            primary_address=next(iter(self.facts.addresses), None),
            has_ipv6=self.facts.has_ipv6,
            knows_ipv6=self.facts.knows_ipv6,
            filtered_bridges=self.facts.filtered_bridges,
        )

    def read_files_again(self, known: model.HostFacts) -> model.HostFacts:
        return known._replace(
            users=self.facts.users or known.users,
            groups=self.facts.groups or known.groups,
            name_servers=self.facts.name_servers or known.name_servers,
            asks_resolved=self.facts.asks_resolved,
            filtered_bridges=self.facts.filtered_bridges,
        )

    def probe_ssh_ports(self) -> tuple[int, ...]:
        return self.facts.ssh_ports

    def find_address(self, host: str) -> model.Address | None:
        try:
            return ipaddress.ip_address(host)
        except ValueError:
            return None
