"""What is said to istiod to be told the names of the mesh, by way of Envoy.

A stream of its own of istiod's discovery service (state of the world), beside Envoy's: istiod
gives names to whoever asks for that type. Envoy carries it, and TLS with it: to Envoy the stream
is one request of HTTP/1.1 whose body never ends, in chunks, each a message of gRPC.
Not here: sockets, and what the table of names says (`table`).
Always: what comes is bounded; what is not as it should be raises ValueError.
"""

import struct
from collections.abc import Mapping

from .. import protobuf

TYPE = b"type.googleapis.com/istio.networking.nds.v1.NameTable"
PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
MAX_BYTES = 32 << 20
_MAX_HEAD = 16384
_HEAD = (
    f"POST {PATH} HTTP/1.1\r\nhost: istiod\r\ncontent-type: application/grpc\r\n"
    "te: trailers\r\ntransfer-encoding: chunked\r\n\r\n"
).encode()
# DiscoveryRequest and DiscoveryResponse, Node, Any; Struct, its entries, Value, ListValue.
_VERSION, _NODE, _TYPE_URL, _NONCE = 1, 2, 4, 5
_RESOURCES, _OF_TYPE, _RESPONSE_NONCE = 2, 4, 5
_ID, _CLUSTER, _METADATA = 1, 2, 3
_ANY_VALUE = 2
_FIELDS, _KEY, _VALUE = 1, 1, 2
_NUMBER = b"\x11"  # field 2 of Value, eight bytes
_TEXT, _BOOL, _STRUCT, _LIST = 3, 4, 5, 6
_PREFIX = 5  # of a message of gRPC: not compressed, and its length
# With these a host registers, which is Envoy's business.
_OF_REGISTRATION = ("AUTO_REGISTER_GROUP", "WORKLOAD_ENTRY")


def render_request(node: Mapping[str, object]) -> bytes:
    """The begin of the stream. `node`: that of Envoy's bootstrap, as JSON values."""
    metadata = node.get("metadata")
    assert isinstance(metadata, dict)
    told = {key: value for key, value in metadata.items() if key not in _OF_REGISTRATION}
    whole = b"".join((
        protobuf.render_bytes(_ID, str(node["id"]).encode()),
        protobuf.render_bytes(_CLUSTER, str(node.get("cluster", "")).encode()),
        protobuf.render_bytes(_METADATA, _render_struct(told | {"DNS_CAPTURE": "true"})),
    ))  # fmt: skip
    first = protobuf.render_bytes(_NODE, whole) + protobuf.render_bytes(_TYPE_URL, TYPE)
    return _HEAD + _render_chunk(first)


def _render_struct(values: Mapping[str, object]) -> bytes:
    return b"".join(
        protobuf.render_bytes(
            _FIELDS,
            protobuf.render_bytes(_KEY, key.encode())
            + protobuf.render_bytes(_VALUE, _render_value(value)),
        )
        for key, value in values.items()
    )


def _render_value(value: object) -> bytes:
    if isinstance(value, bool):
        return protobuf.render_int(_BOOL, int(value))
    if isinstance(value, dict):
        return protobuf.render_bytes(_STRUCT, _render_struct(value))
    if isinstance(value, list):
        rendered = (protobuf.render_bytes(1, _render_value(each)) for each in value)
        return protobuf.render_bytes(_LIST, b"".join(rendered))
    if isinstance(value, int | float):
        return _NUMBER + struct.pack("<d", value)
    return protobuf.render_bytes(_TEXT, ("" if value is None else str(value)).encode())


def _render_chunk(message: bytes) -> bytes:
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    return b"%x\r\n%b\r\n" % (len(framed), framed)


class Stream:
    """One stream: what has come, and what is to be said to it."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._received = b""
        self._body = bytearray()
        self._has_head = False

    def receive(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take what came: the tables in it, each whole, and what to answer.

        Raises ValueError where the stream is over, or no such stream.
        """
        self._received += data
        if not self._has_head:
            self._read_head()
        self._read_chunks()
        if len(self._received) + len(self._body) > MAX_BYTES:
            raise ValueError("a message is too long")
        tables, answers = [], b""
        while len(self._body) >= _PREFIX:
            size = int.from_bytes(self._body[1:_PREFIX], "big")
            if self._body[0] or size > MAX_BYTES:
                raise ValueError("a message is compressed or too long")
            if len(self._body) < _PREFIX + size:
                break
            message = bytes(self._body[_PREFIX : _PREFIX + size])
            del self._body[: _PREFIX + size]
            found, answer = _read_response(message)
            tables += found
            answers += answer
        return tables, answers

    def _read_head(self) -> None:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MAX_HEAD:
                raise ValueError("its head is too long")
            return
        lines = head.lower().split(b"\r\n")
        if not lines[0].startswith(b"http/1.1 200"):
            raise ValueError(f"status {lines[0][9:12].decode(errors='replace')}")
        refusals = [line[:200] for line in lines if line.startswith(b"grpc-")]
        if refusals:
            raise ValueError(b", ".join(refusals).decode(errors="replace"))
        if b"transfer-encoding: chunked" not in lines:
            raise ValueError("its answer has an end")
        self._has_head, self._received = True, rest

    def _read_chunks(self) -> None:
        while self._has_head:
            line, end, rest = self._received.partition(b"\r\n")
            if not end:
                if len(line) > 16:
                    raise ValueError("a chunk has no length")
                return
            size = int(line, 16)
            if not size:
                raise ValueError("istiod has ended it")
            if not 0 < size <= MAX_BYTES:
                raise ValueError("a chunk is too long")
            if len(rest) < size + 2:
                return
            self._body += rest[:size]
            self._received = rest[size + 2 :]


def _read_response(message: bytes) -> tuple[list[bytes], bytes]:
    """The tables in a DiscoveryResponse, and the words that it was taken."""
    tables, fields = [], {}
    for number, value in protobuf.parse_bytes(message):
        if number == _RESOURCES:
            tables += [part for each, part in protobuf.parse_bytes(value) if each == _ANY_VALUE]
        else:
            fields[number] = value
    if fields.get(_OF_TYPE) != TYPE:
        return [], b""
    taken = b"".join((
        protobuf.render_bytes(_VERSION, fields.get(_VERSION, b"")),
        protobuf.render_bytes(_TYPE_URL, TYPE),
        protobuf.render_bytes(_NONCE, fields.get(_RESPONSE_NONCE, b"")),
    ))  # fmt: skip
    return tables, _render_chunk(taken)
