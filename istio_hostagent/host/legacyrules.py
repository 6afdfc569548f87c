"""Whether rules of legacy tables (x_tables) have come or gone: the kernel tells nobody.

Not here: the rules. What is asked for is what the kernel gives without copying any: of each table
where its chains begin and end, how many rules it has and how large they are. It takes
microseconds, and no table is made by it.
"""

import contextlib
import socket

from . import legacytables


def observe() -> tuple[tuple[str, str, bytes], ...]:
    """Of each table that exists family, name and shape; empty for what cannot be asked for."""
    found: list[tuple[str, str, bytes]] = []
    for family in legacytables.FAMILIES:
        if not (names := legacytables.read(family)):
            continue
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            for name in names:
                shape = b""
                with contextlib.suppress(OSError):
                    shape = legacytables.ask_info(sock, family, name)
                found.append((family.name, name, shape))
    return tuple(found)
