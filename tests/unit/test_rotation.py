"""When the CA is asked again, by what the last attempt came to."""

import pytest

from istio_hostagent.identity import rotation

NOW = 1_800_000_000.0
REPORT = rotation.Report("spiffe://a", "1", NOW - 3600, NOW, NOW - 3600)


def failed_at(now: float, code: str, jitter: float = 0.0) -> rotation.Rotation:
    """A certificate that is good until NOW, and an attempt that came to nothing."""
    held = rotation.obtained(rotation.configured(), REPORT, NOW - 3600, jitter=0.0, ratio=0.5)
    return rotation.failed(held, rotation.Failure(code, "no"), now, jitter=jitter)


@pytest.mark.parametrize("code", [rotation.REFUSED, rotation.MISSING])
def test_what_only_an_operator_can_mend_is_tried_seldom_although_the_certificate_has_lapsed(
    code: str,
) -> None:
    assert failed_at(NOW + 60, code).next_at == NOW + 60 + rotation.REFUSED_PAUSE_S


@pytest.mark.parametrize("code", [rotation.REFUSED, rotation.MISSING])
def test_before_the_certificate_lapses_it_is_tried_again_and_again(code: str) -> None:
    assert failed_at(NOW - 1000, code).next_at == NOW - 1000 + rotation.REFUSED_PAUSE_S
    assert failed_at(NOW - 100, code).next_at == NOW - 50
    assert failed_at(NOW - 1, code).next_at == NOW


@pytest.mark.parametrize("code", [rotation.REFUSED, rotation.MISSING])
@pytest.mark.parametrize("left_s", [-60, 20, 3600])
def test_a_fleet_that_is_refused_does_not_come_back_together(code: str, left_s: float) -> None:
    early, late = (failed_at(NOW - left_s, code, jitter).next_at for jitter in (-1.0, 1.0))
    assert late - early == pytest.approx(early - NOW + left_s + (early - NOW + left_s), rel=0.01)


def test_the_share_of_the_life_is_spread_by_as_much_as_is_set() -> None:
    early, late = (
        rotation.obtained(
            rotation.configured(), REPORT, NOW - 3600, jitter=jitter, ratio=0.5, spread=0.2
        ).next_at
        for jitter in (1.0, -1.0)
    )
    assert (early - NOW, late - NOW) == pytest.approx((-0.7 * 3600, -0.3 * 3600))


def test_a_conversation_with_the_ca_leaves_time_for_another() -> None:
    value = failed_at(NOW - 60, "authority-unavailable")
    assert value.call_time(NOW - 24, 20.0) == 6.0
    assert rotation.configured().call_time(NOW, 20.0) == 20.0
