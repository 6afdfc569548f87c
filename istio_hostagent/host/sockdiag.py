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
_CONNECTED = sum(1 << state for state in (1, 2, 4, 5, 8, 9))  # established, or on its way
_BOUND = 13  # TCP_BOUND_INACTIVE: bound and not connected; kernels before 6.8 do not tell of these
_CGROUP_ID = 21  # INET_DIAG_CGROUP_ID, told unasked
# struct inet_diag_req_v2: family, protocol, extensions, states; then which socket: any, or those
# of one local port.
_REQUEST = struct.Struct("=BBBxIH46x")
# struct inet_diag_msg: family, state, timer, retransmissions; ports and addresses; interface,
# cookie; expiry, queues; owner and inode.
_SOCKET = struct.Struct("=BB2xH2x16s16sI8x12xII")
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
    is_listening: bool = True  # False: only bound


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


def find_on_port(port: int) -> list[Listener]:
    """Give who listens on one port, or is bound there (from Linux 6.8 on).

    Raises HostUnsupported if the kernel does not tell.
    """
    try:
        # Of those that are only bound the kernel gives every port.
        return [each for each in ask_kernel(port) if each.port == port]
    except (OSError, KernelBusy):
        pass
    return [each for each in probe_listeners() if each.port == port]


def find_connections(port: int) -> list[Listener]:
    """Give the connections that have this port as their own; none if the kernel does not tell."""
    try:
        return list(ask_kernel(port, _CONNECTED))
    except (OSError, KernelBusy):
        return []


def ask_kernel(of_port: int = 0, states: int = 0) -> Iterator[Listener]:
    """Give every listener by sock_diag(7), or all of one port; raises OSError, KernelBusy."""
    states = states or 1 << _LISTEN | (1 << _BOUND if of_port else 0)
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, socket.htons(of_port))
        for body in netlink.dump(netlink.NETLINK_SOCK_DIAG, _BY_FAMILY, request):
            own, state, port, address, _, interface, uid, inode = _SOCKET.unpack_from(body)
            cgroup = framing.read(body[_SOCKET.size :]).get(_CGROUP_ID)
            yield Listener(
                ipaddress.ip_address(address[:4] if own == socket.AF_INET else address),
                socket.ntohs(port),
                interface,
                uid,
                inode,
                _U64.unpack(cgroup)[0] if cgroup else 0,
                is_listening=state == _LISTEN,
            )


def read_tables() -> Iterator[Listener]:
    """Give every listener by proc_net(5), which knows no control groups; raises OSError."""
    for path in _TABLES:
        try:
            lines = open(path, encoding="ascii")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            if path == _TABLES[0]:
                raise
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
