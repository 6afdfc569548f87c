"""What the kernel tells of a packet's way through everybody's rules (nftables trace).

Not here: which packets are traced. Only rules of nf_tables tell, those that iptables-nft and
firewalld load included; those of iptables-legacy and of eBPF do not.
Source: include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_trace.c.
"""

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..redirect import firewall, model, nft
from .nfnetlink import connection, framing, messages

_GROUP = 9  # NFNLGRP_NFTRACE
_TRACE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6
_TRANSPORT, _POLICY = 9, 16
_BY_POLICY, _BY_RULE = 1, 3
_DROP, _ACCEPT = 0, 1
_JUMP, _GOTO = 0xFD, 0xFC  # NFT_JUMP and NFT_GOTO, -3 and -4, of which one byte is looked at
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6", 7: "bridge", 5: "netdev"}
NUMBERS = {name: number for number, name in _FAMILIES.items()}
_PORTS_AND_SEQUENCE = struct.Struct(">HHI")  # the beginning of a TCP header
_RECEIVE_SIZE = 1 << 16
_BUFFER = 1 << 20
# Of a packet that passes more rules than this the rest of its way is not looked at.
_MAX_EVENTS = 4096


class Event(NamedTuple):
    """A rule that a packet met and that decided something, or (handle 0) the end of a base chain.

    Rules without a verdict are told as well, if all their conditions hold.
    """

    family: str
    table: str
    chain: str
    handle: int
    is_end: bool  # of a base chain: whatever comes next is in another one
    is_drop: bool
    is_jump: bool = False  # into another chain of its table


class Verdicts(NamedTuple):
    """Who dropped a packet, and the rules that let it in, each in another base chain."""

    dropper: firewall.Dropper | None
    passages: tuple[firewall.Passage, ...]


class Tracer:
    """Hears what is told from its making on; to be closed."""

    def __init__(self) -> None:
        """Start listening; raises NotPermitted."""
        self._socket = connection.open_socket((_GROUP,))
        connection.force_receive_buffer(self._socket, _BUFFER)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def read(self) -> dict[tuple[int, int], Verdicts]:
        """Give what became of each packet; never blocks.

        A packet is told by its TCP source port and sequence number.

        Tables of probes do not count.
        """
        return {
            name: Verdicts(_find_dropper(way), tuple(_find_passages(way)))
            for name, way in self._read_ways()
        }

    def read_way(self, source_port: int) -> list[Event]:
        """Give what a packet met that has this source port; never blocks.

        Translation may give it another number on its way.
        """
        ways = (way for (port, _), way in self._read_ways() if port == source_port)
        return [event for way in ways for event in way]

    def _read_ways(self) -> Iterator[tuple[tuple[int, int], list[Event]]]:
        """Source port and sequence number of each packet and what it met, the first one first."""
        names: dict[bytes, tuple[int, int]] = {}
        ways: dict[bytes, list[Event]] = {}
        for _ in range(_MAX_EVENTS):
            try:
                data = self._socket.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except OSError:  # nothing more, or some of it was lost
                break
            for message in framing.split_messages(data):
                if message.kind != _TRACE:
                    continue
                found = framing.read(message.body[4:])
                packet = found.get(_ID, b"")
                header = found.get(_TRANSPORT, b"")
                if len(header) >= _PORTS_AND_SEQUENCE.size:
                    source_port, _, sequence = _PORTS_AND_SEQUENCE.unpack_from(header)
                    names.setdefault(packet, (source_port, sequence))
                ways.setdefault(packet, []).append(_read(message.body[0], found))
        for packet, way in ways.items():
            if packet in names:
                yield names[packet], way


def _read(family: int, found: dict[int, bytes]) -> Event:
    by = framing.be32(found.get(_TYPE, b""))
    verdict = framing.read(found.get(_VERDICT, b"")).get(1, b"")
    code = int.from_bytes(verdict, "big", signed=True) & 0xFF if verdict else -1
    is_drop = by == _BY_RULE and code == _DROP
    if by == _BY_POLICY:
        is_drop = framing.be32(found.get(_POLICY, b"\1")) == _DROP
    return Event(
        _FAMILIES.get(family, str(family)),
        framing.text(found.get(_TABLE, b"")),
        framing.text(found.get(_CHAIN, b"")),
        framing.be32(found.get(_HANDLE, b"")) if by == _BY_RULE else 0,
        is_end=by == _BY_POLICY or (by == _BY_RULE and code in (_DROP, _ACCEPT)),
        is_drop=is_drop,
        is_jump=by == _BY_RULE and code in (_JUMP, _GOTO),
    )


def _find_dropper(way: list[Event]) -> firewall.Dropper | None:
    for index, event in enumerate(way):
        if not event.is_drop or event.table.startswith(model.PROBE_TABLE_PREFIX):
            continue
        before = _before(way, index)
        passed = [each.chain for each in (*before, event)]
        return firewall.Dropper(
            event.family,
            event.table,
            event.chain,
            event.handle,
            base=passed[0],
            passed=tuple(dict.fromkeys(passed)),
        )
    return None


def _find_passages(way: list[Event]) -> Iterator[firewall.Passage]:
    for index, event in enumerate(way):
        is_accept = event.is_end and event.handle and not event.is_drop
        if not is_accept or event.table.startswith(model.PROBE_TABLE_PREFIX):
            continue
        before = _before(way, index)
        yield firewall.Passage(
            event.family,
            event.table,
            event.chain,
            event.handle,
            base=before[0].chain if before else event.chain,
            jumps=tuple((each.chain, each.handle) for each in before if each.is_jump),
        )


def _before(way: list[Event], index: int) -> list[Event]:
    """What a packet met in the same base chain, and from there, before that event."""
    before: list[Event] = []
    for earlier in reversed(way[:index]):
        if earlier.is_end or earlier[:2] != way[index][:2]:
            break
        before.append(earlier)
    return before[::-1]


def with_text(link: connection.Connection, dropper: firewall.Dropper) -> firewall.Dropper:
    """Add the rule's own words, if it has any; raises KernelBusy, NotPermitted."""
    family = NUMBERS.get(dropper.family)
    if not dropper.handle or family is None:
        return dropper
    of_chain = framing.pack_text(1, dropper.table) + framing.pack_text(2, dropper.chain)
    found = ""
    for body in link.dump(messages.GETRULE, of_chain, is_strict=False, family=family):
        if framing.be32(framing.read(body).get(3, b"")) == dropper.handle:
            found = nft.render_rule(messages.read_rule(body)[1])
    return dropper._replace(text="" if "[" in found else found)
