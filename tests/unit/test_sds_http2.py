"""HTTP/2 and header fields by hand, held against python3-h2 and python3-hpack, and against abuse."""

import hpack as peer
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from istio_hostagent.sds import connection, hpack, http2, huffman, secrets
from tests.lab import sds

HELD = secrets.make(b"key", b"chain", b"root")
TEXTS = st.binary(max_size=60)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big")
        + bytes((kind, flags))
        + stream.to_bytes(4, "big")
        + payload
    )


SETTINGS = frame(4, 0, 0)
BEGIN = http2.PREFACE + SETTINGS
PATH = connection.SERVICE + b"StreamSecrets"
OPEN = frame(1, 4, 1, hpack.encode([(b":path", PATH)]))


@given(TEXTS)
@example(bytes(range(256)))
def test_huffman_codes_are_read_as_python3_hpack_writes_them(text: bytes) -> None:
    codes = peer.huffman_constants
    coder = peer.huffman.HuffmanEncoder(codes.REQUEST_CODES, codes.REQUEST_CODES_LENGTH)
    assert huffman.decode(coder.encode(text)) == text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xff\xff\xff", "no such Huffman code"),  # the end of a string
        (b"\x00", "wrong padding"),
        (b"\xff" * 2, "wrong padding"),
        (b"\x1f\xff", "wrong padding"),
    ],
)
def test_what_no_encoder_makes_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        huffman.decode(data)


FIELD = st.tuples(st.sampled_from([b":path", b":method", b"te", b"x-a", b"cookie"]), TEXTS)


@given(st.lists(st.lists(FIELD, max_size=8), max_size=6), st.booleans(), st.integers(0, 4096))
def test_fields_are_read_as_python3_hpack_writes_them(
    blocks: list[list[tuple[bytes, bytes]]], is_huffman: bool, table: int
) -> None:
    encoder, decoder = peer.Encoder(), hpack.Decoder()
    for number, fields in enumerate(blocks):
        if number == 1:
            encoder.header_table_size = table
        assert decoder.decode(encoder.encode(fields, huffman=is_huffman)) == fields


@pytest.mark.parametrize("table", [4096, 500, 0])
def test_what_no_longer_fits_into_the_table_is_forgotten_as_the_encoder_does(table: int) -> None:
    encoder, decoder = peer.Encoder(), hpack.Decoder()
    fields = [(b"x-%d" % number, b"v" * 60) for number in range(60)]
    for _ in range(2):
        for at in range(0, len(fields), 7):
            some = [*fields[at : at + 7], *fields[:2]]
            assert decoder.decode(encoder.encode(some)) == some
        encoder.header_table_size = table


def test_what_is_forgotten_cannot_be_referred_to() -> None:
    decoder = hpack.Decoder()
    for number in range(200):
        decoder.decode(b"\x40\x03%03d\x64%s" % (number, b"v" * 100))
    # 135 bytes each of 4096.
    assert decoder.decode(b"\xbe") == [(b"199", b"v" * 100)]
    assert decoder.decode(bytes((0x80 | 62 + 29,))) == [(b"170", b"v" * 100)]
    with pytest.raises(ValueError, match="refers to nothing"):
        decoder.decode(bytes((0x80 | 62 + 30,)))
    decoder = hpack.Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    with pytest.raises(ValueError, match="refers to nothing"):
        decoder.decode(b"\x20\xbe")


def test_fields_are_written_as_python3_hpack_reads_them() -> None:
    fields = [(b":status", b"200"), (b"grpc-message", b"no such secret yet")]
    assert peer.Decoder().decode(hpack.encode(fields), raw=True) == fields


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_value_error(block: bytes) -> None:
    try:
        hpack.Decoder().decode(block)
    except ValueError:
        return


def test_a_few_bytes_that_stand_for_many_fields_are_refused() -> None:
    value = b"v" * 4000
    block = b"\x40\x01a\x7f\xa1\x1e" + value + b"\xbe" * 100
    with pytest.raises(ValueError, match="more than"):
        hpack.Decoder().decode(block)


def serve(*remarks: list[str]) -> connection.Connection:
    return connection.Connection(HELD, remarks[0].append if remarks else lambda _: None)


def test_a_request_of_62_kb_is_taken_though_the_window_is_hardly_larger() -> None:
    client, served = sds.Client(), serve()
    first, second = client.open(), client.open()
    sds.exchange(client, served)
    client.send(first, sds.request(b"default", node=62_000))
    sds.exchange(client, served)
    client.send(second, sds.request(b"ROOTCA", node=62_000))
    sds.exchange(client, served)
    assert [len(client.messages[each]) for each in (first, second)] == [1, 1]


