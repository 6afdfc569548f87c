"""What is expected of packets, and what an outcome says about it."""

import errno
from ipaddress import ip_address

import pytest

from istio_hostagent.config.model import CidrSet, Dns, Owners, PortSet, Redirection
from istio_hostagent.redirect import expectations, probes, targets
from istio_hostagent.redirect.expectations import Expectation, Outcome, Sender, State
from tests.unit.samples import ALL, CASES, FACTS, ONLY_V4, STANDARD, cidrs, ports

PORTS = (15001, 15006)
CAPTURED = Expectation("x", Sender.APPLICATION, "10.96.0.1", 80, 15001, PORTS)
LEFT_ALONE = Expectation("x", Sender.APPLICATION, "10.96.0.1", 80, 0, PORTS)
REFUSED = LEFT_ALONE._replace(shape=expectations.Shape.SYN, is_refused=True)
INBOUND = Expectation("x", Sender.NEIGHBOUR, "10.1.0.2", 80, 15006, PORTS)


@pytest.mark.parametrize(
    ("expectation", "outcome", "state"),
    [
        pytest.param(CAPTURED, Outcome("127.0.0.1", 15001), State.MET, id="captured"),
        pytest.param(CAPTURED, Outcome("10.96.0.1", 80), State.BROKEN, id="escaped"),
        pytest.param(CAPTURED, Outcome("127.0.0.1", 15006), State.BROKEN, id="wrong-port"),
        pytest.param(CAPTURED, Outcome("10.9.9.9", 15001), State.BROKEN, id="wrong-host"),
        pytest.param(LEFT_ALONE, Outcome("10.96.0.1", 80), State.MET, id="left-alone"),
        pytest.param(LEFT_ALONE, Outcome("127.0.0.1", 15001), State.BROKEN, id="captured-too"),
        pytest.param(LEFT_ALONE, Outcome("10.244.3.4", 8080), State.MET, id="others-translate"),
        pytest.param(INBOUND, Outcome("10.1.0.2", 15006), State.MET, id="inbound"),
        pytest.param(INBOUND, Outcome("10.1.0.2", 80), State.BROKEN, id="inbound-escaped"),
        pytest.param(REFUSED, Outcome(), State.MET, id="refused"),
        pytest.param(REFUSED, Outcome("10.96.0.1", 80), State.BROKEN, id="let-through"),
        pytest.param(REFUSED, Outcome("127.0.0.1", 15001), State.BROKEN, id="captured-instead"),
        pytest.param(
            REFUSED, Outcome(errno=errno.ENETUNREACH), State.NOT_TESTABLE, id="refused-nowhere"
        ),
        pytest.param(CAPTURED, Outcome(errno=errno.ENETUNREACH), State.NOT_TESTABLE, id="route"),
        pytest.param(CAPTURED, Outcome(), State.NOT_TESTABLE, id="unseen"),
        pytest.param(
            CAPTURED, Outcome("10.96.0.1", 80, is_own=True), State.NOT_TESTABLE, id="own-after-all"
        ),
    ],
)
def test_only_an_observed_difference_breaks_an_expectation(
    expectation: Expectation, outcome: Outcome, state: State
) -> None:
    assert expectations.evaluate(expectation, outcome).state is state


def test_a_finding_is_one_line_that_says_why() -> None:
    assert str(expectations.evaluate(CAPTURED, Outcome("10.96.0.1", 80))) == (
        "broken: x: the connection was unchanged"
    )
    assert str(expectations.evaluate(CAPTURED, Outcome(errno=errno.ENETUNREACH))) == (
        "not testable: x: no route"
    )
    assert str(expectations.evaluate(CAPTURED, Outcome("127.0.0.1", 15001))) == "met: x"


