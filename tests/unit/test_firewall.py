"""What is said of a firewall that drops what is captured, and the command that is named."""

import pytest

from istio_hostagent.redirect import expectations
from istio_hostagent.redirect.expectations import (
    Arrival,
    Expectation,
    Fate,
    Outcome,
    Sender,
    State,
)
from istio_hostagent.redirect.firewall import Dropper, mend

PORTS = (15001, 15006)
STRICT = (
    "sed -i 's/^StrictForwardPorts=.*/StrictForwardPorts=no/' /etc/firewalld/firewalld.conf"
    " && firewall-cmd --reload"
)
CAPTURED = Expectation("x", Sender.ON_LINK, "10.1.0.2", 8080, 15006, PORTS)
LEFT = Expectation("x", Sender.ON_LINK, "10.1.0.2", 8080, 0, PORTS)
POLICY = Dropper("inet", "filter", "input", base="input", passed=("input",))
A, D, L, U = Fate.ARRIVED, Fate.DROPPED, Fate.LOST, Fate.UNSEEN


@pytest.mark.parametrize(
    ("expectation", "captured", "direct", "state", "is_shut", "is_closed"),
    [
        pytest.param(CAPTURED, A, A, State.MET, False, False, id="arrives"),
        pytest.param(CAPTURED, D, A, State.BROKEN, True, False, id="shut"),
        pytest.param(CAPTURED, D, D, State.NOT_TESTABLE, False, False, id="closed-both-ways"),
        pytest.param(CAPTURED, A, D, State.MET, False, True, id="opened"),
        pytest.param(CAPTURED, L, L, State.NOT_TESTABLE, False, False, id="lost"),
        pytest.param(CAPTURED, A, L, State.NOT_TESTABLE, False, False, id="direct-lost"),
        pytest.param(CAPTURED, U, U, State.NOT_TESTABLE, False, False, id="unseen"),
        pytest.param(LEFT, D, D, State.MET, False, True, id="left-closed"),
        pytest.param(LEFT, A, A, State.MET, False, False, id="left-and-open-now"),
    ],
)
def test_a_firewall_is_at_fault_only_if_capture_makes_the_difference(
    expectation: Expectation,
    captured: Fate,
    direct: Fate,
    state: State,
    is_shut: bool,
    is_closed: bool,
) -> None:
    arrival = Arrival(captured, direct, "10.1.0.3", "eth0", POLICY)
    outcome = Outcome("10.1.0.2", expectation.captured_at or 8080, arrival=arrival)
    finding = expectations.evaluate(expectation, outcome)
    assert (finding.state, finding.is_shut, bool(finding.closed_by)) == (state, is_shut, is_closed)


def test_what_arrives_where_it_must_not_breaks_the_expectation() -> None:
    outcome = Outcome("10.1.0.2", 8080, arrival=Arrival(A, A, "10.1.0.3", "eth0"))
    finding = expectations.evaluate(CAPTURED, outcome)
    assert (finding.state, finding.is_shut) == (State.BROKEN, False)


@pytest.mark.parametrize("interface", ["eth0", "tap3"])
@pytest.mark.parametrize("from_guest_at", [15001, 0])
@pytest.mark.parametrize("port", [8080, 15001, 15006])
def test_what_a_guest_sends_to_this_host_is_outbound(
    interface: str, from_guest_at: int, port: int
) -> None:
    expectation = CAPTURED._replace(guest_interfaces=("tap*",), from_guest_at=from_guest_at)
    outcome = Outcome("10.1.0.2", port, arrival=Arrival(A, A, "10.1.0.3", interface))
    at = from_guest_at if interface == "tap3" else 15006
    state = State.MET if port == (at or 8080) else State.BROKEN
    assert expectations.evaluate(expectation, outcome).state is state


@pytest.mark.parametrize(
    ("dropper", "command"),
    [
        (POLICY, "nft insert rule inet filter input ct status dnat tcp dport 15006 accept"),
        (
            Dropper("inet", "t", "sub", 7, "drop", "input", ("input", "sub")),
            "nft insert rule inet t input ct status dnat tcp dport 15006 accept",
        ),
        (
            Dropper("ip", "filter", "INPUT", base="INPUT", passed=("INPUT", "ufw-before-input")),
            "ufw allow 15006/tcp",
        ),
        (
            Dropper("ip6", "filter", "INPUT", base="INPUT", passed=("INPUT", "ufw6-after-input")),
            "ufw allow 15006/tcp",
        ),
        (
            Dropper("inet", "firewalld", "filter_IN_public", 9, base="filter_INPUT"),
            STRICT,
        ),
        (
            Dropper("ip", "filter", "INPUT_dnat", 3, "", "INPUT", ("INPUT", "INPUT_dnat")),
            STRICT,
        ),
        (
            Dropper("ip6", "filter", "mine", 3, base="INPUT", passed=("INPUT", "mine")),
            "ip6tables -I INPUT -p tcp --dport 15006 -m conntrack --ctstate DNAT -j ACCEPT",
        ),
    ],
    ids=["nft", "nft-in-a-chain", "ufw", "ufw6", "firewalld", "firewalld-iptables", "iptables"],
)
def test_the_command_is_that_of_the_tool_that_made_the_rule(
    dropper: Dropper, command: str
) -> None:
    assert mend(dropper, 15006) == command


def test_a_rule_is_named_so_that_it_is_found() -> None:
    rule = Dropper("ip", "filter", "INPUT", 12, "tcp dport 15006 drop")
    assert str(rule) == "rule handle 12 of chain ip filter INPUT (tcp dport 15006 drop)"
    assert str(POLICY) == "the policy of chain inet filter input"
