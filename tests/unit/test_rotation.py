"""When the CA is asked again, by what the last attempt came to."""

import pytest

from istio_hostagent.identity import rotation

NOW = 1_800_000_000.0
REPORT = rotation.Report("spiffe://a", "1", NOW - 3600, NOW, NOW - 3600)


def failed_at(now: float, code: str) -> rotation.Rotation:
    """A certificate that is good until NOW, and an attempt that came to nothing."""
    held = rotation.obtained(rotation.configured(), REPORT, NOW - 3600, jitter=0.0, ratio=0.5)
    return rotation.failed(held, rotation.Failure(code, "no"), now, jitter=0.0, ratio=0.5)


@pytest.mark.parametrize("code", [rotation.REFUSED, rotation.MISSING])
def test_what_only_an_operator_can_mend_is_tried_seldom_although_the_certificate_has_lapsed(
    code: str,
) -> None:
    assert failed_at(NOW + 60, code).next_at == NOW + 60 + rotation.REFUSED_PAUSE_S


@pytest.mark.parametrize("code", [rotation.REFUSED, rotation.MISSING])
def test_before_the_certificate_lapses_it_is_tried_once_more(code: str) -> None:
    assert failed_at(NOW - 1000, code).next_at == NOW - 1000 + rotation.REFUSED_PAUSE_S
    assert failed_at(NOW - 100, code).next_at == NOW
