"""The server's side of one HTTP/2 connection without TLS (RFC 9113): bytes in, bytes out.

As much as gRPC needs: no priorities, no push, no upgrade. Always: a frame that is too long is
refused when its length is known, so that nothing is kept but one frame and one block of header
fields; the client's windows are obeyed; ours are full again after each frame, so that nothing need
be counted.
The caller sees to it that the client reads: what it is sent in answer to a flood of frames
(SETTINGS, PING) is as long as the flood.
Not here: what is asked and answered (`connection`). By hand, because python3-h2 takes 3.3 MB more.
"""

import struct

from . import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS = 100

# Types of frames (RFC 9113, 6), their flags, and codes of errors (7).
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 2, 3, 4, 5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM = 0, 1, 3, 6, 7
COMPRESSION_ERROR = 9
# Settings (6.5.2).
_ENABLE_PUSH, _MAX_CONCURRENT, _INITIAL_WINDOW, _MAX_FRAME, _MAX_HEADERS = 2, 3, 4, 5, 6

_HEAD = struct.Struct(">HBBBL")  # length in two parts, type, flags, stream
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
# What both sides begin with, and we keep.
_WINDOW, _FRAME = 65535, 16384
_MAX_WINDOW = 2**31 - 1
_MAX_BLOCK = hpack.MAX_BYTES


class Broken(Exception):
    """What the client sent is against the protocol: its connection is at its end."""

    def __init__(self, code: int, message: str) -> None:
        """`code`: of an error of HTTP/2."""
        super().__init__(message)
        self.code = code


class Handler:
    """What becomes of requests. Each method may send, reset and end streams."""

    def begin(self, stream: int, fields: hpack.Fields, *, is_end: bool) -> None:
        """A request; `is_end`: the client sends nothing more with it."""

    def take(self, stream: int, data: bytes, *, is_end: bool) -> None:
        """More of a request; of a stream that was ended by us nothing comes any more."""

    def forget(self, stream: int) -> None:
        """The client has given a request up."""

    def go_on(self, stream: int) -> None:
        """There may be room again; 0: for any stream."""


class _Stream:
    __slots__ = ("is_half_closed", "window")

    def __init__(self, window: int, *, is_half_closed: bool) -> None:
        self.window, self.is_half_closed = window, is_half_closed


