"""The first or second packet of a TCP connection, or a datagram, as bytes with correct checksums.

Not here: where it goes. Sources: RFC 768, 791, 793, 1071, 8200.
"""

import ipaddress
import struct

ETHERTYPE_V4, ETHERTYPE_V6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
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
    return _put_head(ends, _TCP, _build_segment(ends, source_port, port, flags, sequence))


def build_datagram(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    data: bytes,
) -> bytes:
    """Give a datagram from its IP header on; both addresses are of one family."""
    ends = source.packed + destination.packed
    length = 8 + len(data)
    datagram = struct.pack(">HHHH", source_port, port, length, 0) + data
    total = _checksum(_pseudo(ends, _UDP, length) + datagram)
    return _put_head(ends, _UDP, datagram[:6] + struct.pack(">H", total or 0xFFFF) + data)


def _put_head(ends: bytes, protocol: int, content: bytes) -> bytes:
    if len(ends) == 8:
        head = struct.pack(
            ">BBHHHBBH8s", 0x45, 0, 20 + len(content), 0, 0x4000, _TTL, protocol, 0, ends
        )
        return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + content
    return struct.pack(">IHBB32s", 6 << 28, len(content), protocol, _TTL, ends) + content


def _pseudo(ends: bytes, protocol: int, length: int) -> bytes:
    """The sum covers both addresses, the length and the protocol, in whichever layout."""
    return ends + struct.pack(">HH", protocol, length)


def _build_segment(ends: bytes, source_port: int, port: int, flags: int, sequence: int) -> bytes:
    # The second packet acknowledges a number that nobody has sent.
    numbers = (source_port, port, sequence, int(flags == SYN_ACK))
    segment = struct.pack(">HHIIBBHHH", *numbers, 5 << 4, flags, _WINDOW, 0, 0)
    pseudo = _pseudo(ends, _TCP, len(segment))
    return segment[:16] + struct.pack(">H", _checksum(pseudo + segment)) + segment[18:]


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
