"""Which connections the rules capture, connection by connection."""

from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from istio_hostagent.config import clouds
from istio_hostagent.config.model import CidrSet, PortSet, Redirection
from istio_hostagent.redirect import expectations, model, policy, probes
from istio_hostagent.redirect.expectations import Sender
from istio_hostagent.redirect.packets import Packet
from tests.lab import soak
from tests.unit import packet as packets
from tests.unit.packet import make as make_packet
from tests.unit.samples import (
    ALL,
    CASES,
    EVERYTHING,
    FACTS,
    ONLY_V4,
    PROXY_GID,
    PROXY_UID,
    STANDARD,
    cidrs,
    ports,
)

OUT, IN, DIRECT = 15001, 15006, 0
MANY_RULES = policy.build_ruleset(CASES["very-many"], FACTS)
STANDARD_RULES = policy.build_ruleset(STANDARD, FACTS)
ALL_RULES = policy.build_ruleset(ALL, FACTS)


@pytest.mark.parametrize(
    "service", clouds.SERVICES, ids=lambda service: f"{service.cloud}-{service.address}"
)
def test_metadata_service_is_captured_only_if_it_is_named(service: clouds.Service) -> None:
    address = ip_network(service.address)
    source = "10.1.0.2" if address.version == 4 else "fd00:1::2"
    packet = make_packet(service.address, source=source)
    assert packets.outbound(ALL_RULES, packet) == DIRECT
    anywhere = "0.0.0.0/0" if address.version == 4 else "::/0"
    wide = address.supernet(new_prefix=address.max_prefixlen - 1)
    for networks, port in (((anywhere,), DIRECT), ((str(wide),), DIRECT), ((str(address),), OUT)):
        rules = policy.build_ruleset(Redirection(outbound=cidrs(*networks)), FACTS)
        assert packets.outbound(rules, packet) == port
        assert packets.is_guarded(rules, packet) is (port == OUT)


def test_what_is_no_metadata_service_is_captured_beside_one() -> None:
    for near in ("100.100.100.201", "168.63.129.17", "192.0.0.193", "100.96.0.97"):
        assert packets.outbound(ALL_RULES, make_packet(near)) == OUT
    for near in ("fd00:42::43", "fd00:ec2::253", "fd00:c1::a9fe:a9ff", "fd20:ce::255"):
        assert packets.outbound(ALL_RULES, make_packet(near, source="fd00:1::2")) == OUT


@pytest.mark.parametrize(
    ("packet", "port"),
    [
        pytest.param(make_packet("10.96.7.7"), OUT, id="listed"),
        pytest.param(make_packet("10.111.255.255"), OUT, id="last-of-listed"),
        pytest.param(make_packet("10.112.0.0"), DIRECT, id="after-listed"),
        pytest.param(make_packet("10.95.255.255"), DIRECT, id="before-listed"),
        pytest.param(make_packet("fd00:10::9", source="fd00:1::2"), OUT, id="listed-ipv6"),
        pytest.param(make_packet("fd00:11::9", source="fd00:1::2"), DIRECT, id="not-listed-ipv6"),
        pytest.param(make_packet("10.96.1.9"), DIRECT, id="excluded-beats-listed"),
        pytest.param(make_packet("8.8.8.8", 3306), OUT, id="listed-port-anywhere"),
        pytest.param(make_packet("10.96.1.9", 3306), DIRECT, id="excluded-beats-listed-port"),
        pytest.param(make_packet("10.96.7.7", uid=0, gid=0), OUT, id="root-like-everybody"),
        pytest.param(make_packet("10.96.7.7", uid=PROXY_UID), DIRECT, id="proxy-uid"),
        pytest.param(make_packet("10.96.7.7", gid=PROXY_GID), DIRECT, id="proxy-gid"),
        pytest.param(make_packet("10.96.7.7", gid=PROXY_UID), OUT, id="gid-that-equals-the-uid"),
        pytest.param(make_packet("10.96.7.7", protocol=17), DIRECT, id="udp"),
        pytest.param(make_packet("10.96.7.7", flags=packets.SYN_ACK), DIRECT, id="reply"),
        pytest.param(make_packet("10.96.7.7", flags=0x10), DIRECT, id="established-before"),
        pytest.param(make_packet("127.0.0.1", out="lo"), DIRECT, id="localhost"),
        pytest.param(make_packet("127.0.0.1", 3306, out="lo"), DIRECT, id="localhost-listed-port"),
        pytest.param(make_packet("10.1.0.2", out="lo"), DIRECT, id="own-address"),
        pytest.param(make_packet("10.1.0.2", uid=PROXY_UID, out="lo"), IN, id="self-call-uid"),
        pytest.param(make_packet("10.1.0.2", gid=PROXY_GID, out="lo"), IN, id="self-call-gid"),
        pytest.param(
            make_packet("fd00:1::2", source="fd00:1::2", uid=PROXY_UID, out="lo"),
            IN,
            id="self-call-v6",
        ),
        pytest.param(
            make_packet("127.0.0.1", uid=PROXY_UID, out="lo"), DIRECT, id="proxy-localhost"
        ),
        pytest.param(
            make_packet("::1", source="::1", uid=PROXY_UID, out="lo"),
            DIRECT,
            id="proxy-localhost-v6",
        ),
        pytest.param(
            make_packet("10.1.0.2", 15008, uid=PROXY_UID, out="lo"), DIRECT, id="self-call-tunnel"
        ),
        pytest.param(
            make_packet("10.1.0.2", source="127.0.0.6", uid=PROXY_UID, out="lo"),
            DIRECT,
            id="handed-to-application",
        ),
        pytest.param(
            make_packet("fd00:1::2", source="::6", uid=PROXY_UID, out="lo"),
            DIRECT,
            id="handed-to-application-v6",
        ),
    ],
)
def test_standard_outbound(packet: Packet, port: int) -> None:
    assert packets.outbound(STANDARD_RULES, packet) == port


