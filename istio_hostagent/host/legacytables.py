"""The legacy tables (x_tables) that exist here, and what the kernel tells of one.

Of a change of their rules nobody is told. No table is made by asking: the kernel makes one for
whoever names it, so only those that it lists are named.
Not here: what the rules mean (`xtrules`).
Source: include/uapi/linux/netfilter_ipv4/ip_tables.h; those of IPv6 have the same numbers.
"""

import ctypes
import errno
import os
import socket
import struct
from typing import NamedTuple

from ..errors import KernelBusy, NotPermitted, describe

_NAMES = {
    socket.AF_INET: "/proc/thread-self/net/ip_tables_names",
    socket.AF_INET6: "/proc/thread-self/net/ip6_tables_names",
}
_LEVELS = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
FAMILIES = tuple(_NAMES)
PLACES = {socket.AF_INET: "iptables-legacy", socket.AF_INET6: "ip6tables-legacy"}
# A table that somebody changes between two questions is asked for again.
_MAX_TRIES = 20
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
INFO_SIZE = 84  # struct ipt_getinfo: a name of 32 bytes, and 13 numbers; the last is a size
# struct ipt_get_entries: name, size, and padding in front of the entries.
_QUESTION = struct.Struct("=32sI4x")
_SIZE = struct.Struct("=I")

_libc = ctypes.CDLL(None, use_errno=True)


class Entries(NamedTuple):
    """A table as the kernel gives it: where its chains are, and all entries, with counters."""

    info: bytes
    data: bytes


def read(family: socket.AddressFamily) -> list[str]:
    """Their names, sorted; none where the kernel has no such tables, or no IPv6."""
    try:
        with open(_NAMES[family], encoding="ascii") as names:
            return sorted(names.read().split())
    except OSError:
        return []


def has_any() -> bool:
    """Whether there is one at all."""
    return any(read(family) for family in FAMILIES)


def ask_info(sock: socket.socket, family: socket.AddressFamily, table: str) -> bytes:
    """Where the chains of a table begin and end, and how many rules it has; raises OSError."""
    return _ask(sock, family, _GET_INFO, table.encode().ljust(INFO_SIZE, b"\0"))


def fetch(family: socket.AddressFamily, table: str) -> Entries:
    """Give what is in a table, which exists; raises KernelBusy, NotPermitted."""
    for _ in range(_MAX_TRIES):
        try:
            return _fetch(family, table)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotPermitted(f"reading {PLACES[family]} needs CAP_NET_ADMIN") from error
            if error.errno != errno.EAGAIN:
                what = f"reading {PLACES[family]} table {table}: {describe(error)}"
                raise KernelBusy(what) from error
    raise KernelBusy(f"others keep changing {PLACES[family]} table {table} while it is read")


def _fetch(family: socket.AddressFamily, table: str) -> Entries:
    """The same once; raises OSError, EAGAIN if the table changed meanwhile."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        info = ask_info(sock, family, table)
        (size,) = _SIZE.unpack_from(info, INFO_SIZE - _SIZE.size)
        question = _QUESTION.pack(table.encode(), size) + bytes(size)
        return Entries(info, _ask(sock, family, _GET_ENTRIES, question)[_QUESTION.size :])


def _ask(sock: socket.socket, family: socket.AddressFamily, option: int, question: bytes) -> bytes:
    """What the kernel tells, which takes the question's place; raises OSError."""
    answer = ctypes.create_string_buffer(question, len(question))
    size = ctypes.c_uint32(len(question))
    if _libc.getsockopt(sock.fileno(), _LEVELS[family], option, answer, ctypes.byref(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer.raw
