"""Rules for legacy tables: they decide as those of nf_tables do, and change in a safe order."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config.model import Redirection
from istio_hostagent.redirect import model, policy, ranges, xtables, xtplan, xtrender
from istio_hostagent.redirect.model import Action, Field, Match, Operator, Rule, Verdict
from istio_hostagent.redirect.xtables import Condition, Family, XChain, XRule, XTable
from tests.unit.samples import ALL, CASES, FACTS, STANDARD, cidrs, ports

LONGEST_CHAIN_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1
NAMES_OF_STATES = {Field.CT_STATUS_DNAT: "DNAT", Field.CT_STATE_INVALID: "INVALID"}


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, as rules see it."""

    destination: int
    port: int = 80
    interface: str = "eth0"
    uid: int = 5000
    gid: int = 5000
    asked_for: tuple[int, int] | None = None  # before somebody translated it


def has(packet: Packet, match: Match, sets: Mapping[str, model.NamedSet]) -> bool:
    """What nf_tables makes of one condition."""
    original = packet.asked_for or (packet.destination, packet.port)
    values: dict[Field, int | str] = {
        Field.IP_DADDR: packet.destination,
        Field.DPORT: packet.port,
        Field.OIFNAME: packet.interface,
        Field.SKUID: packet.uid,
        Field.SKGID: packet.gid,
        Field.TCP_FLAGS: policy.SYN,
        Field.L4PROTO: 6,
        Field.IP_SADDR: 0x0A010002,
        Field.CT_STATUS_DNAT: int(packet.asked_for is not None),
        Field.ORIGINAL_IP_DADDR: original[0],
        Field.ORIGINAL_DPORT: original[1],
        Field.SPORT: 40000,
    }
    value = values.get(match.field, -1)
    if value == -1:
        return False  # of the other family, or of UDP
    if match.prefix:
        value = int(value) >> (32 - match.prefix) << (32 - match.prefix)
    if match.operator is Operator.IN:
        return ranges.contains(sets[str(match.value)].ranges, int(value))
    return (value == match.value) == (match.operator is Operator.EQ)


def decide(table: model.Table, chain: str, packet: Packet) -> str:
    """Walk through a table of nf_tables; the verdict in words, empty: none."""
    chains = {each.name: each for each in table.chains}
    sets = {each.name: each for each in table.sets}
    for rule in chains[chain].rules:
        if not all(has(packet, match, sets) for match in rule.matches):
            continue
        action, target = rule.verdict
        if action is Action.RETURN:
            return ""
        if action in (Action.JUMP, Action.GOTO):
            found = decide(table, str(target), packet)
            if found or action is Action.GOTO:
                return found
        else:
            return f"{action.value} {target}".strip()
    return ""


def fits(packet: Packet, test: Condition) -> bool:
    """What x_tables makes of one condition."""
    return _fits(packet, test) is not test.is_not


def _fits(packet: Packet, test: Condition) -> bool:
    original = packet.asked_for or (packet.destination, packet.port)
    match test.option:
        case "-p":
            return test.value == "tcp"
        case "-d" | "--ctorigdst":
            address = packet.destination if test.option == "-d" else original[0]
            return ipaddress.ip_address(address) in ipaddress.ip_network(test.value)
        case "-s":
            return ipaddress.ip_address("10.1.0.2") in ipaddress.ip_network(test.value)
        case "-o":
            return packet.interface == test.value
        case "--uid-owner":
            return packet.uid == int(test.value)
        case "--gid-owner":
            return packet.gid == int(test.value)
        case "--tcp-flags":
            return test.value == "FIN,SYN,RST,ACK SYN"
        case "--ctstate":
            return test.value == "DNAT" and packet.asked_for is not None
        case "--dport" | "--dports" | "--ctorigdstport":
            port = original[1] if test.module == "conntrack" else packet.port
            assert len(test.value.replace(":", ",").split(",")) <= 15
            return any(
                int(each.split(":")[0]) <= port <= int(each.split(":")[-1])
                for each in test.value.split(",")
            )
        case "--sport":
            return test.value == "40000"
    raise AssertionError(test)


class Walk:
    """A walk through one table of x_tables, which counts the rules that it meets."""

    def __init__(self, table: XTable, packet: Packet) -> None:
        self._chains = {chain.name: chain for chain in table.chains}
        self._packet = packet
        self.met = 0

    def decide(self, name: str) -> str:
        for rule in self._chains[name].rules:
            self.met += 1
            if not all(fits(self._packet, test) for test in rule.tests):
                continue
            if rule.target == "RETURN":
                return ""
            if rule.target in self._chains:
                found = self.decide(rule.target)
                if found or rule.is_goto:
                    return found
            else:
                return " ".join((rule.target, *(value for _, value in rule.options)))
        return ""


