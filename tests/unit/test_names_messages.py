"""Queries for names and their answers, well made and not."""

import random
import struct
from ipaddress import ip_address

import pytest

from istio_hostagent.names import messages

V4 = tuple(ip_address(f"10.0.0.{n}").packed for n in range(1, 100))
V6 = tuple(ip_address(f"fd00::{n}").packed for n in range(1, 4))
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"  # 1232 bytes


def query(name: str, kind: int = messages.A, *, further: bytes = b"") -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part)
    head = messages.HEADER.pack(0x1234, 0x0100, 1, 0, 0, int(bool(further)))
    return head + labels + b"\0" + struct.pack(">HH", kind, 1) + further


def test_a_query_is_read_and_answered() -> None:
    found = messages.Query(query("Reviews.Shop.Example"))
    assert (found.name, found.kind, found.limit) == ("reviews.shop.example", messages.A, 512)
    answer = messages.render_answer(found, V4[:2])
    number, flags, questions, answers, *_ = messages.HEADER.unpack_from(answer)
    assert (number, flags, questions, answers) == (0x1234, 0x8580, 1, 2)
    # The letters are given back as they came.
    assert b"\x07Reviews\x04Shop\x07Example\0" in answer
    assert answer.endswith(V4[1])
    assert messages.is_answer(answer, 0x1234, found.question)
    assert messages.is_answer(messages.renumbered(answer, 7), 7, found.question.lower())
    assert not messages.is_answer(answer, 0x1235, found.question)
    assert not messages.is_answer(query("reviews.shop.example"), 0x1234, found.question)
    assert not messages.is_answer(answer, 0x1234, query("other.example")[12:])


def test_a_name_without_an_address_of_this_kind_has_an_empty_answer() -> None:
    answer = messages.render_answer(messages.Query(query("a.b", messages.AAAA)), ())
    _, flags, _, answers, *_ = messages.HEADER.unpack_from(answer)
    assert (flags & 0xF, answers) == (messages.NOERROR, 0)


@pytest.mark.parametrize(
    ("further", "is_stream", "shown"),
    [(b"", False, 30), (OPT, False, 75), (b"", True, 99)],
    ids=["udp", "edns", "tcp"],
)
def test_as_many_addresses_are_given_as_fit(further: bytes, is_stream: bool, shown: int) -> None:
    found = messages.Query(query("a.example", further=further), is_stream=is_stream)
    answer = messages.render_answer(found, V4)
    _, flags, _, answers, *_ = messages.HEADER.unpack_from(answer)
    assert answers == shown
    assert bool(flags & 0x0200) is (shown < 99)
    assert len(answer) <= found.limit


@pytest.mark.parametrize(
    "data",
    [
        b"",
        query("a.b")[:11],
        query("a.b")[:-1],
        query("a.b")[:14],
        query("a.b").replace(b"\x01\0\0\x01", b"\x81\0\0\x01"),
        query("a.b")[:4] + b"\0\2" + query("a.b")[6:],
        query("a.b")[:-1] + b"\3",
        query("a" * 200),
        query(".".join(["a" * 60] * 5)),
        query("a.b")[:12] + b"\xc0\x0c\0\1\0\1",
    ],
    ids=range(10),
)
def test_what_is_no_query_is_no_query(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        messages.Query(data)
    failure = messages.render_failure(data)
    assert not failure or failure[3] & 0xF == messages.SERVFAIL


def test_noise_raises_nothing_else() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        data = bytearray(query("reviews.shop.example", further=OPT))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        messages.render_failure(bytes(data))
        messages.is_answer(bytes(data), 1, b"x")
        try:
            found = messages.Query(bytes(data[: chance.randrange(len(data))]))
        except ValueError:
            continue
        messages.render_answer(found, V6)


def test_a_failure_is_said_of_every_query() -> None:
    failure = messages.render_failure(query("a.b"))
    assert failure[:2] == b"\x12\x34"
    assert failure[2:4] == b"\x81\x82"
    assert messages.render_failure(messages.renumbered(failure, 1)) == b""
