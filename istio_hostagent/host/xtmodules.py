"""What the matches and targets of rules in legacy tables say, in the words of iptables(8).

Those that python-iptables writes for us, each by name and revision. What no rule of ours has is a
condition or an option `?`, which equals nothing of ours. Not here: the rest of an entry
(`xtentries`).
Source: include/uapi/linux/netfilter/xt_*.h; numbers are in host order but for addresses and the
ports of translations.
"""

import contextlib
import ipaddress
import struct
from collections.abc import Callable, Mapping, Sequence

from ..redirect.xtables import FLAGS_LOOKED_AT, Condition, Family

UNKNOWN = "?"

_ALL_PORTS = (0, 0xFFFF)
_TCP_FLAGS = {1: "FIN", 2: "SYN", 4: "RST", 8: "PSH", 16: "ACK", 32: "URG"}
# XT_CONNTRACK_*: bits of what is looked at, and of states.
_STATE, _ORIGDST, _ORIGDST_PORT, _ALIAS = 1 << 0, 1 << 3, 1 << 9, 1 << 13
_STATES = {1: "INVALID", 1 << 7: "DNAT", 1 << 8: "UNTRACKED"}
_LOCAL = 1 << 2  # XT_ADDRTYPE_LOCAL
_INVERT_SOURCE, _INVERT_DESTINATION = 1 << 0, 1 << 1  # XT_ADDRTYPE_INVERT_*
_EVERY_BIT = 0xFFFFFFFF
# struct xt_connmark_tginfo1, and 2 with a shift in front of the mode
_CONNMARK = {1: "=3IB", 2: "=3I3B"}
# IPT_TCP_RESET and IP6T_TCP_RESET
_TCP_RESET = {Family.V4: 7, Family.V6: 6}
_ADDRESSES, _PORTS = 1, 2  # NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED


def write_network(value: bytes, mask: bytes) -> str:
    """An address with the length of its prefix, or with its mask."""
    bits = int.from_bytes(mask, "big")
    length, limit = bits.bit_count(), 8 * len(mask)
    address = ipaddress.ip_address(value)
    if bits != (1 << limit) - (1 << (limit - length)):
        return f"{address}/{ipaddress.ip_address(mask)}"
    return f"{address}/{length}"


def read_match(family: Family, name: str, revision: int, data: bytes) -> Sequence[Condition]:
    """The conditions of one match."""
    read_known = _MATCHES.get((name, revision))
    found: Sequence[Condition] | None = None
    if read_known is not None:
        with contextlib.suppress(struct.error):  # shorter than it is known to be
            found = read_known(family, data)
    return [Condition(name, UNKNOWN, data.hex())] if found is None else found


def _read_tcp(_family: Family, data: bytes) -> Sequence[Condition] | None:
    *ports, option, looked_at, compared, inverse = struct.unpack_from("=4H4B", data)
    if option or inverse & ~0x07:
        return None
    found = _read_ports("tcp", ports, inverse)
    if looked_at:
        flags = f"{_write_flags(looked_at)} {_write_flags(compared)}"
        found.append(Condition("tcp", "--tcp-flags", flags, bool(inverse & 0x04)))
    return found


def _write_flags(bits: int) -> str:
    return ",".join(name for bit, name in _TCP_FLAGS.items() if bits & bit) or "NONE"


assert _write_flags(0x17) == FLAGS_LOOKED_AT


def _read_udp(_family: Family, data: bytes) -> Sequence[Condition] | None:
    *ports, inverse = struct.unpack_from("=4HB", data)
    return None if inverse & ~0x03 else _read_ports("udp", ports, inverse)


def _read_ports(module: str, ports: Sequence[int], inverse: int) -> list[Condition]:
    found = []
    for option, pair, bit in (("--sport", ports[:2], 0x01), ("--dport", ports[2:], 0x02)):
        if tuple(pair) != _ALL_PORTS or inverse & bit:
            found.append(Condition(module, option, _write_range(*pair), bool(inverse & bit)))
    return found


def _write_range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}:{last}"


def _read_multiport(_family: Family, data: bytes) -> Sequence[Condition] | None:
    kind, count = data[0], data[1]
    ports = struct.unpack_from("=15H", data, 2)
    is_first = data[32:47]
    if kind > 1 or not 0 < count <= len(ports):
        return None
    parts = []
    left = iter(range(count))
    for at in left:
        parts.append(str(ports[at]))
        if is_first[at]:
            parts[-1] += f":{ports[next(left)]}"
    option = ("--sports", "--dports")[kind]
    return [Condition("multiport", option, ",".join(parts), bool(data[47]))]


def _read_owner(_family: Family, data: bytes) -> Sequence[Condition] | None:
    first_uid, last_uid, first_gid, last_gid, kinds, inverse = struct.unpack_from("=4I2B", data)
    if kinds & ~0x03:
        return None
    found = []
    for option, bit, first, last in (
        ("--uid-owner", 1, first_uid, last_uid),
        ("--gid-owner", 2, first_gid, last_gid),
    ):
        if kinds & bit:
            value = f"{first}" if first == last else f"{first}-{last}"
            found.append(Condition("owner", option, value, bool(inverse & bit)))
    return found


def _read_address_type(_family: Family, data: bytes) -> Sequence[Condition] | None:
    source, destination, flags = struct.unpack_from("=2HI", data)
    if flags & ~(_INVERT_SOURCE | _INVERT_DESTINATION) or {source, destination} - {0, _LOCAL}:
        return None
    sides = (
        ("--src-type", source, _INVERT_SOURCE),
        ("--dst-type", destination, _INVERT_DESTINATION),
    )
    return [
        Condition("addrtype", option, "LOCAL", bool(flags & bit))
        for option, kind, bit in sides
        if kind
    ]


