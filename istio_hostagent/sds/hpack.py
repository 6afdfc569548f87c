"""Header fields of HTTP/2 (HPACK, RFC 7541): decoded whole, encoded without any table.

Always: what is decoded of one block, and what is kept for later ones, is bounded.
"""

from collections.abc import Iterable

from . import huffman

Fields = list[tuple[bytes, bytes]]

# What both sides begin with (RFC 9113, 6.5.2); we announce nothing else.
TABLE_BYTES = 4096
# Of a block once decoded, each field with the 32 bytes that RFC 7541 adds (4.1). A request of
# gRPC has a few hundred.
MAX_BYTES = 32 << 10
_OVERHEAD = 32
_MAX_INTEGER_BYTES = 4

# RFC 7541, appendix A; a value stands behind a colon and a blank.
_STATIC_TEXT = b""":authority
:method: GET
:method: POST
:path: /
:path: /index.html
:scheme: http
:scheme: https
:status: 200
:status: 204
:status: 206
:status: 304
:status: 400
:status: 404
:status: 500
accept-charset
accept-encoding: gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate"""


def _static() -> Fields:
    pairs = (line.partition(b": ") for line in _STATIC_TEXT.splitlines())
    return [(name, value) for name, _, value in pairs]


_STATIC = _static()


class Decoder:
    """One direction of one connection."""

    def __init__(self) -> None:
        """Begin with an empty table."""
        self._table: Fields = []  # the last one added first
        self._most = TABLE_BYTES

    def decode(self, block: bytes) -> Fields:
        """Return the fields of a whole block; after a ValueError this is of no use any more."""
        found: Fields = []
        left, at = MAX_BYTES, 0
        while at < len(block):
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                field = self._entry(index)
            elif first & 0xE0 == 0x20:
                most, at = _integer(block, at, 5)
                if most > TABLE_BYTES:
                    raise ValueError("a table is larger than was agreed on")
                self._most = most
                self._evict(0)
                continue
            else:
                is_kept = bool(first & 0x40)
                index, at = _integer(block, at, 6 if is_kept else 4)
                name, at = (self._entry(index)[0], at) if index else _string(block, at)
                value, at = _string(block, at)
                field = (name, value)
                if is_kept:
                    self._keep(field)
            left -= _size(field)
            if left < 0:
                raise ValueError(f"header fields of more than {MAX_BYTES} bytes")
            found.append(field)
        return found

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        if 0 <= index - len(_STATIC) - 1 < len(self._table):
            return self._table[index - len(_STATIC) - 1]
        raise ValueError("a header field refers to nothing")

    def _keep(self, field: tuple[bytes, bytes]) -> None:
        self._evict(_size(field))
        if _size(field) <= self._most:
            self._table.insert(0, field)

    def _evict(self, room: int) -> None:
        while self._table and sum(map(_size, self._table)) + room > self._most:
            self._table.pop()


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block of literal fields that no table keeps; texts are at most 126 bytes long."""
    block = bytearray()
    for field in fields:
        block.append(0)
        for text in field:
            assert len(text) < 127
            block.append(len(text))
            block += text
    return bytes(block)


def _size(field: tuple[bytes, bytes]) -> int:
    return len(field[0]) + len(field[1]) + _OVERHEAD


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of so many bits (5.1), and where it ends."""
    if at >= len(block):
        raise ValueError("header fields are cut short")
    most = (1 << bits) - 1
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    for index in range(_MAX_INTEGER_BYTES):
        if at >= len(block):
            raise ValueError("header fields are cut short")
        number += (block[at] & 127) << 7 * index
        at += 1
        if block[at - 1] < 128:
            return number, at
    raise ValueError("a header field has an integer that is too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    is_huffman = at < len(block) and block[at] & 0x80
    size, at = _integer(block, at, 7)
    if size > len(block) - at:
        raise ValueError("header fields are cut short")
    data = block[at : at + size]
    return huffman.decode(data) if is_huffman else data, at + size
