"""Probe packets without nf_tables: what the probe device shows of rules in legacy tables."""

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import Redirection
from istio_hostagent.host import deviceprobing
from istio_hostagent.redirect.expectations import NO_NFTABLES, Finding, Sender, State
from tests.netns import rig as rigs
from tests.netns.rig import CAPTURED_V4, EXCLUDED_V4, FACTS, Rig
from tests.unit.samples import EVERYTHING, STANDARD, cidrs

pytestmark = pytest.mark.skipif(
    shutil.which("iptables-legacy") is None, reason="needs iptables-legacy"
)
# What comes in at the neighbour is counted, but for what a kernel says by itself on a new link.
COUNTED = """table inet seen { chain in {
    type filter hook prerouting priority -300; meta l4proto != ipv6-icmp counter; }; }"""


@pytest.fixture
def packets(rig: Rig) -> Iterator[rigs.Packets]:
    made = rigs.Packets(rig.host, deviceprobing.Packets())
    yield made
    made.close()
    rig.clean()


def of(findings: list[Finding], text: str) -> Finding:
    (found,) = (each for each in findings if each.expectation.text == text)
    return found


def test_captured_and_left_alone_is_shown_and_nothing_leaves_the_host(
    rig: Rig, packets: rigs.Packets
) -> None:
    settings = STANDARD._replace(outbound_exclude=cidrs(f"{EXCLUDED_V4}/32"))
    rig.install_legacy(settings)
    rig.neighbour.run(["nft", "-f", "-"], stdin=COUNTED, check=True)
    findings = packets.findings(settings)
    listing = rig.neighbour.run(["nft", "list", "table", "inet", "seen"], check=True).stdout
    rig.neighbour.run(["nft", "delete", "table", "inet", "seen"], check=True)
    assert "packets 0 " in listing
    states = Counter(each.state for each in findings)
    assert states[State.BROKEN] == 0
    met = [each.expectation for each in findings if each.state is State.MET]
    assert {each.sender for each in met} == {
        *(Sender.APPLICATION, Sender.ROOT, Sender.PROXY_USER, Sender.PROXY_GROUP),
    }
    assert any(each.captured_at for each in met) and any(not each.captured_at for each in met)
    assert all(":" not in each.destination for each in met)
    untested = {each.detail for each in findings if each.state is State.NOT_TESTABLE}
    assert untested == {NO_NFTABLES}


@pytest.mark.parametrize(
    "rule",
    [
        "-t nat -I OUTPUT -j ACCEPT",
        "-t nat -I OUTPUT -p tcp -j DNAT --to-destination 10.1.0.1:80",
        "-t nat -F ISTIO_OUTPUT",
        "-t raw -I OUTPUT -p tcp -j CT --notrack",
    ],
)
@pytest.mark.parametrize("has_guard", [True, False])
def test_what_takes_packets_away_from_our_rules_is_shown(
    rig: Rig, packets: rigs.Packets, rule: str, has_guard: bool
) -> None:
    rig.install_legacy(STANDARD)
    assert not broken(packets.findings(STANDARD))
    rig.host.run(["iptables-legacy", *rule.split()], check=True)
    if not has_guard:
        rig.host.run(["iptables-legacy", "-F", "OUTPUT"], check=True)
    try:
        assert any(
            CAPTURED_V4.rsplit(".", 2)[0] in str(each)
            for each in broken(packets.findings(STANDARD))
        )
    finally:
        for table in ("nat", "raw"):
            rig.host.run(["iptables-legacy", "-t", table, "-F", "OUTPUT"], check=True)


def broken(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each.state is State.BROKEN]


def test_what_others_drop_on_its_way_out_is_not_tested_and_breaks_nothing(
    rig: Rig, packets: rigs.Packets
) -> None:
    rig.install_legacy(STANDARD)
    words = ["iptables-legacy", "-A", "OUTPUT", "-o", "istio-probe+", "-j", "DROP"]
    rig.host.run(words, check=True)
    try:
        findings = packets.findings(STANDARD)
    finally:
        rig.host.run(["iptables-legacy", "-F", "OUTPUT"], check=True)
    outbound = [each for each in findings if each.expectation.captured_at]
    assert {each.detail for each in outbound} == {NO_NFTABLES}


def test_the_sockets_are_used_again(rig: Rig, packets: rigs.Packets) -> None:
    rig.install_legacy(STANDARD)
    before = [(each.state, each.detail) for each in packets.findings(STANDARD)]
    for _ in range(3):
        assert [(each.state, each.detail) for each in packets.findings(STANDARD)] == before


def test_everything_captured_is_shown_too(rig: Rig, packets: rigs.Packets) -> None:
    settings = Redirection(outbound=cidrs("0.0.0.0/0"), inbound=EVERYTHING)
    rig.install_legacy(settings)
    findings = packets.findings(settings, FACTS)
    assert not broken(findings)
    assert any(each.expectation.captured_at and each.state is State.MET for each in findings)
