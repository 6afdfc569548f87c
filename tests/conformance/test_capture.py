"""Every packet of the table is sent under its configuration, and the right one gets it.

The rules are those of `apply`. What says that the table is right: `calibrate.py`.
"""

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.conformance import model, table
from tests.conformance.table import CASES, CONFIGURATIONS, NOT_YET, Case

BY_FEATURE = {
    feature: [case for case in CASES if case.configuration.feature == feature]
    for feature in {each.feature for each in CONFIGURATIONS}
}


def _parameters() -> Iterator[ParameterSet]:
    for case in CASES:
        # What is not there yet may be right by accident for one packet; not for all of them.
        is_missing = case.configuration.feature in NOT_YET
        marks = [pytest.mark.xfail(strict=False)] if is_missing else []
        yield pytest.param(case, id=str(case), marks=(case.group(), *marks))


@pytest.mark.parametrize("case", _parameters())
def test_packet_reaches(case: Case) -> None:
    assert table.observe(case.configuration.name, table.ours).of(case) == case.packet.expected


@pytest.mark.parametrize(
    "feature",
    [pytest.param(each, marks=pytest.mark.xfail(strict=True)) for each in sorted(NOT_YET)],
)
def test_feature_works(feature: str) -> None:
    """Once this passes the feature leaves NOT_YET, and each of its packets counts for itself."""
    for case in BY_FEATURE[feature]:
        assert table.observe(case.configuration.name, table.ours).of(case) == case.packet.expected


def test_table_is_whole() -> None:
    """It has what the product promises of it, and each name once."""
    assert len(CASES) >= 150
    assert len({each.name for each in CONFIGURATIONS}) == len(CONFIGURATIONS)
    assert set(NOT_YET) <= set(BY_FEATURE)
    packets = [case.packet for case in CASES]
    for is_v6 in (False, True):
        for protocol in (model.TCP, model.UDP):
            assert [p for p in packets if p.protocol == protocol and (":" in p.host) == is_v6]
