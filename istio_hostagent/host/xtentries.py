"""The entries of a legacy table (x_tables) as the kernel gives them, in the words of iptables(8).

This is our own reading of what python-iptables has written, so an error in one cannot hide in the
other. What no rule of ours has is a condition whose option is `?`, which equals nothing of ours.
Not here: asking for a table (`legacytables`), where its entries are (`xtlayout`), what their
matches and targets say (`xtmodules`), what should be there (`redirect.xtrender`).
"""

import socket
from collections.abc import Collection, Iterator

from ..redirect import xtplan
from ..redirect.xtables import (
    MARK,
    SET_CHAIN,
    Condition,
    Family,
    XChain,
    XRule,
    XTable,
)
from . import legacytables, xtlayout, xtmodules

FAMILIES = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}

_PROTOCOLS = {6: "tcp", 17: "udp"}
# Of the inverting flags of an entry, those that are written as conditions.
_NOTS = xtlayout.NOT_IN | xtlayout.NOT_OUT | xtlayout.NOT_PROTOCOL
_NOTS |= xtlayout.NOT_SOURCE | xtlayout.NOT_DESTINATION


def read(family: Family, found: legacytables.Entries) -> tuple[XChain, ...]:
    """Every chain with all its rules, in the order of the table; policies are none."""
    chains = xtlayout.cut(FAMILIES[family], found)
    names = {chain.start: chain.name for chain in chains}
    return tuple(
        XChain(
            chain.name,
            tuple(_read_entry(family, found.data, at, names) for at in chain.entries),
            chain.is_built_in,
        )
        for chain in chains
    )


def read_own(
    family: Family, name: str, found: legacytables.Entries, wanted: Collection[str]
) -> XTable:
    """What is ours in a table (`xtplan.measure_own`), without reading what rules of others say.

    `wanted`: names of chains that are to be ours.
    """
    if not any(each.encode() in found.data for each in (MARK, SET_CHAIN, *wanted)):
        return XTable(name)
    cut = xtlayout.cut(FAMILIES[family], found)
    names = {chain.start: chain.name for chain in cut}
    outlines = [
        XChain(
            chain.name,
            tuple(_read_outline(family, found.data, at, names) for at in chain.entries),
            chain.is_built_in,
        )
        for chain in cut
    ]
    measured = xtplan.measure_own(outlines, wanted)
    chains = (
        XChain(
            chain.name,
            tuple(
                _read_entry(family, found.data, at, names)
                for at in chain.entries[: measured[chain.name]]
            ),
            chain.is_built_in,
        )
        for chain in cut
        if chain.name in measured
    )
    return XTable(name, tuple(sorted(chains, key=lambda each: each.name)))


def _read_outline(family: Family, data: bytes, at: int, names: dict[int, str]) -> XRule:
    """Where a rule leads, and its comment if it may be our mark."""
    layout = FAMILIES[family]
    target = xtlayout.read_target(layout, data, at)
    leads_to = target.name or xtlayout.name_verdict(target, names) or xtmodules.UNKNOWN
    comment = ""
    if MARK.encode() in xtlayout.between(layout, data, at):
        parts = xtlayout.read_matches(layout, data, at)
        comments = (xtlayout.text(part.data) for part in parts if part.name == "comment")
        comment = next(comments, "")
    return XRule((), leads_to, comment=comment)


def _read_entry(family: Family, data: bytes, at: int, names: dict[int, str]) -> XRule:
    layout = FAMILIES[family]
    head = xtlayout.read_head(layout, data, at)
    tests = list(_read_head(family, head))
    comment = ""
    for part in xtlayout.read_matches(layout, data, at):
        if part.name == "comment" and not comment:
            comment = xtlayout.text(part.data)
        else:
            tests += xtmodules.read_match(family, *part)
    is_goto = bool(head.flags & xtlayout.LAYOUTS[layout].goto)
    part = xtlayout.read_target(layout, data, at)
    options: tuple[tuple[str, str], ...] = ()
    target = part.name
    if target:
        options = xtmodules.read_target(family, *part)
    else:
        # Without a target of its own a rule leads to the next one.
        target = xtlayout.name_verdict(part, names) or xtmodules.UNKNOWN
    return XRule(tuple(sorted(tests)), target, options, is_goto, comment)


def _read_head(family: Family, head: xtlayout.Head) -> Iterator[Condition]:
    """What every entry has: addresses, interfaces, protocol."""
    inverse = head.inverse
    for option, (value, mask), bit in (
        ("-s", head.source, xtlayout.NOT_SOURCE),
        ("-d", head.destination, xtlayout.NOT_DESTINATION),
    ):
        if any(mask) or inverse & bit:
            yield Condition("", option, xtmodules.write_network(value, mask), bool(inverse & bit))
    for option, (value, mask), bit in (
        ("-i", head.incoming, xtlayout.NOT_IN),
        ("-o", head.outgoing, xtlayout.NOT_OUT),
    ):
        if any(mask) or inverse & bit:
            yield Condition("", option, _write_interface(value, mask), bool(inverse & bit))
    is_not = bool(inverse & xtlayout.NOT_PROTOCOL)
    if head.protocol or is_not:
        yield Condition("", "-p", _PROTOCOLS.get(head.protocol, str(head.protocol)), is_not)
    layout = xtlayout.LAYOUTS[FAMILIES[family]]
    if head.flags & ~(layout.goto | layout.plain_flags) or inverse & ~_NOTS:
        yield Condition("", xtmodules.UNKNOWN, f"flags {head.flags} {inverse}")


def _write_interface(name: bytes, mask: bytes) -> str:
    length = len(mask.rstrip(b"\0"))
    is_whole = b"\0" in name[:length] or length == len(name)
    written = xtlayout.text(name[:length]) + ("" if is_whole else "+")
    # Whoever compares only some bits of each letter means other names, too.
    return written if mask[:length] == b"\xff" * length else f"{written}/{mask[:length].hex()}"
