"""The address by which the mesh knows a host: which one, and that it stays."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config.model import Address
from istio_hostagent.supervise import instance
from istio_hostagent.supervise.instance import Choice, choose

ETH, DOCKER, VPN, NEXT = (
    ip_address(each) for each in ("172.31.20.5", "172.17.0.1", "10.8.0.2", "172.31.20.6")
)
WAIT = instance.STANDING_TIME_S
FIRM = Choice(ETH, registered=ETH, is_firm=True)


@pytest.mark.parametrize(
    ("sources", "chosen"),
    [
        pytest.param([VPN, ETH], VPN, id="to-the-control-plane"),
        pytest.param([None, ETH], ETH, id="no-route-to-it"),
        pytest.param([ip_address("127.0.0.1"), ETH], ETH, id="it-is-on-this-host"),
        pytest.param([None, None], DOCKER, id="no-route-at-all"),
        pytest.param([], DOCKER, id="nothing-known"),
    ],
)
def test_the_source_of_the_route_is_preferred(
    sources: list[Address | None], chosen: Address
) -> None:
    assert instance.prefer([DOCKER, ETH, VPN], sources) == chosen


def test_a_host_without_addresses_has_none() -> None:
    assert instance.prefer([], [ETH]) is None


def test_the_first_choice_is_made_at_once() -> None:
    assert choose(Choice(), [ETH, DOCKER], ETH, 0.0) == (Choice(ETH), None)
    assert choose(Choice(), [], None, 0.0) == (Choice(), None)


def test_until_it_is_registered_a_better_one_is_taken_at_once() -> None:
    """While a host boots docker's bridge may be there before the network."""
    early, _ = choose(Choice(), [DOCKER], DOCKER, 0.0)
    late, again = choose(early, [DOCKER, ETH], ETH, 2.0)
    assert (late.address, again) == (ETH, None)


def test_once_it_is_registered_neither_a_vpn_nor_a_metric_changes_it() -> None:
    registered = Choice(ETH).register()
    assert registered == FIRM
    assert choose(registered, [ETH, VPN], VPN, 1e6) == (FIRM, None)


def test_what_was_registered_before_a_restart_stays() -> None:
    assert choose(Choice(registered=ETH), [DOCKER, ETH, VPN], VPN, 0.0) == (FIRM, None)


def test_what_was_registered_before_a_restart_may_come_late() -> None:
    early, _ = choose(Choice(registered=ETH), [DOCKER], DOCKER, 0.0)
    assert early == Choice(DOCKER, registered=ETH)
    assert choose(early, [DOCKER, ETH, VPN], VPN, 3.0) == (FIRM, None)


def test_what_was_registered_before_a_restart_and_is_gone_binds_nobody() -> None:
    early, _ = choose(Choice(registered=ETH), [], None, 0.0)
    assert early.address is None
    late, again = choose(early, [NEXT], NEXT, 1.0)
    assert (late.address, again) == (NEXT, None)
    assert late.register() == Choice(NEXT, registered=NEXT, is_firm=True)


def test_another_takes_its_place_when_it_has_stood() -> None:
    gone, again = choose(FIRM, [NEXT], NEXT, 100.0)
    assert (gone.address, again) == (ETH, 100.0 + WAIT)
    still, again = choose(gone, [NEXT], NEXT, 104.0)
    assert (still.address, again) == (ETH, 100.0 + WAIT)
    taken, again = choose(still, [NEXT], NEXT, 100.0 + WAIT)
    assert (taken, again) == (Choice(NEXT, registered=NEXT, is_firm=True), None)


def test_one_that_comes_back_in_time_stays() -> None:
    gone, _ = choose(FIRM, [NEXT], NEXT, 100.0)
    assert choose(gone, [NEXT, ETH], NEXT, 109.0) == (FIRM, None)


def test_one_that_comes_back_too_late_does_not_push_out_the_next() -> None:
    gone, _ = choose(FIRM, [NEXT], NEXT, 100.0)
    taken, _ = choose(gone, [NEXT], NEXT, 100.0 + WAIT)
    assert choose(taken, [ETH, NEXT], ETH, 112.0)[0].address == NEXT


def test_every_candidate_must_stand_by_itself() -> None:
    gone, _ = choose(FIRM, [DOCKER], DOCKER, 100.0)
    other, again = choose(gone, [DOCKER, NEXT], NEXT, 109.0)
    assert (other.address, again) == (ETH, 109.0 + WAIT)
    nothing, again = choose(other, [], None, 110.0)
    assert (nothing.address, again) == (ETH, None)
    back, again = choose(nothing, [NEXT], NEXT, 120.0)
    assert (back.address, again) == (ETH, 120.0 + WAIT)


def test_registering_again_does_not_forget_who_waits_to_take_its_place() -> None:
    waiting, again = choose(FIRM, [NEXT], NEXT, 100.0)
    assert again is not None
    assert waiting.register() == waiting


def test_nothing_is_registered_where_there_is_no_address() -> None:
    assert Choice(registered=ETH).register() == Choice(registered=ETH)


STEPS = st.lists(
    st.tuples(
        st.sets(st.sampled_from([ETH, DOCKER, VPN, NEXT])),
        st.sampled_from([ETH, DOCKER, VPN, NEXT]),
        st.floats(0.0, 15.0),
    ),
    max_size=30,
)


@given(STEPS, st.sampled_from([Choice(), Choice(registered=VPN), FIRM]))
def test_a_firm_address_changes_only_after_it_was_away_for_long(
    steps: list[tuple[set[Address], Address, float]], choice: Choice
) -> None:
    now = seen_at = 0.0
    for here, wish, pause in steps:
        now += pause
        before = choice
        preferred = instance.prefer(sorted(here, key=str), [wish])
        choice, again = choose(before, sorted(here, key=str), preferred, now)
        if before.is_firm and choice.address != before.address:
            assert now - seen_at >= WAIT
            assert before.address not in here
            assert choice.address == before.successor
        if choice.address in here:
            seen_at = now
        assert again is None or now < again <= now + WAIT
