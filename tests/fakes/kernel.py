"""A packet filter in memory that keeps the promises of `host.ports.Kernel`.

It holds what was applied, can be told to refuse, and can be changed behind the agent's back. It
counts transactions, so that a test can say that nothing was touched.
"""

import errno
import itertools
from collections.abc import Callable, Sequence

from istio_hostagent.errors import ApplyRejected, HostAgentError, NotPermitted
from istio_hostagent.redirect import model, units


class FakeNamespace:
    """The tables and addresses of one network namespace, which outlive who made them."""

    def __init__(self) -> None:
        self.tables: dict[str, model.TableState] = {}  # without owners
        self.owners: dict[str, int] = {}  # of the tables that have one: the number of its socket
        self.addresses: tuple[str, ...] = ()
        self.routing: tuple[model.Routing, ...] = ()
        self.transactions = 0
        self.has_groups = True  # the kernel can compare control groups
        self.refusals: list[HostAgentError] = []  # raised by the next calls of `apply`, in order
        self.refusal: Callable[[], HostAgentError | None] = lambda: None  # by every call
        self.changed: Callable[[], None] = lambda: None  # called after each call that was taken
        self._ports = itertools.count(1000)

    def kernel(self, *, is_owner: bool = False, port: int | None = None) -> "FakeKernel":
        """A port of one process; `port`: with a socket that was kept from another one."""
        return FakeKernel(self, is_owner=is_owner, port=port or next(self._ports))

    def end(self, port: int) -> None:
        """The last copy of a socket is closed: what it owns goes."""
        for name in [name for name, owner in self.owners.items() if owner == port]:
            del self.tables[name], self.owners[name]

    def flush(self) -> None:
        """What `nft flush ruleset` of somebody else does to tables that nobody owns."""
        self.tables = {n: table for n, table in self.tables.items() if n in self.owners}

    def remove_rule(self, table: str, chain: str, index: int) -> None:
        """What `nft delete rule` of somebody else does."""
        found = self.tables[table]
        chains = tuple(
            c._replace(rules=c.rules[:index] + c.rules[index + 1 :]) if c.name == chain else c
            for c in found.chains
        )
        self.tables[table] = found._replace(chains=chains)


class FakeKernel:
    """What one process sees and changes of it through one socket."""

    def __init__(
        self, space: FakeNamespace | None = None, *, is_owner: bool = False, port: int = 1
    ) -> None:
        self.space = space or FakeNamespace()
        self._is_owner = is_owner
        self.port = port

    @property
    def is_owner(self) -> bool:
        return self._is_owner

    def fileno(self) -> int:
        return self.port

    def close(self) -> None:
        self.space.end(self.port)

    def observe(self) -> model.Observed:
        found = (self.space.tables[name] for name in sorted(self.space.tables))
        tables = tuple(table._replace(owner=self._owner(table.name)) for table in found)
        return model.Observed(tables, self.space.addresses, routing=self.space.routing)

    def _owner(self, name: str) -> model.Owner:
        owner = self.space.owners.get(name)
        if owner is None:
            return model.Owner.NOBODY
        return model.Owner.WE if owner == self.port else model.Owner.OTHER

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        return tuple(each for each in addresses if each in self.space.addresses)

    def observe_routing(self) -> tuple[model.Routing, ...]:
        return self.space.routing

    def apply(self, plan: model.Plan) -> None:
        space = self.space
        refusal = space.refusals.pop(0) if space.refusals else space.refusal()
        if refusal is not None:
            raise refusal
        chains = (chain for table in plan.write for chain in table.chains)
        comments = {rule.comment for chain in chains for rule in chain.rules}
        if not space.has_groups and comments & {units.EXCLUDED, units.OTHER}:
            raise ApplyRejected("no socket cgroupv2", step="rule", errno=errno.EOPNOTSUPP)
        for name in {*plan.delete, *(table.name for table in plan.write)}:
            if self._owner(name) is model.Owner.OTHER:
                raise NotPermitted(f"table {name} belongs to somebody else")
        for name in plan.delete:
            space.tables.pop(name, None)
            space.owners.pop(name, None)
        for table in plan.write:
            space.tables[table.name] = table._replace(owner=model.Owner.NOBODY)
            space.owners.pop(table.name, None)
            if table.owner is model.Owner.WE:
                space.owners[table.name] = self.port
        kept = [each for each in space.addresses if each not in plan.delete_addresses]
        space.addresses = (*kept, *(each for each in plan.add_addresses if each not in kept))
        left = [each for each in space.routing if each not in plan.delete_routing]
        space.routing = (*left, *(each for each in plan.add_routing if each not in left))
        space.transactions += 1
        space.changed()