def test_the_window_of_the_client_is_obeyed_and_what_does_not_fit_follows() -> None:
    client, served = sds.Client(), serve()
    client.http.update_settings({4: 16})
    client.is_acknowledging = False
    stream = client.open()
    sds.exchange(client, served)
    client.send(stream, sds.request(b"default", b"ROOTCA"))
    sds.exchange(client, served)
    assert client.messages[stream] == []
    client.http.increment_flow_control_window(16, stream)
    sds.exchange(client, served)
    assert client.messages[stream] == []
    client.http.update_settings({4: 60_000})
    sds.exchange(client, served)
    assert set(sds.found(client.messages[stream][0])) == {b"default", b"ROOTCA"}


def test_the_window_of_the_whole_connection_is_obeyed_too() -> None:
    client = sds.Client()
    served = connection.Connection(secrets.make(b"k", b"c", b"r" * 50_000), lambda _: None)
    client.http.update_settings({4: 1 << 20})
    client.is_acknowledging = False
    streams = [client.open() for _ in range(2)]
    for stream in streams:
        client.send(stream, sds.request(b"ROOTCA"))
    sds.exchange(client, served)  # h2 would refuse data beyond the window
    assert [len(client.messages[stream]) for stream in streams] == [1, 0]
    client.http.increment_flow_control_window(50_000)
    sds.exchange(client, served)
    assert [len(client.messages[stream]) for stream in streams] == [1, 1]


def test_a_smaller_window_in_the_middle_stops_what_is_under_way() -> None:
    client = sds.Client()
    served = connection.Connection(secrets.make(b"k" * 5000, b"c", b"r"), lambda _: None)
    client.http.update_settings({4: 100})
    stream = client.open()
    sds.exchange(client, served)
    client.send(stream, sds.request(b"default"))
    sds.exchange(client, served)
    client.http.update_settings({4: 10})
    sds.exchange(client, served)  # h2 would refuse data beyond the window
    client.http.increment_flow_control_window(6000, stream)
    sds.exchange(client, served)
    assert len(client.messages[stream]) == 1


def test_a_ping_is_answered_and_a_priority_ignored() -> None:
    client, served = sds.Client(), serve()
    client.http.ping(b"12345678")
    client.http.prioritize(1, weight=5)
    there = client.http.data_to_send()
    served.receive(there)
    assert frame(6, 1, 0, b"12345678") in served.take_output()
    assert not served.is_over


def test_more_than_a_hundred_calls_are_refused_and_the_others_go_on() -> None:
    client, served = sds.Client(), serve()
    streams = [client.open() for _ in range(http2.MAX_STREAMS + 1)]
    served.receive(client.http.data_to_send())
    client.feed(served.take_output())
    assert client.resets == {streams[-1]: http2.REFUSED_STREAM}
    client.send(streams[0], sds.request(b"ROOTCA"))
    sds.exchange(client, served)
    assert len(client.messages[streams[0]]) == 1


def test_what_comes_for_a_call_that_was_ended_is_swallowed_and_its_window_given_back() -> None:
    client, served = sds.Client(), serve()
    stream = client.open(path="/nobody.knows/It")
    for _ in range(3):
        client.send(stream, bytes(16_000))
    sds.exchange(client, served)
    assert client.trailers[stream]["grpc-status"] == "12"
    # It is told to stop.
    assert client.resets == {stream: http2.NO_ERROR}
    assert not served.is_over
    assert client.http.outbound_flow_control_window == 65_535


def test_a_call_that_was_given_up_is_forgotten() -> None:
    client, served = sds.Client(), serve()
    stream = client.open()
    client.send(stream, sds.request(b"ROOTCA"))
    sds.exchange(client, served)
    client.http.reset_stream(stream)
    sds.exchange(client, served)
    assert served.is_idle
    served.push(secrets.make(b"k", b"c", b"other"))
    assert served.take_output() == b""


