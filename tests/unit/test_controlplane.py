"""What is made of Envoy's counters of its requests to the control plane, honest or not."""

import re
from urllib.parse import unquote

import pytest

from istio_hostagent.supervise import controlplane
from istio_hostagent.supervise.controlplane import Answer, ControlPlane, State

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


def is_connected(text: bytes) -> bool | None:
    answer = controlplane.parse_answer(text)
    return answer.is_connected if answer is not None else None


def parse(text: str) -> bool | None:
    return is_connected(chunked(text))


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
    assert is_connected(whole.encode()) is True


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
    assert is_connected(GOOD) is True
    assert controlplane.parse_answer(answer) is None


def test_the_answer_with_the_longest_numbers_fits() -> None:
    longest = 10**18 - 1
    answer = chunked(lines(longest, longest, longest))
    assert len(answer) <= controlplane.MAX_ANSWER
    assert is_connected(answer) is True


def test_three_counters_are_asked_for() -> None:
    path, _, pattern = unquote(controlplane.PATH).partition("?filter=")
    assert path == "/stats"
    names = [line.partition(":")[0] for line in lines(1, 1, 1).splitlines()]
    assert all(re.search(pattern, name) for name in names)
    assert not re.search(pattern, "cluster.xds-grpc;.internal.upstream_rq_completed")


COUNTERS = {
    "cluster.xds-grpc.ssl.connection_error": 0,
    "cluster.xds-grpc.ssl.fail_verify_error": 0,
    "cluster.xds-grpc.ssl.fail_verify_san": 0,
    "cluster.xds-grpc.update_failure": 0,
    "cluster.xds-grpc.upstream_cx_connect_fail": 0,
    "cluster.xds-grpc.upstream_cx_connect_timeout": 0,
    "cluster.xds-grpc.upstream_rq_active": 0,
    "cluster.xds-grpc.upstream_rq_completed": 1,
    "cluster.xds-grpc.upstream_rq_total": 1,
    "cluster_manager.cds.update_rejected": 0,
    "cluster_manager.cds.update_success": 1,
    "cluster_manager.warming_clusters": 0,
    "listener_manager.lds.update_rejected": 0,
    "listener_manager.lds.update_success": 1,
}


def answered(**others: int) -> Answer:
    """What a real Envoy without pilot-agent answers; `others` by the end of their names."""
    found = {
        name: next((each for end, each in others.items() if name.endswith(end)), value)
        for name, value in COUNTERS.items()
    }
    text = "".join(f"{name}: {value}\n" for name, value in found.items())
    whole = f"{HEADERS}content-length: {len(text)}\r\n\r\n{text}".encode()
    assert len(whole) <= controlplane.MAX_ANSWER
    answer = controlplane.parse_answer(whole)
    assert answer is not None
    return answer


def test_an_envoy_alone_is_asked_for_all_that_it_is_judged_by() -> None:
    path, _, pattern = unquote(controlplane.COUNTERS).partition("?filter=")
    assert path == "/stats"
    assert all(re.search(pattern, name) for name in COUNTERS)
    assert not re.search(pattern, "cluster.xds-grpc.internal.upstream_rq_completed")
    longest = dict.fromkeys(("active", "completed", "total", "fail", "error"), 10**18 - 1)
    assert answered(**longest).is_connected


@pytest.mark.parametrize(
    ("counted", "reason"),
    [
        ({"connect_fail": 3}, "nobody listens there, or there is no way to it"),
        ({"connect_timeout": 3, "connect_fail": 3}, "nobody answers there"),
        ({"update_failure": 1}, "its name is not resolved"),
        (
            {"connect_fail": 2, "connection_error": 2, "verify_error": 2},
            "its certificate does not lead to the roots of this mesh",
        ),
        ({"connect_fail": 2, "verify_san": 2}, "its certificate is for another name"),
        ({}, ""),
    ],
    ids=str,
)
def test_what_keeps_envoy_from_istiod_is_what_has_failed_last(
    counted: dict[str, int], reason: str
) -> None:
    value = controlplane.observe(ControlPlane(), answered(connect_fail=2), 0, 0)
    value = controlplane.observe(value, answered(active=1, connect_fail=2), 1, 1)
    assert (value.state, value.reason, value.connected_at) == (State.CONNECTED, "", 1)
    before = {name: 1 for name in counted}
    value = controlplane.observe(value, answered(active=1, **before), 2, 2)
    value = controlplane.observe(value, answered(**{k: v + 1 for k, v in counted.items()}), 8, 8)
    assert value.reason == reason
    # As long as nothing else fails it stays what is known.
    value = controlplane.observe(value, value.last, 14, 14)
    assert (value.state, value.reason, value.connected_at) == (State.AWAY, reason, None)


def test_what_was_refused_is_counted() -> None:
    value = controlplane.observe(ControlPlane(), answered(active=1, update_rejected=2), 0, 0)
    assert (value.state, value.rejected) == (State.CONNECTED, 4)


def after(*answers: tuple[float, bool | None]) -> ControlPlane:
    value = ControlPlane()
    for at, is_there in answers:
        answer = Answer(is_there) if is_there is not None else None
        value = controlplane.observe(value, answer, at, 1_000_000 + at)
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
    value = controlplane.observe(ControlPlane(State.CONNECTED), Answer(False), 1, 1_000)
    value = controlplane.observe(value, Answer(False), 2, 1_000_000)
    assert value.state is State.CONNECTED
