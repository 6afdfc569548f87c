"""What Istio's scripts have left in the legacy tables of one family: found and taken out.

Found without any library (`legacytables`, `xtrules`); taken out through python-iptables, one
commit for each table, under the lock of xtables. A process that has loaded the library for one
family cannot work on the other, so each family has a worker of its own, and only workers import
this. Of the library no match and no target is loaded: rules go by their position, since what it
makes of a rule may not equal the rule.
"""

import errno
import importlib
import os
import socket
from collections.abc import Callable
from typing import Any

from ..errors import ApplyRejected, HostUnsupported, KernelBusy
from ..redirect import takeover
from . import legacytables, remains, xtlayout, xtlock, xtrules

_CLASSES = {socket.AF_INET: "Table", socket.AF_INET6: "Table6"}
_MAX_TRIES = 20


def find(family: socket.AddressFamily) -> tuple[takeover.Remains, ...]:
    """What is there now; raises KernelBusy, NotPermitted. No table is made by looking."""
    tables = [_read(family, name)[0] for name in _names(family)]
    count = sum(len(taking.rules) for taking in takeover.find(tables))
    if not count:
        return ()
    return (takeover.Remains(count, takeover.name_author(tables), legacytables.PLACES[family]),)


def _names(family: socket.AddressFamily) -> list[str]:
    return [name for name in legacytables.read(family) if name in takeover.TABLES]


def _read(family: socket.AddressFamily, name: str) -> tuple[takeover.Table, legacytables.Entries]:
    found = legacytables.fetch(family, name)
    return xtrules.read(family, name, found), found


def take_out(family: socket.AddressFamily, may_go: Callable[[], bool]) -> None:
    """Take out what `find` finds; raises ApplyRejected, HostUnsupported, KernelBusy, NotPermitted.

    `may_go` is asked before each commit.
    """
    try:
        library: Any = importlib.import_module("iptc")
    except ImportError as error:
        raise HostUnsupported(
            f"python-iptables cannot be loaded: {error}", hint="apt install python3-iptables"
        ) from error
    with xtlock.locked():
        for _ in range(_MAX_TRIES):
            if _try(library, family, may_go):
                return
    raise KernelBusy(
        f"others keep changing {legacytables.PLACES[family]}, without the lock of xtables"
    )


def _try(library: Any, family: socket.AddressFamily, may_go: Callable[[], bool]) -> bool:
    """Make one commit for each table; False: somebody changed one meanwhile."""
    read = {name: _read(family, name) for name in _names(family)}
    takings = takeover.find([table for table, _ in read.values()])
    # In nat are the chains by which the rest is known, should we be killed between two tables.
    for taking in sorted(takings, key=lambda each: each.table == "nat"):
        seen, entries = read[taking.table]
        table = getattr(library, _CLASSES[family])(taking.table, autocommit=False)
        table.refresh()
        try:
            # Both before and behind the library's own look at the table it was the same.
            if not _is_same(family, taking.table, entries):
                return False
            _delete(table, seen, taking)
            if not may_go():
                raise KernelBusy(remains.NOT_REPLACED)
            if not _is_same(family, taking.table, entries):
                return False
            table.commit()
        except library.IPTCError as error:
            if os.strerror(errno.EAGAIN) in str(error):
                return False
            place = f"{legacytables.PLACES[family]} {taking.table}"
            raise ApplyRejected(
                f"{place}: {error}; nothing was changed there",
                step=f"take Istio's rules out of {taking.table}",
                errno=errno.EIO,
            ) from error
        finally:
            table.refresh()  # forgets what is not committed
    return True


def _is_same(family: socket.AddressFamily, name: str, entries: legacytables.Entries) -> bool:
    """Whether a table is as it was, but for its counters."""
    _, now = _read(family, name)
    return xtlayout.is_same(family, now, entries)


def _delete(table: Any, seen: takeover.Table, taking: takeover.Taking) -> None:
    """Change the library's copy; raises its error."""
    positions: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    for number, rule in enumerate(seen.rules):
        position = counts.get(rule.chain, 0)
        counts[rule.chain] = position + 1
        if number in taking.rules and rule.chain not in taking.chains:
            positions.setdefault(rule.chain, []).append(position)
    for chain, found in positions.items():
        for position in reversed(found):
            # The library has no method for it, only for a rule that it has made itself.
            calls, handle = table._iptc, table._handle
            if calls.iptc_delete_num_entry(chain.encode(), position, handle) != 1:
                raise importlib.import_module("iptc").IPTCError(
                    f"cannot delete rule {position + 1} of {chain}: {table.strerror()}"
                )
    for chain in taking.chains:
        table.flush_entries(chain)
    for chain in taking.chains:
        table.delete_chain(chain)