HOSTILE = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b" " * 20,
    "no settings": http2.PREFACE + frame(6, 0, 0, bytes(8)),
    "frame too long": BEGIN + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "data on no stream": BEGIN + frame(0, 0, 0, b"x"),
    "data of a stream that was never opened": BEGIN + frame(0, 0, 7, b"x"),
    "stream of the server": BEGIN + frame(1, 4, 2, b"\x82"),
    "push promise": BEGIN + frame(5, 4, 1, bytes(4)),
    "continuation of nothing": BEGIN + frame(9, 4, 1),
    "header fields interrupted": BEGIN + frame(1, 0, 1) + frame(6, 0, 0, bytes(8)),
    "continuation of another stream": BEGIN + frame(1, 0, 1) + frame(9, 4, 3),
    "header fields without end": BEGIN + frame(1, 0, 1) + frame(9, 0, 1, bytes(16384)) * 3,
    "field that refers to nothing": BEGIN + frame(1, 4, 1, b"\xfe"),
    "settings cut short": BEGIN + frame(4, 0, 0, bytes(5)),
    "settings of a stream": BEGIN + frame(4, 0, 1),
    "window too large": BEGIN + frame(8, 0, 0, b"\x7f\xff\xff\xff"),
    "initial window too large": BEGIN + frame(4, 0, 0, b"\0\x04\xff\xff\xff\xff"),
    "frame size too small": BEGIN + frame(4, 0, 0, b"\0\x05\0\0\0\x01"),
    "window update of nothing": BEGIN + frame(8, 0, 0, bytes(4)),
    "window update cut short": BEGIN + frame(8, 0, 0, bytes(3)),
    "window of a stream that was never opened": BEGIN + frame(8, 0, 9, bytes(4)),
    "ping cut short": BEGIN + frame(6, 0, 0, bytes(7)),
    "reset cut short": BEGIN + OPEN + frame(3, 0, 1, bytes(3)),
    "reset of a stream that was never opened": BEGIN + frame(3, 0, 5, bytes(4)),
    "padding longer than the frame": BEGIN + OPEN + frame(0, 8, 1, b"\x09x"),
    "priority within fields cut short": BEGIN + frame(1, 0x24, 1, bytes(4)),
    "table larger than agreed on": BEGIN + frame(1, 4, 1, b"\x3f\xe2\x1f"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_client_against_the_protocol_is_told_to_go(data: bytes) -> None:
    remarks: list[str] = []
    served = serve(remarks)
    served.receive(data)
    assert served.is_over
    assert len(remarks) == 1 and remarks[0].startswith("client dropped: ")
    assert b"\x07\x00\x00\x00\x00\x00" in served.take_output()  # GOAWAY


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_it_is_the_same_byte_by_byte(data: bytes) -> None:
    served = serve()
    for byte in data:
        if not served.is_over:
            served.receive(bytes((byte,)))
    assert served.is_over


TAMED = {
    "unknown frame": frame(77, 1, 0, b"abc"),
    "acknowledgement": frame(4, 1, 0),
    "reset twice": OPEN + frame(3, 0, 1, bytes(4)) * 2,
    "window of a call that is over": OPEN + frame(3, 0, 1, bytes(4)) + frame(8, 0, 1, bytes(4)),
    "zero window of a call": OPEN + frame(8, 0, 1, bytes(4)),
    "padded data": OPEN + frame(0, 8, 1, b"\x02\x00\x00\x00"),
    "trailers": OPEN + frame(1, 5, 1, b"\x00\x01a\x01b"),
    "goodbye": frame(7, 0, 0, bytes(8)),
    "two thousand calls given up": b"".join(
        frame(1, 4, 2 * n + 1, hpack.encode([(b":path", PATH)])) + frame(3, 0, 2 * n + 1, bytes(4))
        for n in range(2000)
    ),
}


@pytest.mark.parametrize("data", TAMED.values(), ids=TAMED)
def test_a_client_may_do_this_and_goes_on(data: bytes) -> None:
    served = serve()
    served.receive(BEGIN + data)
    served.take_output()
    assert not served.is_over
    served.receive(frame(6, 0, 0, b"01234567"))
    assert served.take_output() == frame(6, 1, 0, b"01234567")


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_no_bytes_of_a_client_are_a_failure_of_ours(parts: list[bytes]) -> None:
    served = serve()
    for part in (BEGIN + OPEN, *parts):
        if not served.is_over:
            served.receive(part)


FRAMES = st.builds(
    frame, st.integers(0, 10), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=20)
)


@given(st.lists(FRAMES, max_size=30))
def test_no_frames_of_a_client_are_a_failure_of_ours(frames: list[bytes]) -> None:
    served = serve()
    served.receive(BEGIN + b"".join(frames))