def test_every_class_of_the_configuration_has_an_expectation() -> None:
    texts = [each.text for each in probes.build_expectations(STANDARD, FACTS)]
    for expected in (
        "outbound 10.96.0.0/12 is captured",
        "outbound fd00:10::/64 is captured",
        "outbound 10.96.1.0/24 is excluded",
        "outbound port 3306 is captured whatever the address",
        "outbound 10.96.0.1 is captured for root too",
        "outbound 10.96.0.1 is left alone for the proxy user",
        "outbound 10.96.0.1 is left alone for the proxy group",
        "metadata service 169.254.169.254 is left alone",
        "an application reaches 127.0.0.1 directly",
        "what the proxy hands on from 127.0.0.6 to port 8080 arrives there",
        "own address fd00:1::2 is captured for the proxy user",
        "inbound port 8080 is captured (IPv4)",
        "inbound port 9100 is captured (IPv6)",
        "inbound port 22 is left alone (IPv4)",
        "a connection through this host to 198.51.100.1 port 8080 is left alone",
        "a connection through this host to 2001:db8:1::1 port 8080 is left alone",
        "an answer of an application on capture port 15001 (IPv4) is refused",
        "an answer of the proxy on capture port 15006 (IPv6) is left alone",
        "an answer of root on capture port 15001 (IPv6) is refused",
        "an application is refused at 127.0.0.1 port 15000",
        "an application is refused at own address fd00:1::2 port 15020",
        "the proxy group is refused at ::1 port 15000",
        "the proxy user reaches 127.0.0.1 port 15000",
        "root reaches 127.0.0.1 port 15000",
    ):
        assert expected in texts


def test_what_passes_through_has_no_expectation_where_that_cannot_be_shown() -> None:
    here = ONLY_V4._replace(addresses=(ip_address("198.51.100.1"),))
    for redirection, facts in ((STANDARD, here), (Redirection(), FACTS)):
        made = probes.build_expectations(redirection, facts)
        assert made
        assert not any("through this host" in each.text for each in made)


def test_of_no_connection_two_things_are_expected() -> None:
    for redirection in CASES.values():
        made = probes.build_expectations(redirection, FACTS)
        connections = [(p.sender, p.source, p.destination, p.port, p.shape) for p in made]
        assert len(connections) == len(set(connections))


def test_a_host_without_ipv6_has_no_expectation_about_it() -> None:
    made = probes.build_expectations(ALL, ONLY_V4)
    assert made
    assert not any(":" in expectation.destination for expectation in made)


def test_of_rules_that_are_not_ours_nothing_is_expected() -> None:
    assert probes.build_expectations(CASES["unmanaged"], FACTS) == ()


def test_a_network_wholly_excluded_is_not_expected_to_be_captured() -> None:
    redirection = Redirection(
        outbound=cidrs("10.2.0.0/16", "10.3.0.0/16"), outbound_exclude=cidrs("10.2.0.0/15")
    )
    texts = [each.text for each in probes.build_expectations(redirection, FACTS)]
    assert not any("is captured" in text for text in texts if text.startswith("outbound 10.2."))


def test_an_address_inside_the_network_is_taken_that_nothing_excludes() -> None:
    redirection = Redirection(
        outbound=cidrs("10.2.0.0/16"), outbound_exclude=cidrs("10.2.0.0/24", "10.2.1.0/24")
    )
    (expectation,) = (
        each
        for each in probes.build_expectations(redirection, FACTS)
        if each.text == "outbound 10.2.0.0/16 is captured"
    )
    assert expectation.destination == "10.2.2.1"


