"""A packet filter in memory that keeps the promises of `host.ports.Kernel`.

It holds what was applied, can be told to refuse the next call, and can be changed behind the
agent's back. It counts transactions, so that a test can say that nothing was touched.
"""

from istio_hostagent.errors import HostAgentError
from istio_hostagent.redirect import model


class FakeKernel:
    """Tables and addresses of one network namespace."""

    def __init__(self, *, is_owner: bool = False) -> None:
        self._is_owner = is_owner
        self.observed = model.Observed()
        self.transactions = 0
        self.refusals: list[HostAgentError] = []  # raised by the next calls of `apply`, in order
        self.observe_errors: list[HostAgentError] = []

    @property
    def is_owner(self) -> bool:
        return self._is_owner

    def observe(self) -> model.Observed:
        if self.observe_errors:
            raise self.observe_errors.pop(0)
        return self.observed

    def apply(self, plan: model.Plan) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        tables = {table.name: table for table in self.observed.tables}
        for name in plan.delete:
            tables.pop(name, None)
        tables.update({table.name: table for table in plan.write})
        addresses = [a for a in self.observed.loopback_addresses if a not in plan.delete_addresses]
        self.observed = model.Observed(
            tuple(tables[name] for name in sorted(tables)),
            (*addresses, *(a for a in plan.add_addresses if a not in addresses)),
        )
        self.transactions += 1

    def flush(self) -> None:
        """What `nft flush ruleset` of somebody else does to tables that nobody owns."""
        kept = tuple(t for t in self.observed.tables if t.owner is not model.Owner.NOBODY)
        self.observed = self.observed._replace(tables=kept)

    def remove_rule(self, table: str, chain: str, index: int) -> None:
        """What `nft delete rule` of somebody else does."""
        self.observed = self.observed._replace(
            tables=tuple(
                t._replace(
                    chains=tuple(
                        c._replace(rules=c.rules[:index] + c.rules[index + 1 :])
                        if (t.name, c.name) == (table, chain)
                        else c
                        for c in t.chains
                    )
                )
                for t in self.observed.tables
            ),
        )
