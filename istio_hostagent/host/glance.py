"""Whether Istio's scripts may have left something here: a look that takes a millisecond at most.

It says only where a worker is to look (`workers.takeover`): whether the prefix of their names is
anywhere in the chains of iptables-nft, or in the bytes of a legacy table that is there already.
Rules of others are not parsed. Not here: what is theirs (`redirect.takeover`).
"""

import importlib
import socket

from ..errors import KernelBusy
from ..redirect import model, takeover
from . import legacytables, nftpresence, tproxyremains
from .nfnetlink import connection, messages

_PREFIX = b"ISTIO_"
_MARK = f"{model.LEGACY_MARK}: ".encode()
# To read more takes the worker no longer than us, and nobody waits for that.
_LARGE = 1 << 18
LEGACY = {takeover.Part.LEGACY_V4: socket.AF_INET, takeover.Part.LEGACY_V6: socket.AF_INET6}


def glance() -> tuple[takeover.Part, ...]:
    """Where something may be; raises KernelBusy, NotPermitted."""
    found = [part for part, family in LEGACY.items() if _is_in_legacy(family)]
    if _is_in_nftables() or tproxyremains.find():
        found.append(takeover.Part.NETLINK)
    return tuple(found)


def is_ours_in_legacy() -> bool:
    """Whether rules of ours capture in legacy tables; raises KernelBusy, NotPermitted."""
    families = (family for family in LEGACY.values() if "nat" in legacytables.read(family))
    return any(_MARK in legacytables.fetch(family, "nat").data for family in families)


def _is_in_legacy(family: socket.AddressFamily) -> bool:
    found: dict[str, legacytables.Entries] = {}
    for name in legacytables.read(family):
        if name in takeover.TABLES:
            try:
                found[name] = legacytables.fetch(family, name)
            except KernelBusy:
                return True  # others keep changing it: the worker waits for that
    if not any(_PREFIX in entries.data for entries in found.values()):
        return False
    is_ours = any(_MARK in entries.data for entries in found.values())
    if not is_ours or any(len(entries.data) > _LARGE for entries in found.values()):
        return True
    # Ours have the same names: only these are worth the reader of rules here.
    reader = importlib.import_module(".xtrules", __package__)
    tables = [reader.read(family, name, entries) for name, entries in found.items()]
    return bool(takeover.find(tables))


def _is_in_nftables() -> bool:
    sock, _ = nftpresence.open_socket()
    if sock is None:
        return False
    link = connection.Connection(sock)
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            chains = link.dump(messages.GETCHAIN, family=family, is_strict=False)
            # Each answer is read to the end: the next question is on the same socket.
            if any([_PREFIX in body for body in chains]):
                return True
        heads = link.dump(messages.GETTABLE, is_strict=False)
        return any([messages.read_table(body).name in takeover.NATIVE_TABLES for body in heads])
    finally:
        link.socket.close()
