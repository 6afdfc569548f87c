"""Whether Istio's scripts may have left something here: a look that takes a millisecond at most.

It says only where a worker is to look (`workers.takeover`): whether the prefix of their names is
anywhere in the chains of iptables-nft, or in the bytes of a legacy table that is there already.
Rules of others are not parsed. Not here: what is theirs (`redirect.takeover`).
"""

import socket

from ..redirect import takeover
from . import legacytables, tproxyremains
from .nfnetlink import connection, messages

_PREFIX = b"ISTIO_"
LEGACY = {takeover.Part.LEGACY_V4: socket.AF_INET, takeover.Part.LEGACY_V6: socket.AF_INET6}


def glance() -> tuple[takeover.Part, ...]:
    """Where something may be; raises KernelBusy, NotPermitted."""
    found = [part for part, family in LEGACY.items() if _is_in_legacy(family)]
    if _is_in_nftables() or tproxyremains.find():
        found.append(takeover.Part.NETLINK)
    return tuple(found)


def _is_in_legacy(family: socket.AddressFamily) -> bool:
    for name in legacytables.read(family):
        if name not in takeover.TABLES:
            continue
        try:
            if _PREFIX in legacytables.fetch(family, name).data:
                return True
        except OSError:
            return True  # it changes at this moment: the worker knows how to wait for that
    return False


def _is_in_nftables() -> bool:
    link = connection.Connection()
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
