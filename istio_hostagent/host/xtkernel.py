"""What of the legacy tables of this network namespace is ours, read without any library.

It takes microseconds, and no table is made by it: only those that the kernel lists are read.
Not here: changing them (`xtlibrary`, in a worker).
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import HostAgentError
from ..redirect import model, xtables
from ..redirect.xtables import Family, XTable
from . import legacytables, loopback, routing, xtentries, xtlayout

_HAS_IPV6 = "/proc/thread-self/net/if_inet6"

Names = Mapping[str, Sequence[str]]


def find_families() -> tuple[Family, ...]:
    """Those of this network namespace."""
    return tuple(Family) if os.path.exists(_HAS_IPV6) else (Family.V4,)


def fetch(family: Family, table: str) -> legacytables.Entries | None:
    """What is in a table, or nothing if there is none; raises KernelBusy, NotPermitted."""
    number = xtentries.FAMILIES[family]
    return legacytables.fetch(number, table) if table in legacytables.read(number) else None


def observe(family: Family, wanted: Names) -> tuple[XTable, ...]:
    """What is ours in every table, in the order of `xtables.TABLES`.

    `wanted`: by table, names of chains that are to be ours. Raises KernelBusy, NotPermitted.
    """
    found = []
    for name in xtables.TABLES:
        entries = fetch(family, name)
        names = wanted.get(name, ())
        own = XTable(name)
        if entries is not None:
            own = xtentries.read_own(family, name, entries, names)
        found.append(own)
    return tuple(found)


class LegacyTables:
    """The legacy tables of this network namespace, and what of ours is beside any table."""

    def __init__(self) -> None:
        """Look at nothing yet."""
        self._witness: Witness | None = None

    def find_families(self) -> tuple[Family, ...]:
        """Those of this network namespace."""
        return find_families()

    def observe(self, family: Family, wanted: Names) -> tuple[XTable, ...]:
        """What is ours; raises KernelBusy, NotPermitted."""
        return observe(family, wanted)

    def mark(self) -> None:
        """Remember how the tables are; raises KernelBusy, NotPermitted."""
        self._witness = Witness(find_families())

    def has_changed(self) -> bool:
        """Whether one differs from what it was at the last `mark`; without one it does not."""
        return self._witness is not None and self._witness.has_changed()

    def observe_beside(self) -> model.Observed:
        """Give our addresses on `lo` and our routing; raises KernelBusy, NotPermitted."""
        addresses = loopback.observe((model.PASSTHROUGH_ADDRESS,))
        return model.Observed((), addresses, routing=routing.observe())

    def add_beside(self, plan: model.Plan) -> None:
        """Add its addresses and routing, all or none; raises ApplyRejected, NotPermitted."""
        added: list[Callable[[], None]] = []
        try:
            for address in plan.add_addresses:
                loopback.add(address)
                added.append(functools.partial(loopback.delete, address))
            for each in plan.add_routing:
                routing.add(each)
                added.append(functools.partial(routing.delete, each))
        except HostAgentError:
            for undo in added:
                undo()
            raise

    def delete_beside(self, plan: model.Plan) -> None:
        """Take away its addresses and routing; raises ApplyRejected, NotPermitted."""
        for address in plan.delete_addresses:
            loopback.delete(address)
        # A route before the rule that names its table, by which it is found.
        for each in reversed(plan.delete_routing):
            routing.delete(each)


class Witness:
    """Tells whether any table has changed since it was made; counters do not count."""

    def __init__(self, families: Iterable[Family]) -> None:
        """Remember how the tables are; raises KernelBusy, NotPermitted."""
        self._seen = {
            (family, name): _fingerprint(family, name)
            for family in families
            for name in xtables.TABLES
        }

    def has_changed(self) -> bool:
        """Whether one is not as it was; raises KernelBusy, NotPermitted."""
        return any(_fingerprint(*which) != seen for which, seen in self._seen.items())


def _fingerprint(family: Family, name: str) -> object:
    entries = fetch(family, name)
    if entries is None:
        return None
    mask = xtlayout.mask_counters(xtentries.FAMILIES[family], entries.data)
    kept = int.from_bytes(entries.data, "little") & mask
    return entries.info, hash(kept.to_bytes(len(entries.data), "little"))
