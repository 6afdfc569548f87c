"""When pilot-agent is started anew because it knows other name servers than this host."""

from ipaddress import ip_address

import pytest

from istio_hostagent.supervise.upstream import (
    FIRST_TIME_S,
    STANDING_TIME_S,
    Upstream,
    choose,
    started,
)

A, B, V6 = ip_address("10.1.0.53"), ip_address("10.2.0.53"), ip_address("fd00:1::53")


@pytest.mark.parametrize(
    ("known", "listed", "is_replaced"),
    [
        pytest.param((A,), (A,), False, id="the same"),
        pytest.param((A, B), (B, A), False, id="in another order"),
        pytest.param((A,), (A, B), False, id="one more"),
        pytest.param((A,), (B,), True, id="another one"),
        pytest.param((A, B), (B,), True, id="one is gone"),
        pytest.param((A,), (A, V6), True, id="of another version, where it does not listen"),
        pytest.param((), (A,), True, id="the first"),
        pytest.param((A,), (), False, id="none any more"),
    ],
)
def test_it_is_once_queries_would_get_lost(
    known: tuple[object, ...], listed: tuple[object, ...], is_replaced: bool
) -> None:
    upstream, due = choose(Upstream(known), listed, 100.0)  # type: ignore[arg-type]
    assert upstream.servers == known, "never at once"
    standing = STANDING_TIME_S if known else FIRST_TIME_S
    assert due == (100.0 + standing if is_replaced else None)
    if due is not None:
        anew = Upstream(listed, version=1)  # type: ignore[arg-type]
        assert choose(upstream, listed, due) == (anew, None)  # type: ignore[arg-type]


def test_others_must_have_stood_for_a_while() -> None:
    upstream, due = choose(Upstream((A,)), (B,), 100.0)
    assert due == 105.0
    upstream, due = choose(upstream, (V6,), 103.0)
    assert due == 108.0
    assert choose(upstream, (V6,), 107.0) == (upstream, 108.0)
    assert choose(upstream, (A,), 107.0) == (Upstream((A,)), None), "back again: nothing happens"


def test_whoever_was_started_meanwhile_has_read_what_was_listed_then() -> None:
    """By itself, after a crash: the specification that it is started with is the same."""
    upstream, _ = choose(Upstream((A,)), (A, B), 100.0)
    assert upstream == Upstream((A,)), "one more is no reason"
    upstream, due = choose(started(upstream, (A, B)), (A,), 200.0)
    assert due == 200.0 + STANDING_TIME_S, "it asks one that is gone"
    assert choose(upstream, (A,), due) == (Upstream((A,), version=1), None)
    upstream, due = choose(Upstream((A,)), (B,), 300.0)
    assert choose(started(upstream, (B,)), (B,), 301.0) == (Upstream((B,)), None), "it knows"
