"""Messages of istiod's CreateCertificate, encoded by hand: three fields do not need a generator.

Demo and tests only, no part of the product. Protobuf encoding: a tag is `number << 3 | wire
type`, wire type 0 a varint, 1 eight bytes, 2 a length and that many bytes, 5 four bytes. Field
numbers from `security/v1alpha1/ca.proto` of istio/api. A gRPC message is one byte "compressed",
four bytes length, the message.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SERVICE = "istio.v1.auth.IstioCertificateService"
METHOD = f"/{SERVICE}/CreateCertificate"
MAX_MESSAGE = 1 << 20

# gRPC status codes used here (google.golang.org/grpc/codes).
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 12, 13
UNAVAILABLE, UNAUTHENTICATED = 14, 16


class Refused(Exception):
    """A call ends with this gRPC status and text; `cause` is for the log only."""

    def __init__(self, status: int, text: str, cause: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.cause = cause or text


@dataclass(frozen=True)
class SigningCall:
    """IstioCertificateRequest: the request in PEM and the life asked for (0: not said)."""

    csr: bytes
    ttl_s: int


def parse_call(message: bytes) -> SigningCall:
    """Read one IstioCertificateRequest; its metadata (field 4) counts for nothing here.

    Raises ValueError when it is not protobuf.
    """
    csr, ttl_s = b"", 0
    for number, value in read_fields(message):
        if number == 1 and isinstance(value, bytes):
            csr = value
        elif number == 3 and isinstance(value, int):
            ttl_s = value - (1 << 64) if value >= 1 << 63 else value
    return SigningCall(csr, ttl_s)


def render_call(csr: bytes, ttl_s: int = 0) -> bytes:
    """Return one IstioCertificateRequest, for test clients."""
    life = _varint(3 << 3) + _varint(ttl_s & (1 << 64) - 1) if ttl_s else b""
    return render_field(1, csr) + life


def render_chain(chain: Sequence[bytes]) -> bytes:
    """Return one IstioCertificateResponse: leaf, intermediates, root bundle."""
    return b"".join(render_field(1, pem) for pem in chain)


def parse_chain(message: bytes) -> list[bytes]:
    """Read one IstioCertificateResponse, for test clients. Raises ValueError."""
    return [v for n, v in read_fields(message) if n == 1 and isinstance(v, bytes)]


def render_frame(message: bytes) -> bytes:
    """Return the message with gRPC's five byte prefix."""
    return struct.pack(">BI", 0, len(message)) + message


def parse_frame(data: bytes) -> bytes:
    """Return the one message of a unary call.

    Raises Refused as grpc-go does for a compressed, oversized, cut or second message.
    """
    if len(data) < 5:
        raise Refused(INTERNAL, "grpc: no message in a unary call")
    compressed, size = struct.unpack_from(">BI", data)
    if compressed:
        raise Refused(UNIMPLEMENTED, "grpc: Decompressor is not installed")
    if size > MAX_MESSAGE:
        raise Refused(RESOURCE_EXHAUSTED, "grpc: received message larger than max")
    if len(data) != 5 + size:
        raise Refused(INTERNAL, "grpc: message cut short or more than one")
    return data[5:]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def render_field(number: int, data: bytes) -> bytes:
    """Return one field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index in range(10):
        if at + index >= len(data):
            break
        byte = data[at + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number & (1 << 64) - 1, at + index + 1
    raise ValueError("number cut short or too long")


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give number and value of each field; raises ValueError for what is not protobuf."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _read_varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("field cut short")
        yield tag >> 3, data[at : at + size]
        at += size