def _read_mark(_family: Family, data: bytes) -> Sequence[Condition] | None:
    return _marked("mark", data)


def _read_connection_mark(_family: Family, data: bytes) -> Sequence[Condition] | None:
    return _marked("connmark", data)


def _marked(module: str, data: bytes) -> Sequence[Condition] | None:
    value, mask, inverse = struct.unpack_from("=2IB", data)
    if mask != _EVERY_BIT:
        return None
    return [Condition(module, "--mark", f"{value:#x}", bool(inverse))]


_XT_SOCKET_TRANSPARENT, _XT_SOCKET_NOWILDCARD = 1, 2  # xt_socket.h


def _read_socket(_family: Family, data: bytes) -> Sequence[Condition] | None:
    if data[0] not in (0, _XT_SOCKET_TRANSPARENT | _XT_SOCKET_NOWILDCARD):
        return None
    options = ("--transparent", "--nowildcard") if data[0] else ("",)
    return [Condition("socket", option, "") for option in options]


def _read_tracking(family: Family, data: bytes) -> Sequence[Condition] | None:
    looked_at, inverse, states, _ = struct.unpack_from("=4H", data, 146)
    found = []
    if looked_at & _STATE:
        if states not in _STATES:
            return None
        is_not = bool(inverse & _STATE)
        found.append(Condition("conntrack", "--ctstate", _STATES[states], is_not))
    if looked_at & _ORIGDST:
        width = family.bits // 8
        network = write_network(data[32 : 32 + width], data[48 : 48 + width])
        is_not = bool(inverse & _ORIGDST)
        found.append(Condition("conntrack", "--ctorigdst", network, is_not))
    if looked_at & _ORIGDST_PORT:
        (first,) = struct.unpack_from("=H", data, 140)
        (last,) = struct.unpack_from("=H", data, 156)
        value = _write_range(first, last)
        is_not = bool(inverse & _ORIGDST_PORT)
        found.append(Condition("conntrack", "--ctorigdstport", value, is_not))
    if looked_at & ~(_STATE | _ORIGDST | _ORIGDST_PORT | _ALIAS):
        return None
    return found


def _read_range(family: Family, data: bytes) -> Sequence[Condition] | None:
    width = family.bits // 8
    ends = [ipaddress.ip_address(data[at : at + width]) for at in range(0, 64, 16)]
    (flags,) = struct.unpack_from("=B", data, 64)
    # IPRANGE_SRC and IPRANGE_DST; the inverting bits are four higher.
    sides = (("--src-range", ends[:2], 0x01), ("--dst-range", ends[2:], 0x02))
    return [
        Condition("iprange", option, f"{first}-{last}", bool(flags & bit << 4))
        for option, (first, last), bit in sides
        if flags & bit
    ]


_Read = Callable[[Family, bytes], Sequence[Condition] | None]
# By name and revision, those that python-iptables writes for us.
_MATCHES: Mapping[tuple[str, int], _Read] = {
    ("tcp", 0): _read_tcp,
    ("udp", 0): _read_udp,
    ("multiport", 1): _read_multiport,
    ("owner", 1): _read_owner,
    ("addrtype", 1): _read_address_type,
    ("conntrack", 3): _read_tracking,
    ("iprange", 1): _read_range,
    ("mark", 1): _read_mark,
    ("connmark", 1): _read_connection_mark,
    ("socket", 1): _read_socket,
    ("socket", 2): _read_socket,
    ("socket", 3): _read_socket,
}


def read_target(
    family: Family, name: str, revision: int, data: bytes
) -> tuple[tuple[str, str], ...]:
    """The options of a target."""
    try:
        found = _read_known_target(family, name, revision, data)
    except struct.error:
        found = ()
    return found or ((UNKNOWN, data.hex()),)


def _read_known_target(
    family: Family, name: str, revision: int, data: bytes
) -> tuple[tuple[str, str], ...]:
    match name, revision:
        case "REJECT", 0:
            (kind,) = struct.unpack_from("=I", data)
            return (("--reject-with", "tcp-reset"),) if kind == _TCP_RESET[family] else ()
        case "CT", (1 | 2):
            flags, zone, events, expected, helper, timeout = struct.unpack_from(
                "=2H2I16s32s", data
            )
            is_plain = not (flags or events or expected or helper[0] or timeout[0])
            return (("--zone", str(zone)),) if is_plain else ()
        case "TPROXY", 1:
            mask, value, address, port = struct.unpack_from("=2I16s2s", data)
            is_plain = not (mask or value or any(address))
            return (("--on-port", str(int.from_bytes(port, "big"))),) if is_plain else ()
        case "CONNMARK", (1 | 2):
            mark, mask, other, *shift, mode = struct.unpack_from(_CONNMARK[revision], data)
            is_plain = not mark and {mask, other} == {_EVERY_BIT} and not any(shift[1:])
            words = {1: "--save-mark", 2: "--restore-mark"}
            return ((words[mode], ""),) if is_plain and mode in words else ()
        case (("REDIRECT" | "NETMAP"), 0):
            if family is Family.V4:
                count, flags, first, last, low, high = struct.unpack_from("=2I4s4s2s2s", data)
                if count != 1:
                    return ()
            else:
                flags, first, last, low, high = struct.unpack_from("=I16s16s2s2s", data)
            if name == "REDIRECT" and flags == _PORTS and low == high:
                return (("--to-ports", str(int.from_bytes(low, "big"))),)
            if name == "NETMAP" and flags == _ADDRESSES and not any(first) and set(last) == {0xFF}:
                return (("--to", "0.0.0.0/0" if family is Family.V4 else "::/0"),)
    return ()