@pytest.mark.parametrize(
    ("packet", "port"),
    [
        pytest.param(make_packet("8.8.8.8"), OUT, id="anything"),
        pytest.param(make_packet("2001:4860::8", source="fd00:1::2"), OUT, id="anything-ipv6"),
        pytest.param(make_packet("192.168.9.9"), DIRECT, id="excluded"),
        pytest.param(make_packet("8.8.8.8", 25), DIRECT, id="excluded-port"),
        pytest.param(make_packet("8.8.8.8", 6005), DIRECT, id="excluded-port-range"),
        pytest.param(
            make_packet("10.1.0.2", 25, uid=PROXY_UID, out="lo"), DIRECT, id="before-all"
        ),
        pytest.param(make_packet("169.254.169.254"), DIRECT, id="metadata"),
        pytest.param(make_packet("fd00:ec2::254", source="fd00:1::2"), DIRECT, id="metadata-v6"),
        pytest.param(make_packet("fe80::1", source="fe80::2"), DIRECT, id="link-local-v6"),
        pytest.param(make_packet("168.63.129.16"), DIRECT, id="platform-service"),
        pytest.param(make_packet("255.255.255.255"), DIRECT, id="broadcast"),
    ],
)
def test_everything_outbound(packet: Packet, port: int) -> None:
    assert packets.outbound(ALL_RULES, packet) == port


@pytest.mark.parametrize(
    ("rules", "port", "captured"),
    [
        pytest.param(STANDARD_RULES, 8080, True, id="listed"),
        pytest.param(STANDARD_RULES, 9050, True, id="in-range"),
        pytest.param(STANDARD_RULES, 9101, False, id="after-range"),
        pytest.param(STANDARD_RULES, 22, False, id="ssh-with-list"),
        pytest.param(ALL_RULES, 80, True, id="all"),
        pytest.param(ALL_RULES, 22, False, id="ssh-with-all"),
        pytest.param(ALL_RULES, 9999, False, id="excluded"),
        *(
            pytest.param(ALL_RULES, port, False, id=f"own-{port}")
            for port in (15000, 15001, 15006, 15008, 15020, 15021, 15090)
        ),
    ],
)
def test_inbound(rules: model.Ruleset, port: int, captured: bool) -> None:
    for destination in ("10.1.0.2", "fd00:1::2"):
        source = "fd00:9::9" if ":" in destination else "10.9.9.9"
        arrived = packets.inbound(rules, make_packet(destination, port, source))
        assert arrived == (IN if captured else DIRECT)


