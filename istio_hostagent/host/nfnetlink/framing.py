"""Netlink messages and attributes as bytes.

Not here: what the messages mean. Source: include/uapi/linux/netlink.h. Headers are in host order;
numbers inside nf_tables attributes are big-endian.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_BE32 = struct.Struct(">I")
TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_EXTENDED_TEXT = 1  # NLMSGERR_ATTR_MSG


class Received(NamedTuple):
    """One message as it came."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def pack_message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Put the header in front."""
    return pack_header(kind, flags, sequence, len(body)) + body


def pack_header(kind: int, flags: int, sequence: int, length: int) -> bytes:
    """Make the header of a body of this length; the kernel fills in the port."""
    return HEADER.pack(HEADER.size + length, kind, flags, sequence, 0)


def add_flags(data: bytearray, offset: int, flags: int) -> None:
    """Set further flags of the message that begins at `offset`."""
    size, kind, known, sequence, port = HEADER.unpack_from(data, offset)
    HEADER.pack_into(data, offset, size, kind, known | flags, sequence, port)


def split_messages(data: bytes) -> Iterator[Received]:
    """Cut what one `recv` gave; anything that does not fit its own length ends it."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield Received(kind, flags, sequence, data[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def pack(kind: int, data: bytes) -> bytes:
    """Make one attribute, padded to four bytes."""
    length = len(data) + 4
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length & 3)


def pack_nested(kind: int, *parts: bytes) -> bytes:
    """Make an attribute of attributes.

    Without NLA_F_NESTED, like the dumps of nf_tables: what is read equals what was sent.
    """
    return pack(kind, b"".join(parts))


def pack_be32(kind: int, value: int) -> bytes:
    """Make an attribute of one unsigned number."""
    return pack(kind, _BE32.pack(value & 0xFFFFFFFF))


def pack_text(kind: int, value: str) -> bytes:
    """Make an attribute of a NUL-terminated text."""
    return pack(kind, value.encode() + b"\0")


def iterate(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give type and content of each attribute in order."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def read(data: bytes) -> dict[int, bytes]:
    """Give the attributes by type; of several with one type the last."""
    return dict(iterate(data))


def be32(data: bytes) -> int:
    """Read an unsigned number; also from fewer or more bytes than four."""
    return int.from_bytes(data, "big")


def text(data: bytes) -> str:
    """Read a NUL-terminated text; bytes that are not UTF-8 appear escaped."""
    return data.rstrip(b"\0").decode(errors="backslashreplace")


def read_error(message: Received) -> tuple[int, str]:
    """Give errno (0: an acknowledgement) and the kernel's sentence, which may be empty."""
    code = -int(struct.unpack_from("=i", message.body)[0])
    if not message.flags & NLM_F_ACK_TLVS:
        return code, ""
    echoed = HEADER.size
    if not message.flags & NLM_F_CAPPED:
        echoed = (struct.unpack_from("=I", message.body, 4)[0] + 3) & ~3
    return code, text(read(message.body[4 + echoed :]).get(_EXTENDED_TEXT, b""))
