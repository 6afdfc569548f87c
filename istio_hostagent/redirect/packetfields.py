"""What each field that rules look at is of a packet, by a table.

Sources: net/netfilter/{nft_meta,nft_ct}.c.
"""

from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Protocol

from . import names
from .model import Field
from .packets import FLAGS, Address, Packet, Tracking, is_local

UNICAST, LOCAL, BROADCAST, MULTICAST = 1, 2, 3, 5  # RTN_*
_ICMP, _ICMP6 = 1, 58  # IPPROTO_*
_IPS_DST_NAT, _INVALID = 0x20, 1  # of `ct status` and `ct state`


class Place(Protocol):
    """A packet where it is met."""

    @property
    def packet(self) -> Packet:
        """How it looks there."""

    @property
    def own(self) -> Collection[Address]:
        """The addresses of this host beside those of loopback."""

    @property
    def is_tracked(self) -> bool:
        """Whether connection tracking has seen it."""


def _address(text: str, version: int) -> int | None:
    found = ip_address(text)
    return int(found) if found.version == version else None


def _of(protocol: int, place: Place, value: int | None) -> int | None:
    return value if place.packet.protocol == protocol else None


def _address_type(place: Place, text: str) -> int:
    address = ip_address(text)
    if is_local(address, place.own):
        return LOCAL
    if address.is_multicast:
        return MULTICAST
    return BROADCAST if text == "255.255.255.255" else UNICAST


def has_entry(place: Place) -> bool:
    """Whether there is a connection that it belongs to."""
    return place.is_tracked and place.packet.state is not Tracking.INVALID


def _has_template(place: Place) -> bool:
    """Whether a zone was set before tracking: a blank entry carries it until then.

    Not modelled: what else that says. It is used again for other packets, which leave traces.
    """
    return not place.is_tracked and bool(place.packet.zone)


def _original(place: Place) -> tuple[str, int]:
    return place.packet.asked_for or (place.packet.destination, place.packet.port)


def _tracked(place: Place, value: int | None) -> int | None:
    return value if has_entry(place) else None


# What a field is of a packet; None: it has none, and no rule that looks at it applies.
FIELDS: dict[Field, Callable[[Place], int | str | None]] = {
    Field.L4PROTO: lambda place: place.packet.protocol,
    # Without an interface the name is empty (nft_meta_store_ifname()).
    Field.IIFNAME: lambda place: place.packet.iif,
    Field.OIFNAME: lambda place: place.packet.oif,
    Field.SKUID: lambda place: place.packet.uid,
    Field.SKGID: lambda place: place.packet.gid,
    # The innermost; which one counts is said by the level of a condition.
    Field.CONTROL_GROUP: lambda place: place.packet.group_at(len(place.packet.groups)),
    # 0 also without a socket, of which there is no value (nft_socket_eval()): rules ask for 1.
    Field.SOCKET_TRANSPARENT: lambda place: int(place.packet.has_proxy_socket),
    Field.IP_SADDR: lambda place: _address(place.packet.source, 4),
    Field.IP6_SADDR: lambda place: _address(place.packet.source, 6),
    Field.IP_DADDR: lambda place: _address(place.packet.destination, 4),
    Field.IP6_DADDR: lambda place: _address(place.packet.destination, 6),
    Field.SPORT: lambda place: _of(names.TCP, place, place.packet.source_port),
    Field.DPORT: lambda place: _of(names.TCP, place, place.packet.port),
    Field.UDP_SPORT: lambda place: _of(names.UDP, place, place.packet.source_port),
    Field.UDP_DPORT: lambda place: _of(names.UDP, place, place.packet.port),
    Field.TCP_FLAGS: lambda place: _of(names.TCP, place, place.packet.flags & FLAGS),
    Field.ICMP_DPORT: lambda place: _of(_ICMP, place, place.packet.about_port),
    Field.ICMP6_DPORT: lambda place: _of(_ICMP6, place, place.packet.about_port),
    Field.FIB_DADDR_TYPE: lambda place: _address_type(place, place.packet.destination),
    Field.FIB_SADDR_TYPE: lambda place: _address_type(place, place.packet.source),
    Field.MARK: lambda place: place.packet.mark,
    Field.CT_MARK: lambda place: _tracked(place, place.packet.connection_mark),
    Field.CT_STATUS_DNAT: lambda place: _tracked(
        place, _IPS_DST_NAT if place.packet.asked_for else 0
    ),
    # What is not tracked yet counts as invalid (nft_ct_get_eval()).
    Field.CT_STATE_INVALID: lambda place: (
        0 if has_entry(place) or _has_template(place) else _INVALID
    ),
    Field.ORIGINAL_IP_DADDR: lambda place: _tracked(place, _address(_original(place)[0], 4)),
    Field.ORIGINAL_IP6_DADDR: lambda place: _tracked(place, _address(_original(place)[0], 6)),
    Field.ORIGINAL_DPORT: lambda place: _tracked(
        place, _of(names.TCP, place, _original(place)[1])
    ),
}
