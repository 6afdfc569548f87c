"""A client of the secret discovery service on python3-h2, an HTTP/2 of others.

In memory (`exchange` with a connection) and over a unix socket (`Socket`). Acknowledges nothing by
itself: tests say what a client says.
"""

import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from istio_hostagent import protobuf
from istio_hostagent.sds import connection, secrets

STREAM, DELTA, FETCH = "StreamSecrets", "DeltaSecrets", "FetchSecrets"


class Client:
    """What one client has sent and got."""

    def __init__(self) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.messages: defaultdict[int, list[bytes]] = defaultdict(list)
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.is_told_to_go = False
        self.is_acknowledging = True  # gives windows back
        self._parts: defaultdict[int, bytearray] = defaultdict(bytearray)

    def open(self, method: str = STREAM, *, path: str = "", is_end: bool = False) -> int:
        """Begin a call; give its stream."""
        stream: int = self.http.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path or f"{connection.SERVICE.decode()}{method}"),
            (":authority", "sds-grpc"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self.http.send_headers(stream, fields, end_stream=is_end)
        return stream

    def send(self, stream: int, message: bytes, *, is_end: bool = False) -> None:
        """Send a message, as far as the windows of the server allow at once."""
        data = b"\0" + len(message).to_bytes(4, "big") + message
        for at in range(0, len(data), 16384):
            is_last = is_end and at + 16384 >= len(data)
            self.http.send_data(stream, data[at : at + 16384], end_stream=is_last)

    def feed(self, data: bytes) -> None:
        """Take what the server has sent."""
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                if self.is_acknowledging:
                    size = event.flow_controlled_length
                    self.http.acknowledge_received_data(size, event.stream_id)
                self._take(event.stream_id, event.data)
            elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                fields = dict(event.headers)
                if "grpc-status" in fields:
                    self.trailers[event.stream_id] = fields
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.is_told_to_go = True

    def _take(self, stream: int, data: bytes) -> None:
        part = self._parts[stream]
        part += data
        while len(part) >= 5 and len(part) >= 5 + int.from_bytes(part[1:5], "big"):
            size = int.from_bytes(part[1:5], "big")
            self.messages[stream].append(bytes(part[5 : 5 + size]))
            del part[: 5 + size]


def exchange(client: Client, served: connection.Connection) -> None:
    """Hand over what either side has for the other until both are silent."""
    while True:
        there = client.http.data_to_send()
        if there:
            served.receive(there)
        back = served.take_output()
        if back:
            client.feed(back)
        if not there and not back:
            return


class Socket:
    """The same over a unix socket."""

    def __init__(self, path: Path) -> None:
        self.client = Client()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def flush(self) -> None:
        self._socket.sendall(self.client.http.data_to_send())

    def wait_messages(self, stream: int, number: int) -> list[bytes]:
        """Wait until so many messages have come; AssertionError if the server leaves before."""
        self.flush()
        while len(self.client.messages[stream]) < number:
            assert self.read_once(), "the server has closed the connection"
        return self.client.messages[stream]

    def wait_trailers(self, stream: int) -> dict[str, str]:
        self.flush()
        while stream not in self.client.trailers:
            assert self.read_once(), "the server has closed the connection"
        return self.client.trailers[stream]

    def wait_closed(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(65536):
                pass

    def read_once(self) -> bool:
        """Take what comes next; whether there was anything but the end."""
        data = self._socket.recv(65536)
        self.client.feed(data)
        self.flush()
        return bool(data)

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    @property
    def raw(self) -> socket.socket:
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(
    *names: bytes, nonce: bytes = b"", error: str = "", kind: bytes = secrets.TYPE, node: int = 0
) -> bytes:
    """A DiscoveryRequest; `node`: bytes of its node."""
    parts = [protobuf.render_bytes(3, name) for name in names]
    parts += [protobuf.render_bytes(4, kind), protobuf.render_bytes(5, nonce)]
    if node:
        parts.insert(0, protobuf.render_bytes(2, b"x" * node))
    if error:
        parts.append(protobuf.render_bytes(6, protobuf.render_bytes(2, error.encode())))
    return b"".join(parts)


def delta(
    *names: bytes,
    unwanted: Iterable[bytes] = (),
    known: dict[bytes, bytes] | None = None,
    nonce: bytes = b"",
    error: str = "",
) -> bytes:
    """A DeltaDiscoveryRequest."""
    parts = [protobuf.render_bytes(2, secrets.TYPE), protobuf.render_bytes(6, nonce)]
    parts += [protobuf.render_bytes(3, name) for name in names]
    parts += [protobuf.render_bytes(4, name) for name in unwanted]
    for name, version in (known or {}).items():
        parts.append(
            protobuf.render_bytes(
                5, protobuf.render_bytes(1, name) + protobuf.render_bytes(2, version)
            )
        )
    if error:
        parts.append(protobuf.render_bytes(7, protobuf.render_bytes(2, error.encode())))
    return b"".join(parts)


def nonce_of(response: bytes) -> bytes:
    return dict(protobuf.parse_bytes(response))[5]


def found(response: bytes) -> dict[bytes, bytes]:
    """The secrets of a response, of either kind, by name: the fields of the message behind it."""
    result = {}
    for number, content in protobuf.parse_bytes(response):
        if number == 2:
            inner = dict(protobuf.parse_bytes(content))
            packed = (
                inner if inner.get(1) == secrets.TYPE else dict(protobuf.parse_bytes(inner[2]))
            )
            name, body = _split(packed[2])
            result[name] = body
    return result


def versions(response: bytes) -> dict[bytes, bytes]:
    """Of a delta response: the version of each secret."""
    inner = [
        dict(protobuf.parse_bytes(each))
        for number, each in protobuf.parse_bytes(response)
        if number == 2
    ]
    return {each[3]: each[1] for each in inner}


def _split(secret: bytes) -> tuple[bytes, bytes]:
    fields = list(protobuf.parse_bytes(secret))
    assert fields[0][0] == 1
    return fields[0][1], fields[1][1]
