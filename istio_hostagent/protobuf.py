"""Protobuf's wire format, as far as the CA protocols and secret discovery need it.

Not here: what the fields mean (`identity.protocols`, `sds`). A dozen messages do not earn
generated modules: importing the library costs 24 ms of CPU in every worker. It loads
nothing, since the secret server has to stay small.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10


def render_bytes(number: int, content: bytes) -> bytes:
    """Return a field of bytes, text or a message within the message."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def render_int(number: int, value: int) -> bytes:
    """Return a field of a whole number that is not negative."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def parse(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give number and value of each field: an int of a varint, else the bytes as they stand.

    Raises ValueError where the message is broken, on the way.
    """
    at = 0
    while at < len(message):
        tag, at = _parse_varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _parse_varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _parse_varint(message, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"field {tag >> 3} has the unknown wire type {kind}")
        if size > len(message) - at:
            raise ValueError(f"field {tag >> 3} is longer than the message")
        # Numbers of fixed size stand in no message that we read.
        if kind == _BYTES:
            yield tag >> 3, message[at : at + size]
        at += size


def parse_bytes(message: bytes) -> Iterator[tuple[int, bytes]]:
    """As `parse`, without the numbers."""
    for number, value in parse(message):
        if isinstance(value, bytes):
            yield number, value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _parse_varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(message):
            raise ValueError("the message ends within a number")
        byte = message[at + index]
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            return number, at + index + 1
    raise ValueError("a number has more than ten bytes")
