"""The legacy tables that exist here; the kernel tells nobody when their rules change."""

_NAMES = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")


def read() -> frozenset[str]:
    """Their names, of both families; none where the kernel has no such tables."""
    found: set[str] = set()
    for path in _NAMES:
        try:
            with open(path, encoding="ascii") as names:
                found.update(names.read().split())
        except OSError:
            continue
    return frozenset(found)