@pytest.mark.parametrize(
    ("destination", "captured"),
    [
        pytest.param("10.1.0.2", True, id="own"),
        pytest.param("10.1.0.3", False, id="another-host"),
        pytest.param("10.96.7.7", False, id="a-service"),
        pytest.param("8.8.8.8", False, id="anywhere"),
        pytest.param("fd00:1::2", True, id="own-ipv6"),
        pytest.param("2001:db8::5", False, id="anywhere-ipv6"),
    ],
)
def test_only_what_goes_to_this_host_is_inbound(destination: str, captured: bool) -> None:
    """A container or a virtual machine whose traffic the host forwards is not a client of it."""
    source = "fd00:17::2" if ":" in destination else "172.17.0.2"
    packet = make_packet(destination, 8080, source)
    for rules in (STANDARD_RULES, ALL_RULES):
        assert packets.inbound(rules, packet) == (IN if captured else DIRECT)


def test_ssh_is_captured_only_where_it_is_named() -> None:
    ssh = make_packet("10.1.0.2", 22, "10.9.9.9")
    in_range = policy.build_ruleset(Redirection(inbound=ports((20, 30))), FACTS)
    named = policy.build_ruleset(Redirection(inbound=ports((20, 30), 22)), FACTS)
    assert packets.inbound(in_range, ssh) == DIRECT
    assert packets.inbound(named, ssh) == IN


def test_ssh_on_another_port_is_spared_there() -> None:
    facts = type(FACTS)(PROXY_UID, PROXY_GID, ssh_ports=(2222,))
    rules = policy.build_ruleset(Redirection(inbound=EVERYTHING), facts)
    assert packets.inbound(rules, make_packet("10.1.0.2", 2222, "10.9.9.9")) == DIRECT
    assert packets.inbound(rules, make_packet("10.1.0.2", 22, "10.9.9.9")) == IN


def test_excluded_port_beats_the_named_one() -> None:
    rules = policy.build_ruleset(
        Redirection(inbound=ports(22, 8080), inbound_exclude=ports(22)), FACTS
    )
    assert packets.inbound(rules, make_packet("10.1.0.2", 22, "10.9.9.9")) == DIRECT
    assert packets.inbound(rules, make_packet("10.1.0.2", 8080, "10.9.9.9")) == IN


def test_the_tunnel_is_never_captured() -> None:
    rules = policy.build_ruleset(Redirection(inbound=ports(15008)), FACTS)
    assert packets.inbound(rules, make_packet("10.1.0.2", 15008, "10.9.9.9")) == DIRECT


@pytest.mark.parametrize(
    ("listed", "destination", "port"),
    [
        pytest.param("169.254.169.254/32", "169.254.169.254", OUT, id="metadata-named"),
        pytest.param("169.254.0.0/16", "169.254.169.254", DIRECT, id="metadata-in-range"),
        pytest.param("127.0.0.5/32", "127.0.0.5", OUT, id="loopback-named"),
        pytest.param("127.0.0.0/8", "127.0.0.5", DIRECT, id="loopback-in-range"),
        pytest.param("0.0.0.0/0", "169.254.169.254", DIRECT, id="metadata-in-everything"),
        pytest.param("0.0.0.0/0", "1.2.3.4", OUT, id="first-to-last-address"),
        pytest.param("10.1.0.2/32", "10.1.0.2", DIRECT, id="own-address-named"),
    ],
)
def test_special_destinations_only_if_named(listed: str, destination: str, port: int) -> None:
    rules = policy.build_ruleset(Redirection(outbound=cidrs(listed)), FACTS)
    out = "lo" if destination.startswith("127.") or destination == "10.1.0.2" else "eth0"
    assert packets.outbound(rules, make_packet(destination, out=out)) == port


def test_a_named_port_is_captured_even_towards_metadata_but_a_range_is_not() -> None:
    rules = policy.build_ruleset(Redirection(outbound_ports=ports(8000, (9000, 9100))), FACTS)
    assert packets.outbound(rules, make_packet("169.254.169.254", 8000)) == OUT
    assert packets.outbound(rules, make_packet("169.254.169.254", 9000)) == DIRECT
    assert packets.outbound(rules, make_packet("1.2.3.4", 9000)) == OUT