VERDICTS = {
    "redirect 15001": "REDIRECT 15001",
    "redirect 15006": "REDIRECT 15006",
    "redirect 16001": "REDIRECT 16001",
    "redirect 16006": "REDIRECT 16006",
    "reject": "REJECT tcp-reset",
    "keep ip": "NETMAP 0.0.0.0/0",
    "": "",
}


def named(desired: model.Ruleset, table: str) -> XTable:
    (found,) = (each for each in xtrender.render(desired, Family.V4) if each.name == table)
    return found


class Both:
    """Both kinds of rules of one configuration."""

    def __init__(self, redirection: Redirection) -> None:
        desired = policy.build_ruleset(redirection, FACTS)
        self._tables = desired.tables
        self._nat = named(desired, "nat")
        self._filter = named(desired, "filter")

    def compare(self, packet: Packet) -> int:
        """They decide the same; gives how many rules of x_tables were met."""
        walk = Walk(self._nat, packet)
        assert walk.decide("OUTPUT") == VERDICTS[decide(self._tables[0], "output", packet)]
        is_private = packet.interface == "lo" and packet.port in (15000, 15004, 15020)
        if len(self._tables) > 1 and not is_private:
            wanted = VERDICTS[decide(self._tables[1], "output", packet)]
            assert Walk(self._filter, packet).decide("OUTPUT") == wanted
        return walk.met


addresses = st.integers(0x0A000000, 0x0A0000FF) | st.integers(0, (1 << 32) - 1)


@st.composite
def networks(draw: st.DrawFn, most: int) -> tuple[str, ...]:
    made = draw(st.lists(st.tuples(addresses, st.integers(20, 32)), max_size=most))
    return tuple(
        str(ipaddress.ip_network((address >> (32 - n) << (32 - n), n))) for address, n in made
    )


@given(
    networks(120),
    networks(120),
    st.lists(st.integers(1, 100), max_size=40, unique=True),
    st.lists(st.integers(1, 100), max_size=3, unique=True),
    st.lists(
        st.builds(
            Packet,
            destination=addresses,
            port=st.integers(1, 100),
            interface=st.sampled_from(["eth0", "lo"]),
            uid=st.sampled_from([5000, FACTS.proxy_uid]),
            asked_for=st.none() | st.tuples(addresses, st.integers(1, 100)),
        ),
        min_size=5,
        max_size=20,
    ),
)
def test_both_kinds_of_rules_decide_the_same(
    included: tuple[str, ...],
    excluded: tuple[str, ...],
    spared: list[int],
    named_ports: list[int],
    packets: list[Packet],
) -> None:
    redirection = Redirection(
        outbound=cidrs(*included),
        outbound_exclude=cidrs(*excluded),
        outbound_ports_exclude=ports(*spared),
        outbound_ports=ports(*named_ports),
    )
    both = Both(redirection)
    for packet in packets:
        both.compare(packet)
    for text in (*included[:20], *excluded[:20]):
        both.compare(Packet(int(ipaddress.ip_network(text)[0]), 200))


@pytest.mark.parametrize("case", CASES)
def test_samples_are_decided_the_same(case: str) -> None:
    if not CASES[case].is_managed:
        return
    both = Both(CASES[case])
    for destination in (0x0A600005, 0x0A600105, 0xCB007105, 0xA9FEA9FE, 0x7F000005, 0x0A010002):
        for uid in (5000, FACTS.proxy_uid):
            for interface in ("eth0", "lo"):
                for port in (22, 80, 3306, 5050, 15008):
                    packet = Packet(destination, port, interface, uid)
                    both.compare(packet)
                    both.compare(replace(packet, asked_for=(0x0A600005, 80)))


def test_a_connection_meets_few_rules_whatever_the_number_of_networks() -> None:
    written = (f"10.{i >> 8}.{i & 255}.0/25" for i in range(10_000))
    many = Both(Redirection(outbound=cidrs(*written)))
    for destination in (0x0A000001, 0x0A270F01, 0x0A000081, 0xC0000001):
        assert many.compare(Packet(destination)) < 120


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", Family)
def test_names_of_chains_fit_into_the_kernel(case: str, family: Family) -> None:
    for table in xtrender.render(policy.build_ruleset(CASES[case], FACTS), family):
        for chain in table.chains:
            assert len(chain.name) <= LONGEST_CHAIN_NAME
            for rule in chain.rules:
                assert len(rule.comment) < 256


def test_only_the_table_filter_rejects_and_only_nat_translates() -> None:
    for family in Family:
        for table in xtrender.render(policy.build_ruleset(ALL, FACTS), family):
            targets = {rule.target for chain in table.chains for rule in chain.rules}
            assert ("REJECT" in targets) == (table.name == "filter")
            assert bool({"REDIRECT", "NETMAP"} & targets) == (table.name == "nat")


