"""The rules of x_tables in words: whole legacy tables, and single matches and targets as bytes.

iptables-nft keeps in nf_tables what it has no expression for in the same bytes (`compatrules`).
Not here: everything that no rule of Istio's outside its own chains has; it is a word that begins
with `?`. And asking for a table (`legacytables`), and where its entries are (`xtlayout`).
Source: include/uapi/linux/netfilter/xt_*.h; numbers are in host order but for ports in ranges of
addresses.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterator

from ..redirect import takeover
from . import legacytables, xtlayout

_PROTOCOLS = {6: "tcp", 17: "udp"}
_ALL_PORTS = (0, 0xFFFF)
_PROTOCOL_GIVEN = 0x02  # NF_NAT_RANGE_PROTO_SPECIFIED
_ADDRESS_GIVEN = 0x01  # NF_NAT_RANGE_MAP_IPS


def read(family: socket.AddressFamily, table: str, found: legacytables.Entries) -> takeover.Table:
    """Read a table; its rules are in the order of its chains, without policies."""
    chains = xtlayout.cut(family, found)
    names = {chain.start: chain.name for chain in chains}
    rules = [
        _read_entry(family, chain.name, found.data, at, names)
        for chain in chains
        for at in chain.entries
    ]
    own = tuple(chain.name for chain in chains if not chain.is_built_in)
    return takeover.Table(table, own, tuple(rules))


def _read_entry(
    family: socket.AddressFamily, chain: str, data: bytes, at: int, names: dict[int, str]
) -> takeover.Rule:
    words = list(_read_head(family, xtlayout.read_head(family, data, at)))
    comment = ""
    for part in xtlayout.read_matches(family, data, at):
        if part.name == "comment":
            comment = xtlayout.text(part.data)
        else:
            words += read_match(*part)
    part = xtlayout.read_target(family, data, at)
    if part.name:
        target = read_target(family, *part)
    else:
        # A jump to the next entry does nothing.
        target = xtlayout.name_verdict(part, names) or takeover.UNKNOWN
    return takeover.make_rule(chain, words, target, comment)


def _read_head(family: socket.AddressFamily, head: xtlayout.Head) -> Iterator[str]:
    """The words of what every entry has: addresses, interfaces, protocol."""
    inverse = head.inverse
    for option, (value, mask), bit in (
        ("-s", head.source, xtlayout.NOT_SOURCE),
        ("-d", head.destination, xtlayout.NOT_DESTINATION),
    ):
        yield from write_address(option, value, mask, is_not=bool(inverse & bit))
    for option, (value, mask), bit in (
        ("-i", head.incoming, xtlayout.NOT_IN),
        ("-o", head.outgoing, xtlayout.NOT_OUT),
    ):
        yield from _write_interface(option, value, mask, is_not=bool(inverse & bit))
    if head.protocol:
        yield write_protocol(head.protocol, is_not=bool(inverse & xtlayout.NOT_PROTOCOL))
    layout = xtlayout.LAYOUTS[family]
    unknown = inverse & (xtlayout.NOT_TOS | xtlayout.NOT_FRAGMENT)
    if head.flags & ~(layout.goto | layout.plain_flags) or unknown:
        yield f"{takeover.UNKNOWN} flags {head.flags} {inverse}"


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
        called = xtlayout.text(name[:length])
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
