"""The guard in legacy tables as a file for early boot: a part for each iptables-legacy-restore(8).

Loaded with --noflush into a table in which nothing of ours is: what is there of others stays. Ids
are numeric, since no user database may be reachable that early.
"""

from collections.abc import Iterator, Mapping, Sequence

from . import xtables
from .xtables import Family, XTable

_FILTER = xtables.TABLES.index("filter")


def render(tables: Mapping[Family, Sequence[XTable]]) -> str:
    """Return the file's text, in which a line `#command` begins each part."""
    return "".join(f"{line}\n" for family in Family for line in _part(family, tables.get(family)))


def _part(family: Family, tables: Sequence[XTable] | None) -> Iterator[str]:
    yield f"#{family.value}"
    table = xtables.of_guard(tables[_FILTER]) if tables else XTable("filter")
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
