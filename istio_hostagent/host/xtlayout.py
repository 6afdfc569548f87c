"""How a legacy table (x_tables) lies in memory when the kernel gives it: its chains and entries.

Not here: asking for a table (`legacytables`), and what the parts of an entry mean (`xtentries`,
`xtrules`).
Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h and
netfilter/x_tables.h; numbers are in host order.
"""

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from . import legacytables

# struct ipt_getinfo: name, hooks that there are, where each begins, where its policy is, number
# of entries, their size.
_INFO = struct.Struct("=32s13I")
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_PART = struct.Struct("=H29sB")  # struct xt_entry_match, xt_entry_target: size, name, revision
_OFFSETS = struct.Struct("=HH")  # of target and next entry
_COUNTERS_SIZE = 16  # struct xt_counters, at the end of an entry's fixed part
_NAME_SIZE = 16  # IFNAMSIZ
_VERDICTS = {-1: "DROP", -2: "ACCEPT", -4: "QUEUE", -5: "RETURN"}

# Bits of the inverting flags (IPT_INV_*, IP6T_INV_*).
NOT_IN, NOT_OUT, NOT_TOS, NOT_SOURCE, NOT_DESTINATION, NOT_FRAGMENT, NOT_PROTOCOL = (
    1 << bit for bit in range(7)
)


class Layout(NamedTuple):
    """Where the fields of an entry are."""

    width: int  # of an address
    protocol: int
    flags: int  # and the inverting flags behind it
    goto: int  # of the flags, that a jump does not come back
    plain_flags: int  # of the flags, those that say nothing more
    offsets: int
    size: int


LAYOUTS = {
    socket.AF_INET: Layout(4, 80, 82, 0x02, 0x00, 88, 112),
    socket.AF_INET6: Layout(16, 128, 131, 0x04, 0x01, 140, 168),
}


class Chain(NamedTuple):
    """Where a chain is; `entries` are its rules, without its policy or its return."""

    name: str
    is_built_in: bool
    start: int
    entries: list[int]


class Part(NamedTuple):
    """One match, or the target."""

    name: str
    revision: int
    data: bytes


class Head(NamedTuple):
    """What every entry has: (value, mask) of addresses and interfaces, the protocol or 0."""

    source: tuple[bytes, bytes]
    destination: tuple[bytes, bytes]
    incoming: tuple[bytes, bytes]
    outgoing: tuple[bytes, bytes]
    protocol: int
    flags: int
    inverse: int


def cut(family: socket.AddressFamily, found: legacytables.Entries) -> list[Chain]:
    """The chains in the order of the table."""
    _, hooks, *numbers = _INFO.unpack(found.info)
    begins = {numbers[n]: name for n, name in enumerate(_HOOKS) if hooks & 1 << n}
    chains: list[Chain] = []
    for at, target_at, next_at in _walk(LAYOUTS[family], found.data):
        size, name, _ = _PART.unpack_from(found.data, target_at)
        if text(name) == "ERROR":
            # The head of a chain, or the end of all.
            called = text(found.data[target_at + _PART.size : target_at + size])
            chains.append(Chain(called, False, next_at, []))
            continue
        if at in begins:
            chains.append(Chain(begins[at], True, at, []))
        chains[-1].entries.append(at)
    for chain in chains:
        del chain.entries[-1:]
    return chains[:-1]


def mask_counters(family: socket.AddressFamily, data: bytes) -> int:
    """A number whose bits are those of the entries that do not count packets."""
    mask = bytearray(b"\xff" * len(data))
    layout = LAYOUTS[family]
    for at, _, _ in _walk(layout, data):
        end = at + layout.size
        mask[end - _COUNTERS_SIZE : end] = bytes(_COUNTERS_SIZE)
    return int.from_bytes(mask, "little")


def is_same(
    family: socket.AddressFamily, first: legacytables.Entries, second: legacytables.Entries
) -> bool:
    """Whether two tables are the same, but for their counters."""
    if (first.info, len(first.data)) != (second.info, len(second.data)):
        return False
    numbers = (int.from_bytes(each.data, "little") for each in (first, second))
    return not (next(numbers) ^ next(numbers)) & mask_counters(family, first.data)


def _walk(layout: Layout, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each entry is, its target, and the next entry."""
    at = 0
    while at + layout.size <= len(data):
        target, following = _OFFSETS.unpack_from(data, at + layout.offsets)
        if following < layout.size:
            return
        yield at, at + target, at + following
        at += following


def read_head(family: socket.AddressFamily, data: bytes, at: int) -> Head:
    """What the entry there has."""
    layout = LAYOUTS[family]
    width = layout.width
    head = data[at : at + layout.size]
    source, destination, source_mask, destination_mask = (
        head[number * width : (number + 1) * width] for number in range(4)
    )
    names = 4 * width
    incoming, outgoing, incoming_mask, outgoing_mask = (
        head[names + _NAME_SIZE * number : names + _NAME_SIZE * (number + 1)]
        for number in range(4)
    )
    (protocol,) = struct.unpack_from("=H", head, layout.protocol)
    return Head(
        (source, source_mask),
        (destination, destination_mask),
        (incoming, incoming_mask),
        (outgoing, outgoing_mask),
        protocol,
        head[layout.flags],
        head[layout.flags + 1],
    )


def read_matches(family: socket.AddressFamily, data: bytes, at: int) -> Iterator[Part]:
    """The matches of the entry there."""
    layout = LAYOUTS[family]
    target, _ = _OFFSETS.unpack_from(data, at + layout.offsets)
    position = at + layout.size
    while position + _PART.size <= at + target:
        size, name, revision = _PART.unpack_from(data, position)
        if size < _PART.size:
            return
        yield Part(text(name), revision, data[position + _PART.size : position + size])
        position += size


def between(family: socket.AddressFamily, data: bytes, at: int) -> bytes:
    """All matches of the entry there, as they lie."""
    layout = LAYOUTS[family]
    target, _ = _OFFSETS.unpack_from(data, at + layout.offsets)
    return data[at + layout.size : at + target]


def read_target(family: socket.AddressFamily, data: bytes, at: int) -> Part:
    """The target of the entry there."""
    target, following = _OFFSETS.unpack_from(data, at + LAYOUTS[family].offsets)
    size, name, revision = _PART.unpack_from(data, at + target)
    end = at + min(target + size, following)
    return Part(text(name), revision, data[at + target + _PART.size : end])


def name_verdict(target: Part, names: dict[int, str]) -> str | None:
    """Where a target without a name leads: a verdict, or the chain that begins there.

    `names`: of chains, by their start. None: to the next rule, or somewhere inside a chain.
    """
    (verdict,) = struct.unpack_from("=i", target.data)
    return _VERDICTS.get(verdict) or names.get(verdict)


def text(data: bytes) -> str:
    """What stands in front of the first zero."""
    return data.split(b"\0", 1)[0].decode(errors="backslashreplace")