@pytest.mark.parametrize("network", ["fd00:3::/64", "fd00:3::/112", "fd00::/16", "::/0"])
def test_the_address_of_the_routers_of_a_subnet_stands_for_nothing(network: str) -> None:
    """A host that forwards has the first address of its subnet itself (RFC 4291 2.6.1)."""
    own = tuple(map(ip_address, ("10.1.0.2", "fd00:3::1", "fd00:3::5")))
    facts = FACTS._replace(addresses=own)
    for outbound in (cidrs(network), CidrSet(is_all=True)):
        made = probes.build_expectations(Redirection(outbound=outbound), facts)
        tried = {ip_address(each.destination) for each in made if each.captured_at == 15001}
        of_v6 = [each for each in tried if each.version == 6]
        assert of_v6 and not [each for each in of_v6 if int(each) % 4 == 0]
    # It can be listed by itself, and is tried then.
    made = probes.build_expectations(Redirection(outbound=cidrs("fd00:9::/128")), facts)
    assert [each.destination for each in made if "fd00:9::/128 is captured" in each.text]


@pytest.mark.parametrize(("is_every_server", "at"), [(True, 15053), (False, 15001)])
def test_a_listed_port_53_is_that_of_queries_where_every_server_is_captured(
    is_every_server: bool, at: int
) -> None:
    dns = Dns(is_captured=True, is_every_server=is_every_server)
    made = probes.build_expectations(Redirection(outbound_ports=ports(53), dns=dns), FACTS)
    found = {each.captured_at for each in made if each.text.startswith("outbound port 53 ")}
    assert found == {at}


def test_with_the_group_of_the_proxy_alone_nothing_is_expected_to_be_captured() -> None:
    for groups, is_any in (((FACTS.proxy_gid,), False), ((FACTS.proxy_gid, 1000), True)):
        redirection = Redirection(
            outbound=CidrSet(is_all=True),
            outbound_ports=ports(80),
            owners=Owners(groups=groups),
            dns=Dns(is_captured=True, is_every_server=True),
        )
        made = probes.build_expectations(redirection, FACTS)
        assert any(each.captured_at in (15001, 15053) for each in made) is is_any


def test_of_very_many_networks_first_last_and_some_between_are_tried() -> None:
    many = cidrs(*(f"10.{i // 256}.{i % 256}.0/25" for i in range(5000)))
    made = probes.build_expectations(Redirection(outbound=many), ONLY_V4)
    tried = {each.destination for each in made if each.captured_at == 15001}
    assert {"10.0.0.1", "10.19.135.1"} <= tried
    assert targets.MAX_SAMPLES <= len(tried) <= targets.MAX_SAMPLES + 3


def test_with_every_port_excluded_nothing_outbound_is_expected_to_be_captured() -> None:
    redirection = Redirection(
        outbound=CidrSet(is_all=True), outbound_ports_exclude=PortSet(is_all=True)
    )
    made = probes.build_expectations(redirection, FACTS)
    assert made
    assert not any(each.captured_at for each in made)


def test_a_port_list_is_tried_at_both_ends() -> None:
    made = probes.build_expectations(Redirection(outbound_ports=ports((5000, 5100), 25)), FACTS)
    tried = {each.port for each in made if each.captured_at == 15001}
    assert tried == {25, 5000, 5100}


@pytest.mark.parametrize(
    ("captured_at", "outcome", "state"),
    [
        (15006, expectations.Outcome(has_entered=True, is_taken=True), State.MET),
        (15006, expectations.Outcome(has_entered=True), State.MET),
        (15006, expectations.Outcome("10.1.0.2", 22), State.BROKEN),
        (0, expectations.Outcome("10.1.0.2", 22), State.MET),
        (0, expectations.Outcome("10.1.0.2", 15006), State.BROKEN),
        (0, expectations.Outcome(has_entered=True, is_taken=True), State.NOT_TESTABLE),
        (0, expectations.Outcome(has_entered=True), State.NOT_TESTABLE),
    ],
)
def test_what_tproxy_leaves_alone_is_not_met_by_a_packet_that_a_socket_took(
    captured_at: int, outcome: expectations.Outcome, state: State
) -> None:
    made = expectations.Expectation(
        "", expectations.Sender.NEIGHBOUR, "10.1.0.2", 22, captured_at, (15001, 15006)
    )
    found = expectations.evaluate(made._replace(is_transparent=True), outcome)
    assert found.state is state