class Server:
    """One connection."""

    def __init__(self, handler: Handler) -> None:
        """Begin with our settings, for which no client needs to wait."""
        self._handler = handler
        self._fields = hpack.Decoder()
        self._inbox = bytearray()
        self._awaited = PREFACE
        self._is_settled = False  # the client's first settings are there
        self._block: tuple[int, bool, bytearray] | None = None  # stream, whether its end, so far
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._window, self._first_window = _WINDOW, _WINDOW
        settings = ((_MAX_CONCURRENT, MAX_STREAMS), (_MAX_HEADERS, hpack.MAX_BYTES))
        self._outbox = bytearray()
        self._frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in settings))

    def take_output(self) -> bytes:
        """Return what is to be sent, once."""
        data, self._outbox = bytes(self._outbox), bytearray()
        return data

    def receive(self, data: bytes) -> None:
        """Take what the client has sent, frame by frame.

        Raises Broken; what the client is to be told of that is in the output.
        """
        self._inbox += data
        try:
            self._take_preface()
            while not self._awaited and self._take_frame():
                pass
        except Broken as error:
            last = _NUMBER.pack(self._last) + _NUMBER.pack(error.code)
            self._frame(_GOAWAY, 0, 0, last)
            raise

    def room(self, stream: int) -> int:
        """How many bytes of data the client would take now; not above zero: none."""
        return min(self._window, self._streams[stream].window, _FRAME)

    def send_fields(self, stream: int, block: bytes, *, is_end: bool = False) -> None:
        """Send a block of header fields (`hpack.encode`), or of trailers."""
        flags = _END_HEADERS | (_END_STREAM if is_end else 0)
        self._frame(_HEADERS, flags, stream, block)
        if is_end:
            ended = self._streams.pop(stream)
            if not ended.is_half_closed:
                # The answer is complete, and nothing more is to be sent (8.1).
                self.reset(stream, NO_ERROR)

    def send_data(self, stream: int, data: bytes) -> None:
        """Send data, not more than there is room for."""
        self._window -= len(data)
        self._streams[stream].window -= len(data)
        self._frame(_DATA, 0, stream, data)

    def reset(self, stream: int, code: int) -> None:
        """End a stream at once."""
        self._streams.pop(stream, None)
        self._frame(_RST_STREAM, 0, stream, _NUMBER.pack(code))

    # -- frames ---------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        high, low = divmod(len(payload), 256)
        self._outbox += _HEAD.pack(high, low, kind, flags, stream) + payload

    def _take_preface(self) -> None:
        size = min(len(self._awaited), len(self._inbox))
        if self._inbox[:size] != self._awaited[:size]:
            raise Broken(PROTOCOL_ERROR, "the client does not speak HTTP/2")
        del self._inbox[:size]
        self._awaited = self._awaited[size:]

    def _take_frame(self) -> bool:
        """Take one frame; whether there was a whole one."""
        if len(self._inbox) < _HEAD.size:
            return False
        high, low, kind, flags, stream = _HEAD.unpack_from(self._inbox)
        size, stream = high << 8 | low, stream & _MAX_WINDOW
        if size > _FRAME:
            raise Broken(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        if len(self._inbox) < _HEAD.size + size:
            return False
        payload = bytes(self._inbox[_HEAD.size : _HEAD.size + size])
        del self._inbox[: _HEAD.size + size]
        if not self._is_settled and (kind != _SETTINGS or flags & _ACK):
            raise Broken(PROTOCOL_ERROR, "the first frame holds no settings")
        if (self._block is not None) != (kind == _CONTINUATION):
            raise Broken(PROTOCOL_ERROR, "header fields are interrupted, or go on after their end")
        self._handle(kind, flags, stream, payload)
        return True

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == _PING:
            _expect(len(payload) == 8 and not stream, FRAME_SIZE_ERROR)
            if not flags & _ACK:
                self._frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            self._take_window(stream, payload)
        elif kind == _PUSH_PROMISE:
            raise Broken(PROTOCOL_ERROR, "a client cannot promise anything")
        elif kind == _GOAWAY:
            _expect(not stream, PROTOCOL_ERROR)  # it will close the connection by itself
        elif kind in (_DATA, _HEADERS, _RST_STREAM, _CONTINUATION, _PRIORITY):
            _expect(stream % 2 == 1, PROTOCOL_ERROR)
            self._handle_stream(kind, flags, stream, payload)
        # Other types are to be ignored (5.5).

    def _handle_stream(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            payload = _unpadded(flags, payload)
            if flags & _WITH_PRIORITY:
                _expect(len(payload) >= 5, FRAME_SIZE_ERROR)
                payload = payload[5:]
            self._block = (stream, bool(flags & _END_STREAM), bytearray())
            self._take_block(flags, stream, payload)
        elif kind == _CONTINUATION:
            self._take_block(flags, stream, payload)
        elif kind == _PRIORITY:
            _expect(len(payload) == 5, FRAME_SIZE_ERROR)
        elif stream > self._last:
            raise Broken(PROTOCOL_ERROR, "a frame of a stream that was never opened")
        elif kind == _RST_STREAM:
            _expect(len(payload) == 4, FRAME_SIZE_ERROR)
            if self._streams.pop(stream, None) is not None:
                self._handler.forget(stream)
        else:
            self._take_data(flags, stream, payload)

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        _expect(not stream, PROTOCOL_ERROR)
        if flags & _ACK:
            _expect(not payload, FRAME_SIZE_ERROR)
            return
        _expect(len(payload) % _SETTING.size == 0, FRAME_SIZE_ERROR)
        self._is_settled = True
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW:
                _expect(value <= _MAX_WINDOW, FLOW_CONTROL_ERROR)
                change, self._first_window = value - self._first_window, value
                for each in self._streams.values():
                    each.window += change
                    _expect(each.window <= _MAX_WINDOW, FLOW_CONTROL_ERROR)
            elif name == _MAX_FRAME:
                # No use is made of it: what we send is short.
                _expect(_FRAME <= value < 1 << 24, PROTOCOL_ERROR)
            elif name == _ENABLE_PUSH:
                _expect(value <= 1, PROTOCOL_ERROR)
        self._frame(_SETTINGS, _ACK, 0, b"")
        self._handler.go_on(0)

    def _take_window(self, stream: int, payload: bytes) -> None:
        _expect(len(payload) == 4, FRAME_SIZE_ERROR)
        added = _NUMBER.unpack(payload)[0] & _MAX_WINDOW
        _expect(stream <= self._last, PROTOCOL_ERROR)
        if not stream:
            _expect(added > 0, PROTOCOL_ERROR)
            self._window += added
            _expect(self._window <= _MAX_WINDOW, FLOW_CONTROL_ERROR)
        elif (known := self._streams.get(stream)) is not None:
            known.window += added
            if not added or known.window > _MAX_WINDOW:
                self.reset(stream, FLOW_CONTROL_ERROR if added else PROTOCOL_ERROR)
                self._handler.forget(stream)
                return
        self._handler.go_on(stream)

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        data = _unpadded(flags, payload)
        known = self._streams.get(stream)
        if size:
            # At once: the first request of Envoy nearly fills the window of its connection.
            self._frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(size))
        if known is None or known.is_half_closed:
            return  # it has not heard yet that this stream is at its end
        known.is_half_closed = bool(flags & _END_STREAM)
        if size and not known.is_half_closed:
            self._frame(_WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))
        self._handler.take(stream, data, is_end=known.is_half_closed)

    def _take_block(self, flags: int, stream: int, payload: bytes) -> None:
        assert self._block is not None
        opened, is_end, block = self._block
        _expect(stream == opened, PROTOCOL_ERROR)
        block += payload
        if len(block) > _MAX_BLOCK:
            raise Broken(PROTOCOL_ERROR, f"header fields of more than {_MAX_BLOCK} bytes")
        if not flags & _END_HEADERS:
            return
        self._block = None
        try:
            fields = self._fields.decode(bytes(block))
        except ValueError as error:
            raise Broken(COMPRESSION_ERROR, str(error)) from error
        if stream > self._last:
            self._open(stream, fields, is_end=is_end)
            return
        # Trailers: gRPC has none from clients, and only that they are the end matters.
        known = self._streams.get(stream)
        if known is not None and is_end and not known.is_half_closed:
            known.is_half_closed = True
            self._handler.take(stream, b"", is_end=True)

    def _open(self, stream: int, fields: hpack.Fields, *, is_end: bool) -> None:
        self._last = stream
        if len(self._streams) >= MAX_STREAMS:
            self.reset(stream, REFUSED_STREAM)
            return
        self._streams[stream] = _Stream(self._first_window, is_half_closed=is_end)
        self._handler.begin(stream, fields, is_end=is_end)


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    _expect(bool(payload) and payload[0] < len(payload), PROTOCOL_ERROR)
    return payload[1 : len(payload) - payload[0]]


def _expect(is_so: bool, code: int) -> None:
    if not is_so:
        raise Broken(code, "a frame is not as the protocol has it")
