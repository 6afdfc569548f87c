"""The server half of unary gRPC over HTTP/2 for the demo authority, on top of python3-h2.

Demo and tests only, no part of the product. One connection, one thread, blocking: `serve` runs
until the peer leaves, breaks the protocol or the socket is shut down from outside. Whatever bytes
arrive, it returns; nothing but programming errors is raised. The mapping is gRPC's own to
HTTP/2 (PROTOCOL-HTTP2.md of grpc): a failure is a single header block with `grpc-status`.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from . import ca_wire

MAX_BODY = ca_wire.MAX_MESSAGE + 5
_BEGIN = [(":status", "200"), ("content-type", "application/grpc")]


@dataclass(frozen=True)
class Request:
    """One complete unary call: path, metadata with lower-case names, the gRPC body."""

    path: str
    metadata: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """The response message, or with `status` not 0 the failure; `is_cut`: close half way."""

    message: bytes = b""
    status: int = ca_wire.OK
    text: str = ""
    is_cut: bool = False


@dataclass
class _Stream:
    path: str
    metadata: dict[str, str]
    body: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    is_answered: bool = False


class Connection:
    """The server side of one HTTP/2 connection."""

    def __init__(self, sock: socket.socket, answer: Callable[[Request], Reply]) -> None:
        self._sock = sock
        self._answer = answer
        self._streams: dict[int, _Stream] = {}
        self._is_cut = False
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)

    def serve(self) -> str:
        """Answer calls until the connection ends; return why it ended."""
        try:
            self._h2.initiate_connection()
            self._flush()
            while data := self._sock.recv(65536):
                for event in self._h2.receive_data(data):
                    if isinstance(event, h2.events.ConnectionTerminated):
                        return "client said goodbye"
                    self._take(event)
                self._flush()
                if self._is_cut:
                    return "cut on purpose"
        except (h2.exceptions.H2Error, OSError, ValueError, LookupError) as error:
            self._say_goodbye()
            return f"{type(error).__name__}: {error}"
        return "client left"

    def _take(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", 0)
        if isinstance(event, h2.events.RequestReceived):
            headers = {_text(name): _text(value) for name, value in event.headers}
            self._streams[number] = _Stream(headers.get(":path", ""), headers)
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, number)
            stream = self._streams.get(number)
            if stream is None or stream.is_answered:
                return
            stream.body += event.data
            if len(stream.body) > MAX_BODY:
                text = "grpc: received message larger than max"
                self._fail(number, Reply(status=ca_wire.RESOURCE_EXHAUSTED, text=text))
        elif isinstance(event, h2.events.StreamEnded):
            stream = self._streams.get(number)
            if stream is not None and not stream.is_answered:
                self._reply(number, stream)
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(number, None)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for each in [number] if number else list(self._streams):
                self._pump(each)

    def _reply(self, number: int, stream: _Stream) -> None:
        request = Request(stream.path, stream.metadata, bytes(stream.body))
        reply = self._answer(request)
        if reply.status:
            self._fail(number, reply)
            return
        stream.is_answered = True
        self._h2.send_headers(number, _BEGIN)
        stream.out += ca_wire.render_frame(reply.message)
        if reply.is_cut:
            self._flush()
            self._h2.send_data(number, bytes(stream.out))
            frame = self._h2.data_to_send()
            self._sock.sendall(frame[: len(frame) // 2])
            self._is_cut = True
            return
        self._pump(number)

    def _fail(self, number: int, reply: Reply) -> None:
        self._streams.pop(number, None)
        trailers = [("grpc-status", str(reply.status)), ("grpc-message", _escape(reply.text))]
        self._h2.send_headers(number, _BEGIN + trailers, end_stream=True)

    def _pump(self, number: int) -> None:
        """Send what flow control allows; when all is out, end the call."""
        stream = self._streams.get(number)
        while stream is not None and stream.out:
            window = self._h2.local_flow_control_window(number)
            room = min(window, self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            self._h2.send_data(number, bytes(stream.out[:room]))
            del stream.out[:room]
        if stream is not None and stream.is_answered:
            del self._streams[number]
            self._h2.send_headers(number, [("grpc-status", "0")], end_stream=True)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._sock.sendall(data)

    def _say_goodbye(self) -> None:
        try:
            self._flush()  # after a protocol error h2 has queued its GOAWAY
        except OSError:
            return


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1").strip()


def _escape(text: str) -> str:
    """Percent-encode a status text as gRPC asks: all but printable ASCII, and % itself."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != 37 else f"%{byte:02X}" for byte in text.encode()
    )
