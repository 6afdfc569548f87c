"""The messages of both CA protocols, byte by byte, and what is read of any answer."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent import protobuf
from istio_hostagent.identity import protocols
from istio_hostagent.identity.protocols import citadel, istiod, messages

NOTHING = messages.Shown()


def length(number: int) -> bytes:
    return bytes([number] if number < 128 else [number & 127 | 128, number >> 7])


@given(st.lists(st.binary(max_size=200), min_size=2, max_size=5), st.binary(max_size=20))
def test_answer_of_istiod_is_read_past_unknown_fields(parts: list[bytes], other: bytes) -> None:
    unknown = b"\x12" + bytes([len(other)]) + other + b"\x18\xac\x02\x25abcd\x21abcdefgh"
    message = unknown
    for part in parts:
        message += b"\x0a" + length(len(part)) + part + unknown
    assert istiod.parse(message) == (b"\n".join(parts[:-1]), parts[-1])


@pytest.mark.parametrize("parse", [istiod.parse, citadel.parse])
@given(st.binary(max_size=200))
def test_any_answer_is_read_or_refused(parse: object, message: bytes) -> None:
    assert callable(parse)
    with contextlib.suppress(ValueError):
        parse(message)


def test_request_to_istiod_is_protobuf() -> None:
    assert istiod.render(b"csr", 3600, NOTHING) == b"\x0a\x03csr\x18\x90\x1c"
    assert istiod.render(b"c" * 300, 0, NOTHING) == b"\x0a\xac\x02" + b"c" * 300


def test_request_to_a_citadel_has_whole_minutes_and_never_none() -> None:
    onprem = b"\x0a\x03csr\x1a\x06onprem\x20"
    assert citadel.render(b"csr", 3600, NOTHING) == onprem + b"\x3c"
    assert citadel.render(b"csr", 30, NOTHING) == onprem + b"\x01"
    # Left out, it would be taken for 0: a certificate that has ended.
    assert citadel.render(b"csr", 0, NOTHING) == onprem + b"\xa0\x0b"
    shown = messages.Shown("gcp", b"jwt")
    assert citadel.render(b"csr", 60, shown) == b"\x0a\x03csr\x12\x03jwt\x1a\x03gcp\x20\x01"
    assert "jwt" not in repr(shown)


def test_answer_of_a_citadel_is_read_in_all_its_forms() -> None:
    # Istio 0.2 to 0.6 sent leaf and intermediates in field 3, later ones in 3 and 4.
    both = b"\x08\x01\x1a\x08leaf+mid"
    assert citadel.parse(both) == (b"leaf+mid", None)
    assert citadel.parse(b"\x08\x01\x1a\x04leaf\x22\x03mid") == (b"leaf\nmid", None)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x1a\x04leaf", "the request is not approved"),
        (b"\x08\x00\x12\x08\x08\x07\x12\x04no\x07!", "the request is not approved no !"),
        (b"", "the request is not approved"),
    ],
)
def test_answer_of_a_citadel_that_says_no_is_named(message: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        citadel.parse(message)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("(requested TTL 2160h1m0s is greater than the max allowed TTL 2160h0m0s)", 2160 * 3600),
        ("(requested TTL 169h0m0s is greater than the max allowed TTL 168h0m0s)", 168 * 3600),
        ("is greater than the max allowed TTL 90m0s)", 5400),
        ("something else", None),
    ],
)
def test_longest_life_is_read_from_the_refusal(words: str, seconds: int | None) -> None:
    assert protocols.find_longest_life(words) == seconds


def test_fields_are_read_in_their_order() -> None:
    message = protobuf.render_int(4, 300)
    message += protobuf.render_bytes(1, b"a") + protobuf.render_bytes(1, b"b")
    assert list(protobuf.parse(message)) == [(4, 300), (1, b"a"), (1, b"b")]
    assert list(protobuf.parse_bytes(message)) == [(1, b"a"), (1, b"b")]
