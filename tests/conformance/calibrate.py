"""Every packet of the table under the peer's rules: is what the table expects right?

    CONFORMANCE_PEER=iptables python -m pytest tests/conformance/calibrate.py

The variable is nftables or iptables, which is how the peer puts its rules in; nftables if it is
not set. Not collected with the other tests: it says something of the table, not of the product.
"""

import pytest

from tests.conformance import peer, table
from tests.conformance.table import CASES, Case

COMPARED = [case for case in CASES if not peer.has_no_such_thing(case.configuration)]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=case.group()) for case in COMPARED]
)
def test_peer_agrees_or_differs_on_purpose(case: Case) -> None:
    seen = table.observe(case.configuration.name, peer.apply).of(case)
    reason = peer.reason_of(case)
    assert (seen != case.packet.expected) == bool(reason), (seen, case.packet.expected, reason)
