"""Whether rules of legacy tables (x_tables) have come or gone: the kernel tells nobody.

Not here: the rules. What is asked for is what the kernel gives without copying any: of each table
where its chains begin and end, how many rules it has and how large they are. It takes
microseconds, and no table is made by it.
"""

import contextlib
import ctypes
import os
import socket

from . import legacytables

# Each family, and the level of its socket options.
_FAMILIES = ((socket.AF_INET, socket.IPPROTO_IP), (socket.AF_INET6, socket.IPPROTO_IPV6))
_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
_INFO_SIZE = 84  # struct ipt_getinfo: a name of 32 bytes, and 13 numbers

_libc = ctypes.CDLL(None, use_errno=True)


def observe() -> tuple[tuple[str, str, bytes], ...]:
    """Of each table that exists family, name and shape; empty for what cannot be asked for."""
    found: list[tuple[str, str, bytes]] = []
    for family, level in _FAMILIES:
        if not (names := legacytables.read(family)):
            continue
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            for name in names:
                shape = b""
                with contextlib.suppress(OSError):
                    shape = _ask(sock, level, name)
                found.append((family.name, name, shape))
    return tuple(found)


def _ask(sock: socket.socket, level: int, name: str) -> bytes:
    """What the kernel tells of a table; raises OSError. The answer takes the question's place."""
    info = ctypes.create_string_buffer(name.encode(), _INFO_SIZE)
    size = ctypes.c_uint32(_INFO_SIZE)
    if _libc.getsockopt(sock.fileno(), level, _GET_INFO, info, ctypes.byref(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return info.raw