def test_nothing_configured_captures_nothing_of_applications() -> None:
    rules = policy.build_ruleset(Redirection(), FACTS)
    assert packets.outbound(rules, make_packet("10.96.7.7")) == DIRECT
    assert packets.inbound(rules, make_packet("10.1.0.2", 8080, "10.9.9.9")) == DIRECT
    # as Istio: what the proxy sends to an own address is for its inbound side
    assert packets.outbound(rules, make_packet("10.1.0.2", uid=PROXY_UID, out="lo")) == IN
    assert [table.name for table in rules.tables] == [model.MAIN_TABLE]


def test_rules_of_the_operator_are_not_ours_to_make() -> None:
    assert policy.build_ruleset(CASES["unmanaged"], FACTS) == model.Ruleset()


def test_the_address_for_the_proxy_is_there_exactly_with_ipv6() -> None:
    assert policy.build_ruleset(STANDARD, FACTS).loopback_addresses == ("::6/128",)
    assert policy.build_ruleset(STANDARD, ONLY_V4).loopback_addresses == ()


def test_other_proxy_ports_are_used() -> None:
    rules = policy.build_ruleset(CASES["other-proxy-ports"], FACTS)
    assert packets.outbound(rules, make_packet("10.5.5.5")) == 16001
    assert packets.inbound(rules, make_packet("10.1.0.2", 80, "10.9.9.9")) == 16006
    assert packets.inbound(rules, make_packet("10.1.0.2", 16006, "10.9.9.9")) == DIRECT


def test_cost_of_a_connection_does_not_grow_with_the_number_of_networks() -> None:
    few = policy.build_ruleset(Redirection(outbound=cidrs("10.0.0.0/24")), FACTS)
    many = policy.build_ruleset(
        Redirection(outbound=cidrs(*(f"10.{i}.0.0/24" for i in range(200)))), FACTS
    )
    count = [sum(len(c.rules) for t in r.tables for c in t.chains) for r in (few, many)]
    assert count[0] == count[1]


def test_every_rule_says_why_and_nft_can_keep_the_reason() -> None:
    for redirection in CASES.values():
        for table in policy.build_ruleset(redirection, FACTS).tables:
            for chain in table.chains:
                for rule in chain.rules:
                    assert 0 < len(rule.comment.encode()) < 128


networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda t: f"{t[0] >> 24}.{t[0] >> 16 & 255}.{t[0] >> 8 & 255}.{t[0] & 255}/{t[1]}"
    ),
    st.sampled_from(["169.254.169.254/32", "127.0.0.5/32", "10.1.0.2/32", "10.1.0.0/24"]),
    st.sampled_from(["fd00:1::/64", "fd00:ec2::254/128", "::/0", "2001:db8::/32", "::1/128"]),
)


def _cidrs(written: list[str]) -> CidrSet:
    return CidrSet.of(ip_network(each, strict=False) for each in written)


cidr_sets = st.one_of(st.just(CidrSet(is_all=True)), st.lists(networks, max_size=5).map(_cidrs))
port_ranges = st.tuples(st.integers(1, 65535), st.integers(0, 200)).map(
    lambda t: (t[0], min(65535, t[0] + t[1]))
)
port_sets = st.one_of(
    st.just(PortSet(is_all=True)),
    st.lists(
        st.one_of(port_ranges, st.sampled_from([(22, 22), (80, 80), (15008, 15008)])), max_size=4
    ).map(lambda found: PortSet(False, tuple(sorted(set(found))))),
)


def _redirection(
    outbound: CidrSet,
    outbound_exclude: CidrSet,
    ports: tuple[PortSet, PortSet, PortSet, PortSet],
) -> Redirection:
    """`ports`: outbound, outbound exclude, inbound, inbound exclude."""
    return Redirection(True, outbound, outbound_exclude, *ports)


