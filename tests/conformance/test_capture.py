"""Every packet of the table is sent under its configuration, and the right one gets it.

The rules are those of `apply`. What says that the table is right: `calibrate.py`.
"""

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.conformance import model, table, world
from tests.conformance.table import CASES, CONFIGURATIONS, NOT_YET, Case


def _parameters() -> Iterator[ParameterSet]:
    for case in CASES:
        # What is not there yet may be right by accident for one packet; not for all of them.
        is_missing = case.configuration.feature in NOT_YET
        marks = [pytest.mark.xfail(strict=False)] if is_missing else []
        yield pytest.param(case, id=str(case), marks=(case.group(), *marks))


@pytest.mark.parametrize("apply", [table.ours, table.in_legacy_tables])
@pytest.mark.parametrize("case", _parameters())
def test_packet_reaches(case: Case, apply: world.Apply) -> None:
    seen = table.observe(case.configuration.name, apply)
    if apply is table.in_legacy_tables and not case.configuration.has_legacy:
        assert "legacy tables" in seen.refusal
    else:
        assert seen.of(case) == case.packet.expected


@pytest.mark.parametrize("case", _parameters())
def test_the_model_says_the_same(case: Case) -> None:
    """What `explain` goes by, without a packet: native rules, legacy ones and the model agree."""
    assert table.predict(case.configuration.name).of(case) == case.packet.expected


def test_what_works_is_not_called_missing() -> None:
    """Each packet of a feature counts for itself once all of them are right."""
    for feature in NOT_YET:
        cases = [case for case in CASES if case.configuration.feature == feature]
        seen = [table.observe(case.configuration.name, table.ours).of(case) for case in cases]
        assert seen != [case.packet.expected for case in cases], f"{feature} works: take it out"


def test_table_is_whole() -> None:
    """It has what the product promises of it, and each name once."""
    assert len(CASES) >= 150
    assert len({each.name for each in CONFIGURATIONS}) == len(CONFIGURATIONS)
    assert {each.feature for each in CONFIGURATIONS} >= NOT_YET
    packets = [case.packet for case in CASES]
    for is_v6 in (False, True):
        for protocol in (model.TCP, model.UDP):
            assert [p for p in packets if p.protocol == protocol and (":" in p.host) == is_v6]
