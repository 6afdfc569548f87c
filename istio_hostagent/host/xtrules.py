"""The rules of x_tables in words: whole legacy tables, and single matches and targets as bytes.

iptables-nft keeps in nf_tables what it has no expression for in the same bytes (`compatrules`).
Not here: everything that no rule of Istio's outside its own chains has; it is a word that begins
with `?`. And asking for a table (`legacytables`).
Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h and
netfilter/x{t_*,_tables}.h; numbers are in host order but for ports in ranges of addresses.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..redirect import takeover
from . import legacytables

# struct ipt_getinfo: name, hooks that there are, where each begins, where its policy is, number
# of entries, their size.
_INFO = struct.Struct("=32s13I")
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_MODULE = struct.Struct(
    "=H29sB"
)  # struct xt_entry_match and xt_entry_target: size, name, revision
_VERDICTS = {-1: "DROP", -2: "ACCEPT", -4: "QUEUE", -5: "RETURN"}
_INVERSE_IN, _INVERSE_OUT, _INVERSE_FROM, _INVERSE_TO, _INVERSE_PROTOCOL = 1, 2, 8, 16, 64
_INVERSE_TOS, _INVERSE_FRAGMENT = 4, 32
_GOTO_V4, _FRAGMENT_V4 = 0x02, 0x01  # IPT_F_*
_PROTOCOL_V6, _GOTO_V6 = 0x01, 0x04  # IP6T_F_*: a protocol is given
_PROTOCOLS = {6: "tcp", 17: "udp"}
_COUNTERS_SIZE = 16  # struct xt_counters, at the end of an entry's fixed part
_ALL_PORTS = (0, 0xFFFF)
_PROTOCOL_GIVEN = 0x02  # NF_NAT_RANGE_PROTO_SPECIFIED
_ADDRESS_GIVEN = 0x01  # NF_NAT_RANGE_MAP_IPS


class _Layout(NamedTuple):
    """Where the fields of an entry are."""

    width: int  # of an address
    protocol: int
    flags: int  # and the inverting flags behind it
    offsets: int  # of target and next entry
    size: int


_LAYOUTS = {
    socket.AF_INET: _Layout(4, 80, 82, 88, 112),
    socket.AF_INET6: _Layout(16, 128, 131, 140, 168),
}


def read(family: socket.AddressFamily, table: str, found: legacytables.Entries) -> takeover.Table:
    """Read a table; its rules are in the order of its chains, without policies."""
    layout = _LAYOUTS[family]
    chains = _cut(layout, found)
    names = {chain.start: chain.name for chain in chains}
    rules = [
        _read_entry(family, chain.name, found.data, at, names)
        for chain in chains
        for at in chain.entries
    ]
    own = tuple(chain.name for chain in chains if not chain.is_built_in)
    return takeover.Table(table, own, tuple(rules))


def without_counters(
    family: socket.AddressFamily, found: legacytables.Entries
) -> legacytables.Entries:
    """The same with all counters at zero, to be compared."""
    layout = _LAYOUTS[family]
    data = bytearray(found.data)
    for at, _, _ in _walk(layout, found.data):
        end = at + layout.size
        data[end - _COUNTERS_SIZE : end] = bytes(_COUNTERS_SIZE)
    return legacytables.Entries(found.info, bytes(data))


class _Chain(NamedTuple):
    name: str
    is_built_in: bool
    start: int
    entries: list[int]  # where its rules are; the last one, its policy, is none of them


def _cut(layout: _Layout, found: legacytables.Entries) -> list[_Chain]:
    _, hooks, *numbers = _INFO.unpack(found.info)
    begins = {numbers[n]: name for n, name in enumerate(_HOOKS) if hooks & 1 << n}
    chains: list[_Chain] = []
    for at, target_at, next_at in _walk(layout, found.data):
        size, name, _ = _MODULE.unpack_from(found.data, target_at)
        if _text(name) == "ERROR":
            # The head of a chain, or the end of all.
            called = _text(found.data[target_at + _MODULE.size : target_at + size])
            chains.append(_Chain(called, False, next_at, []))
            continue
        if at in begins:
            chains.append(_Chain(begins[at], True, at, []))
        chains[-1].entries.append(at)
    for chain in chains:
        del chain.entries[-1:]
    return chains[:-1]


def _walk(layout: _Layout, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each entry is, its target, and the next entry."""
    at = 0
    while at + layout.size <= len(data):
        target, following = struct.unpack_from("=HH", data, at + layout.offsets)
        if following < layout.size:
            return
        yield at, at + target, at + following
        at += following


