"""What is made of Envoy's counters of its requests to the control plane, honest or not."""

import re
from urllib.parse import unquote

import pytest

from istio_hostagent.supervise import controlplane
from istio_hostagent.supervise.controlplane import ControlPlane, State

HEADERS = (
    "HTTP/1.1 200 OK\r\n"
    "content-type: text/plain; charset=UTF-8\r\n"
    "cache-control: no-cache, max-age=0\r\n"
    "x-content-type-options: nosniff\r\n"
    "date: Sun, 29 Nov 2026 01:28:12 GMT\r\n"
    "server: envoy\r\n"
    "connection: close\r\n"
)
CHUNKED = HEADERS + "transfer-encoding: chunked\r\n\r\n"


def lines(active: int, completed: int, total: int, cluster: str = "xds-grpc;") -> str:
    counters = {"active": active, "completed": completed, "total": total}
    return "".join(
        f"cluster.{cluster}.upstream_rq_{name}: {value}\n" for name, value in counters.items()
    )


def chunked(text: str) -> bytes:
    return f"{CHUNKED}{len(text):x}\r\n{text}\r\n0\r\n\r\n".encode()


def parse(text: str) -> bool | None:
    return controlplane.parse_answer(chunked(text))


# Each as a real Envoy below a real pilot-agent counted.
@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ((1, 1, 1), True),
        ((1, 10, 10), True),
        ((0, 9, 9), False),
        ((1, 10, 11), False),
        ((0, 0, 0), False),
        ((1, 0, 1), False),
    ],
    ids=["first", "again", "refused", "waits", "not-tried-yet", "waits-for-the-first"],
)
def test_connected_is_a_stream_that_has_been_answered(
    counters: tuple[int, int, int], expected: bool
) -> None:
    assert parse(lines(*counters)) is expected
    assert parse(lines(*counters, cluster="xds-grpc")) is expected


def test_the_order_of_lines_and_the_framing_do_not_matter() -> None:
    text = lines(1, 2, 2)
    turned = "".join(f"{line}\n" for line in reversed(text.splitlines()))
    assert parse(turned) is True
    whole = f"{HEADERS}content-length: {len(text)}\r\n\r\n{text}"
    assert controlplane.parse_answer(whole.encode()) is True


GOOD = chunked(lines(1, 1, 1))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        GOOD[:-20],
        GOOD + b"x",
        GOOD.replace(b"200 OK", b"503 no"),
        GOOD.replace(b"HTTP/1.1", b"HTTP/9.9"),
        GOOD.replace(b"active: 1", b"active: -1"),
        GOOD.replace(b"active: 1", b"active: 1e9"),
        GOOD.replace(b"active: 1", b"active: " + b"9" * 19),
        GOOD.replace(b"active: 1", "active: \u0661".encode()),
        GOOD.replace(b"active: 1", b"active:  1"),
        GOOD.replace(b"rq_total", b"rq_active"),
        GOOD.replace(b"rq_total", b"rq_other"),
        GOOD.replace(b"xds-grpc", b"somebody"),
        GOOD.replace(b"server: envoy", b"server: \xff\x00"),
        GOOD.replace(b"server: envoy\r\n", b"x: y\r\n" * 99),
        chunked(""),
        chunked(lines(1, 1, 1) * 2),
        chunked(lines(1, 3, 2)),
        CHUNKED.encode(),
        b"\x00" * controlplane.MAX_ANSWER,
        b"HTTP/1.1 200 OK\r\n" + b"a" * controlplane.MAX_ANSWER,
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200)[: controlplane.MAX_ANSWER],
    ],
)
def test_an_answer_that_is_not_as_expected_says_nothing(answer: bytes) -> None:
    assert controlplane.parse_answer(GOOD) is True
    assert controlplane.parse_answer(answer) is None


def test_the_answer_with_the_longest_numbers_fits() -> None:
    longest = 10**18 - 1
    answer = chunked(lines(longest, longest, longest))
    assert len(answer) <= controlplane.MAX_ANSWER
    assert controlplane.parse_answer(answer) is True


def test_three_counters_are_asked_for() -> None:
    path, _, pattern = unquote(controlplane.PATH).partition("?filter=")
    assert path == "/stats"
    names = [line.partition(":")[0] for line in lines(1, 1, 1).splitlines()]
    assert all(re.search(pattern, name) for name in names)
    assert not re.search(pattern, "cluster.xds-grpc;.internal.upstream_rq_completed")


def after(*answers: tuple[float, bool | None]) -> ControlPlane:
    value = ControlPlane()
    for at, is_connected in answers:
        value = controlplane.observe(value, is_connected, at, 1_000_000 + at)
    return value


def test_away_is_what_has_been_missed_for_a_while_and_since_the_first_miss() -> None:
    value = after((0, True), (5.5, False))
    assert (value.state, value.away_since) == (State.CONNECTED, None)
    value = after((0, True), (5.5, False), (11, False))
    assert (value.state, value.away_since) == (State.AWAY, 1_000_005.5)
    assert after((0, True), (5.5, False), (11, False), (99, False)) == value


def test_a_stream_that_is_exchanged_is_no_loss() -> None:
    value = after((0, True), (5.5, False), (11, True), (16.5, False))
    assert (value.state, value.away_since) == (State.CONNECTED, None)


def test_one_that_never_was_there_is_away_too() -> None:
    assert after((0, False)).state is State.UNKNOWN
    assert after((0, False), (0.1, False), (5, False)).away_since == 1_000_000


def test_back_is_back_at_once() -> None:
    value = after((0, False), (9, False), (10, True))
    assert (value.state, value.away_since) == (State.CONNECTED, None)


def test_an_answer_that_says_nothing_is_not_taken_for_either() -> None:
    assert after((0, True), (1, None)) == ControlPlane()
    assert after((0, False), (9, False), (10, None)) == ControlPlane()


def test_a_wall_clock_that_jumps_makes_nothing_away() -> None:
    value = controlplane.observe(ControlPlane(State.CONNECTED), False, 1, 1_000)
    value = controlplane.observe(value, False, 2, 1_000_000)
    assert value.state is State.CONNECTED
