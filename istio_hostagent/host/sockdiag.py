"""Which TCP sockets of this network namespace listen, and who made them, as the kernel knows it.

Not here: whose they are in words (`sshd`).
Owner and control group are those of the process that made the socket, whoever has it now. No right
is needed to ask. Source: include/uapi/linux/sock_diag.h and inet_diag.h.
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from ..config import model
from ..errors import HostUnsupported, KernelBusy
from . import netlink
from .nfnetlink import framing

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_LISTEN = 10  # TCP_LISTEN
_CGROUP_ID = 21  # INET_DIAG_CGROUP_ID, told unasked
# struct inet_diag_req_v2: family, protocol, extensions, states; then which socket: any.
_REQUEST = struct.Struct("=BBBxI48x")
# struct inet_diag_msg: family, state, timer, retransmissions; ports and addresses; interface,
# cookie; expiry, queues; owner and inode.
_SOCKET = struct.Struct("=B3xH2x16s16sI8x12xII")
_U64 = struct.Struct("=Q")
# The same, where the kernel has no module for it and loads none any more.
_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_IS_LISTENING = "0A"


class Listener(NamedTuple):
    """One listening socket. `cgroup`: the number of its control group, 0 where it is not known."""

    address: model.Address
    port: int
    interface: int
    uid: int
    inode: int
    cgroup: int


def probe_listeners() -> list[Listener]:
    """Give every TCP socket that listens; raises HostUnsupported if the kernel does not tell."""
    try:
        return list(ask_kernel())
    except (OSError, KernelBusy):
        pass
    try:
        return list(read_tables())
    except OSError as error:
        raise HostUnsupported(f"no telling which ports are in use: {error.strerror}") from error


def ask_kernel() -> Iterator[Listener]:
    """Give every listener by sock_diag(7); raises OSError, KernelBusy."""
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
        for body in netlink.dump(netlink.NETLINK_SOCK_DIAG, _BY_FAMILY, request):
            own, port, address, _, interface, uid, inode = _SOCKET.unpack_from(body)
            cgroup = framing.read(body[_SOCKET.size :]).get(_CGROUP_ID)
            yield Listener(
                ipaddress.ip_address(address[:4] if own == socket.AF_INET else address),
                socket.ntohs(port),
                interface,
                uid,
                inode,
                _U64.unpack(cgroup)[0] if cgroup else 0,
            )


def read_tables() -> Iterator[Listener]:
    """Give every listener by proc_net(5), which knows no control groups; raises OSError."""
    for path in _TABLES:
        try:
            lines = open(path, encoding="ascii")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            continue  # no IPv6
        with lines:
            next(lines)
            for line in lines:
                words = line.split()
                if words[3] != _IS_LISTENING:
                    break  # these come first; connections may be many
                address, _, port = words[1].partition(":")
                yield Listener(
                    _parse_words(address), int(port, 16), 0, int(words[7]), int(words[9]), 0
                )


def _parse_words(text: str) -> model.Address:
    """Read an address that is written as numbers of 32 bits, each in the machine's order."""
    words = (int(text[at : at + 8], 16) for at in range(0, len(text), 8))
    return ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