def _read_entry(
    family: socket.AddressFamily, chain: str, data: bytes, at: int, names: dict[int, str]
) -> takeover.Rule:
    layout = _LAYOUTS[family]
    target_at, end = (
        at + offset for offset in struct.unpack_from("=HH", data, at + layout.offsets)
    )
    words = list(_read_head(family, data[at : at + layout.size]))
    comment = ""
    position = at + layout.size
    while position + _MODULE.size <= target_at:
        size, name, revision = _MODULE.unpack_from(data, position)
        if size < _MODULE.size:
            break
        content = data[position + _MODULE.size : position + size]
        if _text(name) == "comment":
            comment = _text(content)
        else:
            words += read_match(_text(name), revision, content)
        position += size
    size, name, revision = _MODULE.unpack_from(data, target_at)
    content = data[target_at + _MODULE.size : min(target_at + size, end)]
    if not name.rstrip(b"\0"):
        (verdict,) = struct.unpack_from("=i", content)
        target = _VERDICTS.get(verdict) or names.get(verdict, takeover.UNKNOWN)
        # A jump to the next entry does nothing.
        return takeover.make_rule(chain, words, target, comment)
    target = read_target(family, _text(name), revision, content)
    return takeover.make_rule(chain, words, target, comment)


def _read_head(family: socket.AddressFamily, head: bytes) -> Iterator[str]:
    """The words of what every entry has: addresses, interfaces, protocol."""
    layout = _LAYOUTS[family]
    width = layout.width
    source, destination, source_mask, destination_mask = (
        head[number * width : (number + 1) * width] for number in range(4)
    )
    at = 4 * width
    interface, outgoing, mask, outgoing_mask = (
        head[at + 16 * number : at + 16 * (number + 1)] for number in range(4)
    )
    (protocol,) = struct.unpack_from("=H", head, layout.protocol)
    flags, inverse = head[layout.flags], head[layout.flags + 1]
    yield from write_address("-s", source, source_mask, is_not=bool(inverse & _INVERSE_FROM))
    yield from write_address(
        "-d", destination, destination_mask, is_not=bool(inverse & _INVERSE_TO)
    )
    yield from _write_interface("-i", interface, mask, is_not=bool(inverse & _INVERSE_IN))
    yield from _write_interface("-o", outgoing, outgoing_mask, is_not=bool(inverse & _INVERSE_OUT))
    if protocol:
        yield write_protocol(protocol, is_not=bool(inverse & _INVERSE_PROTOCOL))
    known = _GOTO_V4 if family == socket.AF_INET else _GOTO_V6 | _PROTOCOL_V6
    if flags & ~known or inverse & (_INVERSE_TOS | _INVERSE_FRAGMENT):
        yield f"{takeover.UNKNOWN} flags {flags} {inverse}"


def write_address(option: str, value: bytes, mask: bytes, *, is_not: bool) -> Iterator[str]:
    """The word of an address under a mask; any address is none."""
    bits = int.from_bytes(mask, "big")
    length = bits.bit_count()
    limit = 8 * len(mask)
    if bits != (1 << limit) - (1 << (limit - length)):
        yield f"{takeover.UNKNOWN} mask"
    elif length or is_not:
        yield f"{'! ' if is_not else ''}{option} {ipaddress.ip_address(value)}/{length}"


def _write_interface(option: str, name: bytes, mask: bytes, *, is_not: bool) -> Iterator[str]:
    length = len(mask.rstrip(b"\0"))
    if length or is_not:
        called = _text(name[:length])
        wild = "" if b"\0" in name[:length] or length == len(name) else "+"
        yield f"{'! ' if is_not else ''}{option} {called}{wild}"


def write_protocol(number: int, *, is_not: bool = False) -> str:
    """The word of a protocol."""
    return f"{'! ' if is_not else ''}-p {_PROTOCOLS.get(number, number)}"