redirections = st.builds(
    _redirection,
    cidr_sets,
    st.lists(networks, max_size=3).map(_cidrs),
    st.tuples(port_sets, port_sets, port_sets, port_sets),
)
ACTORS = {
    Sender.APPLICATION: (1000, 1000),
    Sender.ROOT: (0, 0),
    Sender.PROXY_USER: (PROXY_UID, 1000),
    Sender.PROXY_GROUP: (1000, PROXY_GID),
}
OWN = {str(address) for address in FACTS.addresses}
THOROUGH = settings(
    max_examples=soak.times(150, 5000),
    suppress_health_check=[HealthCheck.too_slow],
)


@THOROUGH
@given(redirections)
def test_rules_meet_every_expectation(redirection: Redirection) -> None:
    """Expectations are made from the configuration alone; the rules must agree with each."""
    rules = policy.build_ruleset(redirection, FACTS)
    for expectation in probes.build_expectations(redirection, FACTS):
        is_v6 = ":" in expectation.destination
        source = expectation.source or ("fd00:1::2" if is_v6 else "10.1.0.2")
        if expectation.sender in (Sender.NEIGHBOUR, Sender.ON_LINK):
            arrived = packets.inbound(
                rules, make_packet(expectation.destination, expectation.port, source)
            )
            assert arrived == expectation.captured_at, expectation
            continue
        uid, gid = ACTORS[expectation.sender]
        is_local = expectation.destination in OWN or expectation.destination.startswith(
            ("127.", "::1")
        )
        out = "lo" if is_local and expectation.destination != "::1f" else "eth0"
        packet = make_packet(expectation.destination, expectation.port, source, uid, gid, out)
        if expectation.shape is expectations.Shape.ANSWER:
            packet = packet._replace(port=40000, source_port=packet.port, flags=packets.SYN_ACK)
        assert packets.is_refused(rules, packet) is expectation.is_refused, expectation
        if not expectation.is_refused:
            assert packets.outbound(rules, packet) == expectation.captured_at, expectation


@THOROUGH
@given(
    redirections, st.integers(0, 2**32 - 1), st.integers(1, 65535), st.sampled_from(list(ACTORS))
)
def test_the_guard_refuses_what_is_captured_and_nothing_else(
    redirection: Redirection, address: int, port: int, sender: expectations.Sender
) -> None:
    uid, gid = ACTORS[sender]
    rules = policy.build_ruleset(redirection, FACTS)
    packet = make_packet(str(IPv4Address(address)), port, uid=uid, gid=gid)
    is_captured = packets.outbound(rules, packet) == redirection.outbound_capture_port
    is_loopback = packet.address.is_loopback
    assert packets.is_guarded(rules, packet) is (is_captured and not is_loopback)


@THOROUGH
@given(
    redirections,
    st.tuples(st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n))), st.integers(1, 65535)),
    st.sampled_from([("10.96.0.5", 80), ("203.0.113.5", 25), ("169.254.169.254", 22)]),
    st.sampled_from(list(ACTORS)),
)
def test_what_others_translate_is_guarded_as_it_was_asked_for(
    redirection: Redirection,
    asked_for: tuple[str, int],
    translated: tuple[str, int],
    sender: expectations.Sender,
) -> None:
    """The main table looks at what is asked for, the guard what somebody has made of it."""
    uid, gid = ACTORS[sender]
    rules = policy.build_ruleset(redirection, FACTS)
    asked = make_packet(*asked_for, uid=uid, gid=gid)
    is_captured = packets.outbound(rules, asked) == redirection.outbound_capture_port
    packet = make_packet(*translated, uid=uid, gid=gid, asked_for=asked_for)
    if not (asked.address.is_loopback and is_captured):  # these leave by `lo`
        assert packets.is_guarded(rules, packet) is is_captured


