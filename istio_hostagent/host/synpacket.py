"""The first or second packet of a TCP connection as bytes, with correct checksums.

Not here: where it goes. Sources: RFC 791, 793, 1071, 8200.
"""

import ipaddress
import struct

ETHERTYPE_V4, ETHERTYPE_V6 = 0x0800, 0x86DD
_TCP = 6
SYN, SYN_ACK = 0x02, 0x12
_WINDOW = 1024
_TTL = 64
_NO_ADDRESSES = bytes(12)  # of the link layer: `lo` has none


def build_frame(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    sequence: int = 1,
) -> bytes:
    """Give an Ethernet frame for `lo`; both addresses are of one family."""
    kind = ETHERTYPE_V4 if source.version == 4 else ETHERTYPE_V6
    packet = build_packet(source, source_port, destination, port, SYN, sequence)
    return _NO_ADDRESSES + struct.pack(">H", kind) + packet


def build_packet(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    flags: int,
    sequence: int = 1,
) -> bytes:
    """Give the packet from its IP header on; both addresses are of one family."""
    ends = source.packed + destination.packed
    segment = _build_segment(ends, source_port, port, flags, sequence)
    if len(ends) == 8:
        head = struct.pack(
            ">BBHHHBBH8s", 0x45, 0, 20 + len(segment), 0, 0x4000, _TTL, _TCP, 0, ends
        )
        head = head[:10] + struct.pack(">H", _checksum(head)) + head[12:]
        return head + segment
    head = struct.pack(">IHBB32s", 6 << 28, len(segment), _TCP, _TTL, ends)
    return head + segment


def _build_segment(ends: bytes, source_port: int, port: int, flags: int, sequence: int) -> bytes:
    # The second packet acknowledges a number that nobody has sent.
    numbers = (source_port, port, sequence, int(flags == SYN_ACK))
    segment = struct.pack(">HHIIBBHHH", *numbers, 5 << 4, flags, _WINDOW, 0, 0)
    # The sum covers both addresses, the length and the protocol, in whichever layout.
    pseudo = ends + struct.pack(">HH", _TCP, len(segment))
    return segment[:16] + struct.pack(">H", _checksum(pseudo + segment)) + segment[18:]


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
