"""gRPC for one client of the secret server: bytes in, bytes out.

Sources: github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md and doc/statuscodes.md. Always: what a client
can make us keep is bounded (MAX_MESSAGE, MAX_KEPT, http2.MAX_STREAMS); whatever it sends, its own
connection is all that ends. It is handed no more bytes before all output is gone (the caller).
Not here: sockets, and who may connect (`host.secretserver`).
"""

from collections.abc import Callable

from . import hpack, http2, secrets
from .subscription import Method, Subscription

SERVICE = b"/envoy.service.secret.v3.SecretDiscoveryService/"
# Envoy's first request tells all its extensions, 62 kB.
MAX_MESSAGE = 512 << 10
# Of all calls of a client together that are not whole yet.
MAX_KEPT = 1 << 20

# Of google.rpc.Code.
_OK, _INVALID_ARGUMENT, _NOT_FOUND, _RESOURCE_EXHAUSTED = 0, 3, 5, 8
_UNIMPLEMENTED, _UNAVAILABLE = 12, 14
_HEAD = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_METHODS = {SERVICE + method.value: method for method in Method}
# Before each message: whether it is compressed, and its length.
_PREFIX = 5
_MAX_REASON = 300
# A field that hpack.encode takes.
_MAX_TEXT = 120


class _Call:
    """One call: what has come in and is not whole, what is not out yet, what ends it."""

    __slots__ = ("inbox", "is_asked", "is_half_closed", "outbox", "subscription")

    def __init__(self, method: Method) -> None:
        self.subscription = Subscription(method)
        self.inbox, self.outbox = bytearray(), bytearray()
        self.is_half_closed = self.is_asked = False


class Connection(http2.Handler):
    """One client; `remark` is told what a person should know, in one line without secrets."""

    def __init__(self, held: secrets.Secrets, remark: Callable[[str], None]) -> None:
        """Begin with what is to be given out now."""
        self._held = held
        self._remark = remark
        self._calls: dict[int, _Call] = {}
        self._http = http2.Server(self)
        self.is_over = False

    @property
    def is_idle(self) -> bool:
        """Whether no call is open."""
        return not self._calls

    def take_output(self) -> bytes:
        """Return what is to be sent to the client, once."""
        return self._http.take_output()

    def receive(self, data: bytes) -> None:
        """Take what the client has sent; afterwards there may be output, or it `is_over`."""
        try:
            self._http.receive(data)
        except http2.Broken as error:
            self.is_over = True
            self._remark(f"client dropped: {error}")

    def push(self, held: secrets.Secrets) -> None:
        """Give out these secrets from now on, to whoever has other ones."""
        self._held = held
        if not self.is_over:
            self.go_on(0)

    # -- what HTTP/2 has for us -----------------------------------------------------------------

    def begin(self, stream: int, fields: hpack.Fields, *, is_end: bool) -> None:
        """A call begins, or a request for something else."""
        method = _METHODS.get(dict(fields).get(b":path", b""))
        if method is None:
            trailers = (*_HEAD, *_status(_UNIMPLEMENTED, "unknown method"))
            self._http.send_fields(stream, hpack.encode(trailers), is_end=True)
            return
        call = self._calls[stream] = _Call(method)
        call.is_half_closed = is_end
        self._http.send_fields(stream, hpack.encode(_HEAD))
        self._pump(stream)

    def take(self, stream: int, data: bytes, *, is_end: bool) -> None:
        """More of the messages of a call."""
        call = self._calls[stream]
        call.inbox += data
        call.is_half_closed = is_end
        while len(call.inbox) >= _PREFIX:
            size = int.from_bytes(call.inbox[1:_PREFIX], "big")
            if call.inbox[0]:
                self._end(stream, _UNIMPLEMENTED, "compressed messages are not taken")
                return
            if size > MAX_MESSAGE:
                self._end(stream, _RESOURCE_EXHAUSTED, f"more than {MAX_MESSAGE} bytes")
                return
            if len(call.inbox) < _PREFIX + size:
                break
            message = bytes(call.inbox[_PREFIX : _PREFIX + size])
            del call.inbox[: _PREFIX + size]
            if not self._ask(stream, call, message):
                return
        if sum(len(each.inbox) for each in self._calls.values()) > MAX_KEPT:
            self._end(stream, _RESOURCE_EXHAUSTED, "too much is not whole yet")
        elif is_end:
            self._pump(stream)

    def forget(self, stream: int) -> None:
        """The client has given a call up."""
        self._calls.pop(stream, None)

    def go_on(self, stream: int) -> None:
        """There may be room, or something new, for a call; 0: for any."""
        for each in [stream] if stream else list(self._calls):
            self._pump(each)

    # -- calls ----------------------------------------------------------------------------------

    def _ask(self, stream: int, call: _Call, message: bytes) -> bool:
        """Take one message; give whether the call goes on."""
        try:
            refused = call.subscription.take(message)
        except ValueError as error:
            self._end(stream, _INVALID_ARGUMENT, str(error))
            return False
        call.is_asked = True
        if refused is not None:
            self._remark(f"the client refuses what it was sent: {_printable(refused)}")
        for name in call.subscription.names:
            if name not in secrets.NAMES:
                self._remark(f"the client asks for what is not here: {_printable(name)}")
        self._pump(stream)
        return stream in self._calls

    def _pump(self, stream: int) -> None:
        """Send what the client's window allows; then see whether something newer is due."""
        call = self._calls.get(stream)
        if call is None:
            return
        while True:
            if not call.outbox:
                message = call.subscription.answer(self._held)
                if not message:
                    break
                call.outbox += b"\0" + len(message).to_bytes(4, "big") + message
            room = self._http.room(stream)
            if room <= 0:
                return
            self._http.send_data(stream, bytes(call.outbox[:room]))
            del call.outbox[:room]
            if not call.outbox and call.subscription.method is Method.FETCH:
                self._end(stream, _OK)
                return
        self._end_if_done(stream, call)

    def _end_if_done(self, stream: int, call: _Call) -> None:
        """End a call to which nothing more can come; all of it is out."""
        if call.subscription.method is Method.FETCH and call.is_asked:
            is_known = any(name in secrets.NAMES for name in call.subscription.names)
            code = _UNAVAILABLE if is_known else _NOT_FOUND
            self._end(stream, code, "no such secret" + (" yet" if is_known else ""))
        elif call.is_half_closed:
            self._end(stream, _OK)

    def _end(self, stream: int, code: int, text: str = "") -> None:
        del self._calls[stream]
        self._http.send_fields(stream, hpack.encode(_status(code, text)), is_end=True)


def _status(code: int, text: str) -> hpack.Fields:
    # Percent-encoding is for what our texts do not hold.
    return [(b"grpc-status", b"%d" % code), (b"grpc-message", text.encode()[:_MAX_TEXT])]


def _printable(text: bytes) -> str:
    """What others have written, fit for a line of the log."""
    if b"PRIVATE KEY" in text:
        return "(not shown: it holds a key)"
    shown = "".join(char if " " <= char <= "~" else "?" for char in map(chr, text[:_MAX_REASON]))
    return shown + ("..." if len(text) > _MAX_REASON else "")
