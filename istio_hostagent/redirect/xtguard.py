"""The guard in legacy tables: what of them it is, and its file for early boot.

That file has a part for each iptables-legacy-restore(8). It is loaded with --noflush into a table
in which nothing of ours is: what is there of others stays. Ids are numeric, since no user database
may be reachable that early; excluded units are not in it, see `guard`.
"""

from collections.abc import Iterator, Mapping, Sequence

from .xtables import TABLES, Family, XChain, XTable

_FILTER = TABLES.index("filter")


def without_guard(table: XTable) -> XTable:
    """Leave out what leads to the guard: for the moment in which nat changes."""
    return _keep_heads(table, is_of_guard=False) if table.name == "filter" else table


def of_guard(table: XTable) -> XTable:
    """Leave out everything but the guard: for early boot."""
    return _keep_heads(table, is_of_guard=True)


def _keep_heads(table: XTable, *, is_of_guard: bool) -> XTable:
    kept = []
    for chain in table.chains:
        if chain.is_built_in:
            rules = tuple(
                rule
                for rule in chain.rules
                if rule.target.startswith("ISTIO_GUARD") is is_of_guard
            )
            chain = chain._replace(rules=rules)
            if not rules:
                continue
        kept.append(chain)
    return table._replace(chains=_needed(kept))


def _needed(chains: Sequence[XChain]) -> tuple[XChain, ...]:
    """Those that built-in chains lead to."""
    named = {chain.name: chain for chain in chains}
    found: dict[str, XChain] = {}
    left = [chain for chain in chains if chain.is_built_in]
    while left:
        chain = left.pop()
        found[chain.name] = chain
        targets = {rule.target for rule in chain.rules}
        left += (named[t] for t in sorted(targets) if t in named and t not in found)
    return tuple(found[name] for name in sorted(found))


def render(tables: Mapping[Family, Sequence[XTable]]) -> str:
    """Return the file's text, in which a line `#command` begins each part."""
    return "".join(f"{line}\n" for family in Family for line in _part(family, tables.get(family)))


def _part(family: Family, tables: Sequence[XTable] | None) -> Iterator[str]:
    yield f"#{family.value}"
    table = of_guard(tables[_FILTER]) if tables else XTable("filter")
    if not table.chains:
        return
    yield "*filter"
    for chain in table.chains:
        if not chain.is_built_in:
            yield f":{chain.name} - [0:0]"
    for chain in table.chains:
        for number, rule in enumerate(chain.rules, 1):
            # In front of what others have there.
            place = f"-I {chain.name} {number}" if chain.is_built_in else f"-A {chain.name}"
            yield f"{place} {rule}"
    yield "COMMIT"
