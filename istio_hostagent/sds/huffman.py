r"""The Huffman code of header fields (RFC 7541, appendix B), decoding only.

The code is canonical: of a length and the symbols that have it, in rising order, the codes follow.
`tests/unit/test_sds_hpack.py` holds the table against python3-hpack.
"""

_SYMBOLS = (
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b'!"()?'),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (
        22,
        b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4"
        b"\xc6\xe4\xe8\xe9",
    ),
    (
        23,
        b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4"
        b"\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    ),
    (24, b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (
        27,
        b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    ),
    (
        28,
        b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b"
        b"\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    ),
    (30, b"\n\r\x16"),
)
_MAX_PADDING_BITS = 7


def _codes() -> dict[int, int]:
    """Symbols by code, with a one before the first bit, which keeps the length."""
    found = {}
    code = before = 0
    for length, symbols in _SYMBOLS:
        code <<= length - before
        before = length
        for symbol in symbols:
            found[1 << length | code] = symbol
            code += 1
    return found


_CODES = _codes()
_LONGEST = 1 << (_SYMBOLS[-1][0] + 1)


def decode(data: bytes) -> bytes:
    """Return the text; raises ValueError for what no encoder makes."""
    text = bytearray()
    seen = 1
    for byte in data:
        for shift in range(7, -1, -1):
            seen = seen << 1 | byte >> shift & 1
            symbol = _CODES.get(seen)
            if symbol is not None:
                text.append(symbol)
                seen = 1
            elif seen >= _LONGEST:
                raise ValueError("a header field has no such Huffman code")
    padding = seen.bit_length() - 1
    if padding > _MAX_PADDING_BITS or seen != (2 << padding) - 1:
        raise ValueError("a header field has the wrong padding")
    return bytes(text)
