"""Every packet of the table is sent under its configuration, and the right one gets it.

The rules are those of `apply`. With the environment variable CONFORMANCE_PEER they are those of
the real `pilot-agent istio-iptables` instead, which calibrates the table (see peer.py).
"""

import subprocess
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.conformance import model, peer, table, world
from tests.conformance.model import Configuration
from tests.conformance.table import CASES, CONFIGURATIONS, NOT_YET, Case

BY_FEATURE = {
    feature: [case for case in CASES if case.configuration.feature == feature]
    for feature in {each.feature for each in CONFIGURATIONS}
}


def ours(made: world.World, _configuration: Configuration) -> subprocess.CompletedProcess[str]:
    return made.apply()


def _parameters() -> Iterator[ParameterSet]:
    for case in CASES:
        marks = [pytest.mark.xdist_group(f"conformance-{case.configuration.name}")]
        if case.configuration.feature in NOT_YET and not peer.IS_ASKED:
            # What is not there yet may be right by accident, for one packet; not for all of them.
            marks.append(pytest.mark.xfail(strict=False, reason=case.configuration.feature))
        yield pytest.param(case, id=str(case), marks=marks)


@pytest.mark.skipif(peer.IS_ASKED, reason="the peer is asked")
@pytest.mark.parametrize("case", _parameters())
def test_packet_reaches(case: Case) -> None:
    seen = table.observe(case.configuration.name, ours)
    assert seen.of(case) == case.packet.expected


@pytest.mark.skipif(peer.IS_ASKED, reason="the peer is asked")
@pytest.mark.parametrize("feature", sorted(NOT_YET))
@pytest.mark.xfail(strict=True, reason="does not work yet")
def test_feature_works(feature: str) -> None:
    """Once this passes the feature leaves NOT_YET, and each of its packets counts for itself."""
    for case in BY_FEATURE[feature]:
        assert table.observe(case.configuration.name, ours).of(case) == case.packet.expected


@pytest.mark.skipif(not peer.IS_ASKED, reason="CONFORMANCE_PEER is not set")
@pytest.mark.parametrize("case", _parameters())
def test_peer_agrees_or_differs_on_purpose(case: Case) -> None:
    if peer.has_no_such_thing(case.configuration):
        pytest.skip("the peer has no such option")
    seen = table.observe(case.configuration.name, peer.apply).of(case)
    reason = peer.reason_of(case)
    assert seen != case.packet.expected if reason else seen == case.packet.expected, reason or seen


def test_table_is_whole() -> None:
    """It has what the product promises of it, and each name once."""
    assert len(CASES) >= 150
    assert len({each.name for each in CONFIGURATIONS}) == len(CONFIGURATIONS)
    assert set(NOT_YET) <= set(BY_FEATURE)
    packets = [case.packet for case in CASES]
    for version in (False, True):
        for protocol in (model.TCP, model.UDP):
            assert [p for p in packets if p.protocol == protocol and (":" in p.host) == version]