def test_private_ports_are_told_by_what_was_asked_for() -> None:
    """The table filter comes behind the translation, which has changed address and port."""
    table = named(policy.build_ruleset(STANDARD, FACTS), "filter")
    captured = Packet(0x7F000001, 15001, "lo", asked_for=(0x7F000005, 15000))
    assert Walk(table, captured).decide("OUTPUT") == "REJECT tcp-reset"
    assert Walk(table, replace(captured, uid=0)).decide("OUTPUT") == ""
    assert Walk(table, replace(captured, asked_for=(0x7F000005, 80))).decide("OUTPUT") == ""


def test_what_has_no_equivalent_is_refused_by_name() -> None:
    match = Match(Field.DPORT, Operator.NOT_IN, "ports")
    rule = Rule((match,), Verdict(Action.DROP))
    chain = model.Chain("output", (rule,), model.Hook("filter", 3, 0))
    table = model.Table("any", (), (chain,))
    with pytest.raises(xtables.NotExpressible, match="tcp dport not in"):
        xtrender.render(model.Ruleset((table,)), Family.V4)


# -- what is ours, and in which order it changes -------------------------------------------------


def head(target: str, comment: str = xtables.MARK) -> XRule:
    return XRule((), target, comment=comment)


FOREIGN = XRule((Condition("", "-p", "tcp"),), "DOCKER")
OUTPUT = XChain("OUTPUT", (head("ISTIO_OUTPUT"),), True)
OWN = XChain("ISTIO_OUTPUT", (head("RETURN"),))


def test_others_rules_behind_ours_are_no_difference() -> None:
    there = [OUTPUT._replace(rules=(*OUTPUT.rules, FOREIGN)), OWN, XChain("DOCKER", ())]
    assert xtplan.measure_own(there, []) == {"ISTIO_OUTPUT": 1, "OUTPUT": 1}


def test_who_puts_a_rule_before_ours_is_seen() -> None:
    there = [OUTPUT._replace(rules=(FOREIGN, *OUTPUT.rules)), OWN]
    assert xtplan.measure_own(there, []) == {"ISTIO_OUTPUT": 1, "OUTPUT": 2}
    observed = {Family.V4: (XTable("nat", (OWN, there[0])),)}
    wanted = {Family.V4: (XTable("nat", (OWN, OUTPUT)),)}
    drifts = [str(each) for each in xtplan.find_drift(wanted, observed)]
    assert drifts[0].startswith("iptables-legacy table nat chain OUTPUT rule 1: not ours: -p tcp")


def test_chains_of_istio_are_ours_only_where_they_are_wanted() -> None:
    istio = XChain("ISTIO_OUTPUT", (XRule((), "RETURN"),))
    jump = XChain("OUTPUT", (XRule((), "ISTIO_OUTPUT"),), True)
    assert xtplan.measure_own([jump, istio], []) == {}
    assert xtplan.measure_own([jump, istio], ["ISTIO_OUTPUT"]) == {"ISTIO_OUTPUT": 1, "OUTPUT": 1}


def test_a_chain_of_somebody_else_is_not_ours_because_one_of_ours_goes_there() -> None:
    to_docker = XRule((), "DOCKER-USER", is_goto=True)
    own = OWN._replace(rules=(*OWN.rules, to_docker))
    theirs = XChain("OUTPUT", (to_docker._replace(is_goto=False),), True)
    chains = [XChain("DOCKER-USER", ()), own, theirs]
    assert xtplan.find_own(chains, []) == {OWN.name}


def tables(redirection: Redirection | None) -> tuple[XTable, ...]:
    desired = policy.build_ruleset(redirection, FACTS) if redirection else model.Ruleset()
    return xtrender.render(desired, Family.V4)


def test_what_is_equal_takes_no_step() -> None:
    assert xtplan.make_steps(tables(STANDARD), tables(STANDARD)) == ()


def test_while_the_translation_changes_the_guard_is_out() -> None:
    """It would refuse what the other rules do not capture yet, or not any more."""
    for before in (None, ALL):
        steps = xtplan.make_steps(tables(STANDARD), tables(before))
        *_, first, nat, last = steps
        assert [first.name, nat.name, last.name] == ["filter", "nat", "filter"]
        assert not any(chain.name.startswith("ISTIO_GUARD") for chain in first.chains)
        assert any(chain.name == "ISTIO_PRIVATE" for chain in first.chains)
        assert last == tables(STANDARD)[xtables.TABLES.index("filter")]


def test_who_leaves_takes_the_guard_out_first_and_the_filters_last() -> None:
    steps = xtplan.make_steps(tables(None), tables(STANDARD))
    assert [step.name for step in steps] == ["filter", "nat", "mangle"]
    assert all(not step.chains for step in steps)
