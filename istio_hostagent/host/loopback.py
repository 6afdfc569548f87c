"""The addresses on `lo` that the proxy needs, over rtnetlink.

Not here: which addresses those are (`redirect.policy`). Only addresses that are asked about are
ever named, added or removed. Source: include/uapi/linux/rtnetlink.h and if_addr.h.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Sequence

from ..errors import ApplyRejected, NotPermitted
from .nfnetlink import framing

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_NODAD = 0x02  # IFA_F_NODAD: usable at once
_SCOPE_HOST = 254
_TIMEOUT_S = 5


def observe(addresses: Sequence[str]) -> tuple[str, ...]:
    """Give those of `addresses` (`address/prefix length`) that are on `lo` now."""
    request = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    with _open() as sock:
        sock.send(framing.pack_message(_RTM_GETADDR, 0x300 | framing.NLM_F_REQUEST, 1, request))
        found = _read_dump(sock, socket.if_nametoindex("lo"))
    return tuple(each for each in addresses if _key(each) in found)


def _read_dump(sock: socket.socket, interface: int) -> set[tuple[bytes, int]]:
    found: set[tuple[bytes, int]] = set()
    while True:
        for message in framing.split_messages(sock.recv(1 << 16)):
            if message.kind in (framing.NLMSG_DONE, framing.NLMSG_ERROR):
                return found
            _, length, _, _, index = _IFADDRMSG.unpack_from(message.body)
            if index == interface:
                attributes = framing.read(message.body[_IFADDRMSG.size :])
                address = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
                found.add((address, length))


def add(address: str) -> None:
    """Put `address` on `lo`; already there is fine. Raises ApplyRejected, NotPermitted."""
    flags = framing.NLM_F_REQUEST | framing.NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL
    _change(_RTM_NEWADDR, flags, address, fine=errno.EEXIST)


def delete(address: str) -> None:
    """Take `address` off `lo`; not there is fine. Raises ApplyRejected, NotPermitted."""
    flags = framing.NLM_F_REQUEST | framing.NLM_F_ACK
    _change(_RTM_DELADDR, flags, address, fine=errno.EADDRNOTAVAIL)


def _change(kind: int, flags: int, address: str, *, fine: int) -> None:
    packed, length = _key(address)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    head = _IFADDRMSG.pack(family, length, _NODAD, _SCOPE_HOST, socket.if_nametoindex("lo"))
    body = head + framing.pack(_IFA_LOCAL, packed) + framing.pack(_IFA_ADDRESS, packed)
    with _open() as sock:
        sock.send(framing.pack_message(kind, flags, 1, body))
        answer = next(framing.split_messages(sock.recv(1 << 16)))
    code, _ = framing.read_error(answer)
    if code in (0, fine):
        return
    if code == errno.EPERM:
        raise NotPermitted("changing addresses needs CAP_NET_ADMIN", hint="run it as root")
    step = f"{'add' if kind == _RTM_NEWADDR else 'delete'} address {address} on lo"
    raise ApplyRejected(
        f"the kernel refused to {step}: {os.strerror(code)}", step=step, errno=code
    )


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    made.settimeout(_TIMEOUT_S)
    made.bind((0, 0))
    return made


def _key(address: str) -> tuple[bytes, int]:
    parsed = ipaddress.ip_interface(address)
    return parsed.packed, parsed.network.prefixlen