def read_match(name: str, revision: int, data: bytes) -> list[str]:
    """The words of one match; none where it matches everything."""
    try:
        match name, revision:
            case "tcp", 0:
                *ports, option, mask, compared, inverse = struct.unpack_from("=4H4B", data)
                is_plain = not (option or mask or compared)
                return _write_ports(ports, inverse) if is_plain else [f"{takeover.UNKNOWN} tcp"]
            case "udp", 0:
                *ports, inverse = struct.unpack_from("=4HB", data)
                return _write_ports(ports, inverse)
            case "owner", 1:
                return _read_owner(data)
            case (("mark" | "connmark"), 1):
                mark, mask, inverse = struct.unpack_from("=2IB", data)
                if mask == 0xFFFFFFFF:
                    return [f"{'! ' if inverse else ''}--{name} {mark:#x}"]
    except struct.error:
        pass  # shorter than the kernel of this header had it: not understood
    return [f"{takeover.UNKNOWN} {name}"]


def _write_ports(ports: list[int], inverse: int) -> list[str]:
    words = []
    for option, pair, flag in (("--sport", ports[:2], 1), ("--dport", ports[2:], 2)):
        if tuple(pair) != _ALL_PORTS or inverse & flag:
            first, last = pair
            shown = f"{first}" if first == last else f"{first}:{last}"
            words.append(f"{'! ' if inverse & flag else ''}{option} {shown}")
    return [f"{takeover.UNKNOWN} ports"] if inverse & ~3 else words


def _read_owner(data: bytes) -> list[str]:
    first_uid, last_uid, first_gid, last_gid, kinds, inverse = struct.unpack_from("=4I2B", data)
    ranges = (("--uid-owner", 1, first_uid, last_uid), ("--gid-owner", 2, first_gid, last_gid))
    words = [
        f"{'! ' if inverse & flag else ''}{option} {first}"
        for option, flag, first, last in ranges
        if kinds & flag and first == last
    ]
    return words if len(words) == kinds.bit_count() else [f"{takeover.UNKNOWN} owner"]


def read_target(family: int, name: str, revision: int, data: bytes) -> str:
    """A target with its options."""
    try:
        found = _read_known_target(family, name, revision, data)
    except struct.error:
        found = ""
    return found or f"{name} {takeover.UNKNOWN}"


def _read_known_target(family: int, name: str, revision: int, data: bytes) -> str:
    match name, revision:
        case "MARK", 2:
            mark, mask = struct.unpack_from("=2I", data)
            return f"MARK --set-mark {mark:#x}" if mask == 0xFFFFFFFF else ""
        case "CONNMARK", 1:
            ctmark, ctmask, nfmask, mode = struct.unpack_from("=3IB", data)
            return _write_connmark(ctmark, ctmask, nfmask, mode)
        case "CONNMARK", 2:
            ctmark, ctmask, nfmask, _, bits, mode = struct.unpack_from("=3I3B", data)
            return "" if bits else _write_connmark(ctmark, ctmask, nfmask, mode)
        case "CT", (1 | 2):
            flags, zone, events, expected, helper, timeout = struct.unpack_from(
                "=2H2I16s32s", data
            )
            is_plain = not (flags or events or expected or helper[0] or timeout[0])
            return f"CT --zone {zone}" if is_plain else ""
        case (("REDIRECT" | "SNAT"), _) if family == socket.AF_INET and revision == 0:
            count, flags, first, last, low, high = struct.unpack_from("=2I4s4s2s2s", data)
            return _write_range(name, flags, first, last, low, high) if count == 1 else ""
        case (("REDIRECT" | "SNAT"), _):
            flags, first, last, low, high = struct.unpack_from("=I16s16s2s2s", data)
            if family == socket.AF_INET:
                first, last = first[:4], last[:4]
            return _write_range(name, flags, first, last, low, high)
    return ""


def _write_connmark(ctmark: int, ctmask: int, nfmask: int, mode: int) -> str:
    if ctmark or {ctmask, nfmask} != {0xFFFFFFFF}:
        return ""
    return {1: "CONNMARK --save-mark", 2: "CONNMARK --restore-mark"}.get(mode, "")


def _write_range(name: str, flags: int, first: bytes, last: bytes, low: bytes, high: bytes) -> str:
    if name == "REDIRECT" and flags == _PROTOCOL_GIVEN and low == high:
        return f"REDIRECT --to-ports {int.from_bytes(low, 'big')}"
    if name == "SNAT" and flags == _ADDRESS_GIVEN and first == last:
        return f"SNAT --to-source {ipaddress.ip_address(first)}"
    return ""


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="backslashreplace")
