"""The two messages of istiod's certificate service, in protobuf's wire format.

Not here: gRPC framing and the call (`host.ca`). Two messages with four fields do not earn a
generated module: importing protobuf costs 24 ms of CPU in every worker.
Sources: istio.io/api, security/v1alpha1/ca.proto; protobuf.dev/programming-guides/encoding.
"""

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CSR_FIELD = 1
_VALIDITY_FIELD = 3
_CHAIN_FIELD = 1


def render_request(csr: bytes, ttl_s: int) -> bytes:
    """Return an IstioCertificateRequest; `ttl_s` 0 leaves the life to the CA."""
    message = _varint(_CSR_FIELD << 3 | _BYTES) + _varint(len(csr)) + csr
    if ttl_s > 0:
        message += _varint(_VALIDITY_FIELD << 3 | _VARINT) + _varint(ttl_s)
    return message


def parse_response(message: bytes) -> tuple[bytes, ...]:
    """Return `cert_chain` of an IstioCertificateResponse: leaf, intermediates, root bundle.

    Unknown fields are skipped, as protobuf wants it. Raises ValueError for a broken message.
    """
    chain = []
    position = 0
    while position < len(message):
        tag, position = _parse_varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _parse_varint(message, position)
            continue
        if kind == _BYTES:
            length, position = _parse_varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field {field} has the unknown wire type {kind}")
        if length > len(message) - position:
            raise ValueError(f"field {field} is longer than the message")
        if field == _CHAIN_FIELD and kind == _BYTES:
            chain.append(message[position : position + length])
        position += length
    return tuple(chain)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _parse_varint(message: bytes, position: int) -> tuple[int, int]:
    number = 0
    for index in range(10):
        if position + index >= len(message):
            raise ValueError("the message ends within a number")
        byte = message[position + index]
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            return number, position + index + 1
    raise ValueError("a number has more than ten bytes")
