"""Links, addresses and routes of this network namespace: as they are, as they change, and ours.

Not here: which of them matter to whom (`facts`, `redirect.policy`), and sockets (`sockdiag`).
What is read is complete or an error, as `netlink` promises. Interfaces come in the order of their
numbers, in which they were made. Only an address that is named is ever added or deleted.
Source: include/uapi/linux/rtnetlink.h, if_addr.h and if_link.h.
"""

import errno
import ipaddress
import os
import socket
import struct
from typing import NamedTuple

from ..config import model
from ..errors import ApplyRejected, NotPermitted
from . import netlink
from .nfnetlink import framing

LOOPBACK = 1  # LOOPBACK_IFINDEX: `lo` has this number in every network namespace
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
IFINFOMSG = struct.Struct("=BxHiII")  # family, hardware, interface, flags, changed flags
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
RTMSG = struct.Struct("=8BI")  # family, lengths of destination and source, tos, table, ...
_RTA_OIF, _RTA_GATEWAY = 4, 5
RTA_DST, RTA_PRIORITY, RTA_PREFSRC, RTA_CACHEINFO, RTA_TABLE, _RTA_UID = 1, 6, 7, 12, 15, 25
IFF_UP = 0x1
IFLA_IFNAME, _IFLA_EXT_MASK = 3, 29
_SKIP_STATS = 0x8  # RTEXT_FILTER_SKIP_STATS: two thirds of what is told of an interface
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NLM_F_EXCL = 0x200
_NODAD = 0x02  # IFA_F_NODAD: usable at once
_OPTIMISTIC, _DADFAILED, _DEPRECATED, _TENTATIVE = 0x04, 0x08, 0x20, 0x40
_SCOPE_HOST = 254
LOCALHOST_V6 = ipaddress.IPv6Address(1)
_U32 = struct.Struct("=I")
# How the kernel says that a packet would go nowhere: there is no route, or one that says so
# (unreachable, prohibit, blackhole), or no such family.
_NOWHERE = (
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAGAIN),
    *(errno.EOPNOTSUPP, errno.EAFNOSUPPORT),
)
# IANA's dummy addresses (RFC 7600, RFC 9780): a packet to them could take the default route only.
# The ranges for documentation do have routes, in laboratories.
_ELSEWHERE = (ipaddress.IPv4Address("192.0.0.8"), ipaddress.IPv6Address("100:0:0:1::1"))


class Link(NamedTuple):
    """One network interface. `is_up`: switched on; whether a cable is in it is another matter."""

    interface: int
    name: str
    is_up: bool


class InterfaceAddress(NamedTuple):
    """One address of an interface; of a pair (point to point) our own end.

    The flags are those that say whether it can be used.
    """

    interface: int
    address: model.Address
    length: int
    scope: int
    flags: int

    @property
    def is_tentative(self) -> bool:
        """Whether it may turn out to be another host's (RFC 4862), or has: no packet gets here."""
        return self.flags & (_TENTATIVE | _OPTIMISTIC) == _TENTATIVE

    @property
    def is_deprecated(self) -> bool:
        """Whether it is on its way out: it still works, and new connections avoid it."""
        return bool(self.flags & _DEPRECATED)


class Route(NamedTuple):
    """By which interface packets go, and from which address where the sender leaves that open.

    To an address of this host they go by `lo`.
    """

    interface: str
    source: model.Address | None


def probe_links() -> list[Link]:
    """Give every interface; raises KernelBusy, NotPermitted, HostUnsupported."""
    return sorted(each for each in map(read_link, dump_links()) if each is not None)


def dump_links() -> list[bytes]:
    """Give what the kernel tells of each interface, from its ifinfomsg on; raises as above."""
    body = IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += framing.pack(_IFLA_EXT_MASK, _U32.pack(_SKIP_STATS))
    return _dump(GETLINK, body, "reading interfaces")


def probe_addresses(interface: int = 0) -> list[InterfaceAddress]:
    """Give every address, or those of one interface: IPv4 first, each by interface.

    Also those of interfaces that are down. Raises KernelBusy, NotPermitted, HostUnsupported.
    """
    body = IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, interface)
    found = map(read_address, _dump(GETADDR, body, "reading addresses"))
    return sorted(
        (each for each in found if each is not None),
        key=lambda each: (each.address.version, each.interface),
    )


def read_link(body: bytes) -> Link | None:
    """Read what is told of an interface; None if it is told of its place in a bridge only."""
    family, _, interface, flags, _ = IFINFOMSG.unpack_from(body)
    if family != socket.AF_UNSPEC:
        return None
    for kind, data in framing.iterate(body[IFINFOMSG.size :]):
        if kind == IFLA_IFNAME:
            return Link(interface, framing.text(data), bool(flags & IFF_UP))
    return Link(interface, "", bool(flags & IFF_UP))


def read_address(body: bytes) -> InterfaceAddress | None:
    """Read what is told of an address; None if it is of another family than ours."""
    family, length, flags, scope, interface = IFADDRMSG.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = framing.read(body[IFADDRMSG.size :])
    packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
    flags &= _TENTATIVE | _OPTIMISTIC | _DADFAILED | _DEPRECATED
    return InterfaceAddress(interface, ipaddress.ip_address(packed), length, scope, flags)


