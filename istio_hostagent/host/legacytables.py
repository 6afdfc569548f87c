"""The legacy tables (x_tables) that exist here; of a change of their rules nobody is told."""

import socket

_NAMES = {
    socket.AF_INET: "/proc/thread-self/net/ip_tables_names",
    socket.AF_INET6: "/proc/thread-self/net/ip6_tables_names",
}


def read(family: socket.AddressFamily) -> list[str]:
    """Their names, sorted; none where the kernel has no such tables, or no IPv6."""
    try:
        with open(_NAMES[family], encoding="ascii") as names:
            return sorted(names.read().split())
    except OSError:
        return []