@pytest.mark.parametrize(
    ("packet", "is_refused"),
    [
        pytest.param(
            make_packet("8.8.8.8", asked_for=("192.168.9.9", 80)), False, id="excluded-to-captured"
        ),
        pytest.param(
            make_packet("192.168.9.9", asked_for=("8.8.8.8", 80)), True, id="captured-to-excluded"
        ),
        pytest.param(
            make_packet("8.8.8.8", 80, asked_for=("8.8.8.8", 25)),
            False,
            id="excluded-port-to-captured",
        ),
        pytest.param(
            make_packet("8.8.8.8", 25, asked_for=("8.8.8.8", 80)),
            True,
            id="captured-port-to-excluded",
        ),
        pytest.param(
            make_packet("2001:db8::5", source="fd00:1::2", asked_for=("fd99::9", 80)),
            False,
            id="excluded-to-captured-v6",
        ),
        pytest.param(
            make_packet("fd99::9", source="fd00:1::2", asked_for=("2001:db8::5", 80)),
            True,
            id="captured-to-excluded-v6",
        ),
        pytest.param(
            make_packet("127.0.0.1", 15001, asked_for=("8.8.8.8", 80)), False, id="to-the-proxy"
        ),
        pytest.param(
            make_packet("192.168.9.9", uid=PROXY_UID, asked_for=("8.8.8.8", 80)), False, id="proxy"
        ),
    ],
)
def test_the_guard_and_translations_of_others(packet: Packet, is_refused: bool) -> None:
    assert packets.is_guarded(ALL_RULES, packet) is is_refused


@pytest.mark.parametrize("port", [15001, 15006])
@pytest.mark.parametrize("uid", [None, 0, 1000, PROXY_GID])
def test_an_answer_of_nobody_knows_whom_is_dropped_by_both_tables(
    port: int, uid: int | None
) -> None:
    answer = make_packet("10.9.9.9", 40000, uid=uid, flags=packets.SYN_ACK, source_port=port)
    for rules in (STANDARD_RULES, ALL_RULES):
        assert packets.is_refused(rules, answer)
        assert packets.is_dropped_by_guard(rules, answer)
        for other in (answer._replace(uid=PROXY_UID), answer._replace(source_port=port + 1)):
            assert not packets.is_refused(rules, other)
            assert not packets.is_dropped_by_guard(rules, other)


def test_without_private_ports_none_is_refused() -> None:
    rules = policy.build_ruleset(STANDARD._replace(private_ports=()), FACTS)
    for port in (15000, 15004, 15020):
        assert packets.is_refused(STANDARD_RULES, make_packet("127.0.0.1", port, out="lo"))
        assert not packets.is_refused(rules, make_packet("127.0.0.1", port, out="lo"))
    made = probes.build_expectations(STANDARD._replace(private_ports=()), FACTS)
    assert not any(each.shape is expectations.Shape.SYN for each in made)


def test_the_guard_lets_captured_connections_and_replies_pass() -> None:
    rules = policy.build_ruleset(ALL, FACTS)
    for redirected in (
        make_packet("127.0.0.1", 15001),
        make_packet("::1", 15001, source="fd00:1::2"),
    ):
        assert not packets.is_guarded(rules, redirected)
    assert not packets.is_guarded(rules, make_packet("8.8.8.8", flags=packets.SYN_ACK))
    assert not packets.is_guarded(rules, make_packet("10.1.0.2", out="lo"))
    assert packets.is_guarded(rules, make_packet("8.8.8.8"))


@pytest.mark.parametrize(
    ("address", "port"),
    [
        pytest.param("10.0.0.0", OUT, id="first-of-the-first"),
        pytest.param("10.8.150.255", OUT, id="last-of-the-last"),
        pytest.param("10.3.5.0", DIRECT, id="between-two"),
        pytest.param("10.8.152.0", DIRECT, id="after-the-last"),
        pytest.param("10.3.4.4", OUT, id="beside-an-excluded-one"),
        pytest.param("10.3.4.5", DIRECT, id="excluded"),
        pytest.param("172.16.1.255", OUT, id="of-another-length"),
        pytest.param("172.16.2.0", DIRECT, id="after-another-length"),
        pytest.param("11.8.150.1", OUT, id="an-address"),
        pytest.param("11.8.150.2", DIRECT, id="beside-an-address"),
        pytest.param("fd00:896::ffff", OUT, id="ipv6"),
        pytest.param("fd00:896:0:1::", DIRECT, id="after-ipv6"),
        pytest.param("fd01:0:0:5::1", OUT, id="ipv6-of-another-length"),
    ],
)
def test_very_many_networks(address: str, port: int) -> None:
    packet = make_packet(address, source="fd00:1::2" if ":" in address else "10.1.0.2")
    assert packets.outbound(MANY_RULES, packet) == port
    assert packets.is_guarded(MANY_RULES, packet) is (port == OUT)
