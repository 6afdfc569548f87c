"""What kinds of thing change in the network of this namespace, as the kernel tells it.

Not here: what is there now (`rtnetlink`), and what a change means for us.
Nothing that changed goes untold; some things are told that turn out to be as before. Not told is
what happens all the time and changes nothing: lifetimes that a router or DHCP server renews,
caches, routes for broadcast and multicast. However much changes, one look takes a bounded time.
"""

import enum
import errno
import ipaddress
import socket

from ..errors import KernelBusy
from ..redirect import model
from . import netlink, probedevice, rtnetlink
from .nfnetlink import connection, framing

_GROUPS = (1, 5, 7, 8, 9, 11, 19)  # RTNLGRP_ LINK, then IFADDR, ROUTE, RULE of IPv4 and of IPv6
_NEWRULE, _DELRULE = 32, 33
_NLM_F_REPLACE = 0x100
_RTM_F_CLONED = 0x200
_NOT_UNICAST = (3, 4, 5)  # RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST
_RECEIVE_SIZE = 1 << 15
_BUFFER = 1 << 20
# About a millisecond; whatever is left is read in the next turn.
_MESSAGES_A_READ = 256
# Routes that are refreshed: the default and the prefixes of a few routers. More are forgotten.
_MOST_REFRESHED = 256
# What we put on `lo` ourselves: that it comes or goes is told as a change of addresses alone.
_OURS = ipaddress.ip_interface(model.PASSTHROUGH_ADDRESS).ip.packed
# What tells a route from others; whatever else differs is a change of the same route.
_IDENTITY = (rtnetlink.RTA_DST, rtnetlink.RTA_PRIORITY, rtnetlink.RTA_TABLE)


class Change(enum.Flag):
    """What has changed. ROUTES includes the rules for choosing a table.

    With an interface or an address IPv4 routes go too, of which the kernel tells nothing: what
    may have taken some says ROUTES as well. IPV6: it became usable on `lo`, or no longer is.
    """

    LINKS = enum.auto()
    ADDRESSES = enum.auto()
    ROUTES = enum.auto()
    IPV6 = enum.auto()


EVERYTHING = Change.LINKS | Change.ADDRESSES | Change.ROUTES | Change.IPV6
# Numbers, since a Flag takes a microsecond for each `|`.
_LINKS, _ADDRESSES, _ROUTES, _IPV6 = (each.value for each in Change)


class Monitor:
    """A socket that hears of changes. One thread at a time."""

    def __init__(self) -> None:
        """Listen from now on; raises NotPermitted, HostUnsupported, KernelBusy."""
        groups = sum(1 << (group - 1) for group in _GROUPS)
        try:
            self._socket = netlink.open_socket(netlink.NETLINK_ROUTE, groups=groups)
        except OSError as error:
            raise netlink.explain(error, "watching the network") from error
        self._socket.setblocking(False)
        connection.force_receive_buffer(self._socket, _BUFFER)
        self._links: dict[int, rtnetlink.Link] = {}
        self._addresses: dict[tuple[int, bytes, int], rtnetlink.InterfaceAddress] = {}
        self._refreshed: dict[tuple[bytes, ...], tuple[tuple[int, bytes], ...]] = {}
        try:
            self._learn()
        except KernelBusy:
            self._forget()  # then everything is told once

    def _learn(self) -> None:
        for link in rtnetlink.probe_links():
            self._links[link.interface] = link
        for each in rtnetlink.probe_addresses():
            self._addresses[_key(each)] = each

    def _forget(self) -> None:
        self._links.clear()
        self._addresses.clear()
        self._refreshed.clear()

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def read(self) -> Change:
        """Say what has changed since the last call; never blocks.

        After a storm some of it is left for the next call, and the socket stays readable. If the
        kernel could not keep everything for us, all may have changed.
        """
        changes = 0
        for _ in range(_MESSAGES_A_READ):
            try:
                data = self._socket.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._forget()
                changes = EVERYTHING.value
                continue
            for message in framing.split_messages(data):
                changes |= self._classify(message)
        return Change(changes)

    def _classify(self, message: framing.Received) -> int:
        """Say what kind of change a message tells of; 0: none."""
        kind = message.kind
        if kind in (rtnetlink.NEWROUTE, rtnetlink.DELROUTE):
            if _is_noise(message.body) or _is_ours(message.body) or self._is_refresh(message):
                return 0
            return _ROUTES
        if kind in (rtnetlink.NEWADDR, rtnetlink.DELADDR):
            return self._classify_address(message.body, is_there=kind == rtnetlink.NEWADDR)
        if kind in (rtnetlink.NEWLINK, rtnetlink.DELLINK):
            return self._classify_link(message.body, is_there=kind == rtnetlink.NEWLINK)
        return _ROUTES if kind in (_NEWRULE, _DELRULE) else 0

    def _classify_link(self, body: bytes, *, is_there: bool) -> int:
        link = rtnetlink.read_link(body)
        if link is None or link.name.startswith(probedevice.NAME_PREFIX):
            return 0
        known = self._links.pop(link.interface, None)
        if is_there:
            self._links[link.interface] = link
            if link == known:
                return 0
        if known is not None and known.is_up == (is_there and link.is_up):
            return _LINKS
        return _LINKS | _ADDRESSES | _ROUTES

    def _classify_address(self, body: bytes, *, is_there: bool) -> int:
        address = rtnetlink.read_address(body)
        if address is None:
            return 0
        known = self._addresses.pop(_key(address), None)
        if is_there:
            self._addresses[_key(address)] = address
            if address == known:
                return 0
        if address.interface == rtnetlink.LOOPBACK and address.address.packed == _OURS:
            return _ADDRESSES
        is_v6 = (
            address.interface == rtnetlink.LOOPBACK and address.address == rtnetlink.LOCALHOST_V6
        )
        return _ADDRESSES | _ROUTES | (_IPV6 if is_v6 else 0)

    def _is_refresh(self, message: framing.Received) -> bool:
        """Whether a route was replaced by itself with another lifetime, as routers' lead to."""
        if not message.flags & _NLM_F_REPLACE:
            # What was replaced last may be gone, and the next replacement be of something else.
            self._refreshed.clear()
            return False
        head, data = message.body[: rtnetlink.RTMSG.size], message.body[rtnetlink.RTMSG.size :]
        found = framing.read(data)
        found.pop(rtnetlink.RTA_CACHEINFO, None)
        parts = (found.pop(kind, b"") for kind in _IDENTITY)
        key = (head, *parts)
        value = tuple(found.items())
        if self._refreshed.get(key) == value:
            return True
        if len(self._refreshed) >= _MOST_REFRESHED:
            self._refreshed.clear()
        self._refreshed[key] = value
        return False


def _key(address: rtnetlink.InterfaceAddress) -> tuple[int, bytes, int]:
    return address.interface, address.address.packed, address.length


def _is_noise(body: bytes) -> bool:
    """Whether it is about a cache, or about what nothing of ours is sent to."""
    *_, kind, flags = rtnetlink.RTMSG.unpack_from(body)
    return bool(flags & _RTM_F_CLONED) or kind in _NOT_UNICAST


def _is_ours(body: bytes) -> bool:
    """Whether it is one of the routes that come and go with what we put on `lo`."""
    # Few routes get further: of most, in a storm, the header is enough.
    if body[0] != socket.AF_INET6 or body[1] != 128:
        return False
    found = framing.read(body[rtnetlink.RTMSG.size :])
    return found.get(rtnetlink.RTA_DST) == _OURS