def _dump(kind: int, body: bytes, doing: str) -> list[bytes]:
    try:
        return netlink.dump(netlink.NETLINK_ROUTE, kind, body)
    except OSError as error:
        raise netlink.explain(error, doing) from error


def has_ipv6() -> bool:
    """Whether IPv6 can be used now, which is whether `lo` has ::1.

    It has not where IPv6 is built out or was switched off, for `lo` or for all, nor while `lo` is
    down; and then nothing can be redirected to this host. Raises KernelBusy, NotPermitted.
    """
    return any(each.address == LOCALHOST_V6 for each in probe_addresses(LOOPBACK))


def source_of(destination: model.Address, *, uid: int | None = None) -> model.Address | None:
    """Give the address from which packets to `destination` would come; None: there is no route.

    `uid`: whose packets, where rules tell users apart (ip-rule(8)). Raises KernelBusy,
    NotPermitted.
    """
    found = _look_up(destination, uid=uid)
    source = found.get(RTA_PREFSRC) if found is not None else None
    return ipaddress.ip_address(source) if source else None


def find_route(destination: model.Address, *, uid: int | None = None) -> Route | None:
    """Give the way to `destination`; None: there is none. See `source_of`."""
    found = _look_up(destination, uid=uid)
    if found is None or _RTA_OIF not in found:
        return None
    (interface,) = _U32.unpack(found[_RTA_OIF])
    source = found.get(RTA_PREFSRC)
    name = next((each.name for each in probe_links() if each.interface == interface), "")
    return Route(name, ipaddress.ip_address(source) if source else None)


def _look_up(destination: model.Address, *, uid: int | None = None) -> dict[int, bytes] | None:
    """Give the attributes of the route there; None: there is none."""
    packed = destination.packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + framing.pack(RTA_DST, packed)
    if uid is not None:
        body += framing.pack(_RTA_UID, _U32.pack(uid))
    try:
        answer = netlink.ask(netlink.NETLINK_ROUTE, GETROUTE, body)
    except OSError as error:
        if error.errno in _NOWHERE:
            return None
        raise netlink.explain(error, "looking up a route") from error
    return framing.read(answer[RTMSG.size :])


def default_source(*, uid: int | None = None) -> model.Address | None:
    """Give the source address of the default route, IPv4's if there is one.

    Raises KernelBusy, NotPermitted.
    """
    found = (source_of(each, uid=uid) for each in _ELSEWHERE)
    return next((each for each in found if each is not None), None)


def default_way(version: int) -> tuple[int, model.Address | None] | None:
    """Give the interface of the default route and the router there; None: there is no such route.

    Raises KernelBusy, NotPermitted.
    """
    found = _look_up(_ELSEWHERE[0] if version == 4 else _ELSEWHERE[1])
    if found is None or _RTA_OIF not in found:
        return None
    router = found.get(_RTA_GATEWAY)
    (interface,) = _U32.unpack(found[_RTA_OIF])
    return int(interface), ipaddress.ip_address(router) if router else None


def add_address(wanted: ipaddress.IPv4Interface | ipaddress.IPv6Interface, interface: int) -> None:
    """Put an address on an interface; already there is fine. Raises ApplyRejected, NotPermitted.

    It can be used at once; nobody is asked whether he has it too.
    """
    flags = framing.NLM_F_CREATE | _NLM_F_EXCL
    _change(NEWADDR, flags, wanted, interface, fine=errno.EEXIST)


def delete_address(
    wanted: ipaddress.IPv4Interface | ipaddress.IPv6Interface, interface: int
) -> None:
    """Take an address off an interface; not there is fine. Raises ApplyRejected, NotPermitted."""
    _change(DELADDR, 0, wanted, interface, fine=errno.EADDRNOTAVAIL)


def _change(
    kind: int,
    flags: int,
    wanted: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
    interface: int,
    *,
    fine: int,
) -> None:
    packed = wanted.packed
    family = socket.AF_INET if wanted.version == 4 else socket.AF_INET6
    head = IFADDRMSG.pack(family, wanted.network.prefixlen, _NODAD, _SCOPE_HOST, interface)
    body = head + framing.pack(_IFA_LOCAL, packed) + framing.pack(_IFA_ADDRESS, packed)
    try:
        netlink.ask(netlink.NETLINK_ROUTE, kind, body, flags=flags | framing.NLM_F_ACK)
    except OSError as error:
        if error.errno == fine:
            return
        if error.errno == errno.EPERM:
            raise NotPermitted(
                "changing addresses needs CAP_NET_ADMIN", hint="run it as root"
            ) from error
        step = (
            f"{'add' if kind == NEWADDR else 'delete'} address {wanted} on interface {interface}"
        )
        code = error.errno or errno.EIO
        raise ApplyRejected(
            f"the kernel refused to {step}: {os.strerror(code)}", step=step, errno=code
        ) from error
