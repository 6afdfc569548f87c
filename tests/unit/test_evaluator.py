"""What the model of the kernel makes of packets, where a case by itself tells more than a rule."""

from ipaddress import ip_address

import pytest

from istio_hostagent.redirect import evaluator, model, packetfields
from istio_hostagent.redirect.model import Action, Field, Match, Operator, Rule, Verdict
from istio_hostagent.redirect.packets import End, Packet, Tracking, Way

OWN = (ip_address("10.1.0.2"), ip_address("fd00:1::2"))
OUT = Packet("10.9.9.9", 80, "10.1.0.2", uid=1000, gid=1000, oif="eth0")
IN = Packet("10.1.0.2", 80, "10.9.9.9", iif="eth0")
ACCEPT = Verdict(Action.RETURN)
DROP = Verdict(Action.DROP)


def to(port: int) -> Verdict:
    return Verdict(Action.REDIRECT, port)


def rule(verdict: Verdict, *matches: Match) -> Rule:
    return Rule(matches, verdict)


def table(*chains: model.Chain) -> model.Table:
    return model.Table("t", (), chains)


def base(kind: str, priority: int, *rules: Rule, number: int = evaluator.OUTPUT) -> model.Chain:
    return model.Chain(f"at {priority}", rules, model.Hook(kind, number, priority))


def follow(packet: Packet, *chains: model.Chain) -> Way:
    return evaluator.follow((table(*chains),), packet, OWN)


def test_every_field_and_action_is_known() -> None:
    """Whoever adds one says here what the kernel makes of it, or `explain` would not know."""
    assert packetfields.FIELDS.keys() == set(Field)
    assert evaluator.ACTIONS.keys() == set(Action)


def test_what_a_chain_redirects_later_chains_see_on_loopback() -> None:
    on_loopback = Match(Field.IP_DADDR, Operator.EQ, 0x7F000001)
    asked_for = Match(Field.ORIGINAL_IP_DADDR, Operator.EQ, int(OUT.address))
    nat = base("nat", -101, rule(to(15001)))
    way = follow(OUT, base("filter", 0, rule(DROP, on_loopback, asked_for)), nat)
    assert (way.end, way.captured_at) == (End.DROPPED, 15001)
    before = base("filter", -102, rule(DROP, on_loopback))
    assert follow(OUT, before, nat).end is End.PASSED


def test_translation_is_decided_once_and_by_the_first() -> None:
    first, second = base("nat", -101, rule(to(1))), base("nat", -100, rule(to(2)))
    assert follow(OUT, second, first).captured_at == 1
    kept = base("nat", -101, rule(Verdict(Action.KEEP, "ip")))
    assert follow(OUT, kept, second).captured_at == 0
    other_family = base("nat", -101, rule(Verdict(Action.KEEP, "ip6")))
    assert follow(OUT, other_family, second).captured_at == 2


@pytest.mark.parametrize(
    ("packet", "port"),
    [
        pytest.param(OUT._replace(flags=0x12), 0, id="an-answer-of-no-connection"),
        pytest.param(OUT._replace(flags=0x10), 1, id="picked-up-in-the-middle"),
        pytest.param(OUT._replace(tracking=Tracking.ESTABLISHED), 0, id="of-a-known-connection"),
        pytest.param(OUT._replace(protocol=17, flags=0), 1, id="a-datagram"),
    ],
)
def test_only_the_first_packet_of_a_connection_is_translated(packet: Packet, port: int) -> None:
    assert follow(packet, base("nat", -101, rule(to(1)))).captured_at == port


def test_a_zone_is_set_once_and_before_tracking() -> None:
    def zone(number: int) -> Rule:
        return rule(Verdict(Action.ZONE, number))

    assert follow(OUT, base("filter", -300, zone(2), zone(1))).packet.zone == 2
    assert follow(OUT, base("filter", -150, zone(2))).packet.zone == 0


def test_before_tracking_every_packet_counts_as_invalid() -> None:
    is_invalid = Match(Field.CT_STATE_INVALID, Operator.NE, 0)
    assert follow(OUT, base("filter", -300, rule(DROP, is_invalid))).end is End.DROPPED
    assert follow(OUT, base("filter", -150, rule(DROP, is_invalid))).end is End.PASSED
    answer = OUT._replace(flags=0x12)
    assert follow(answer, base("filter", -150, rule(DROP, is_invalid))).end is End.DROPPED


def test_with_a_zone_a_packet_that_is_not_tracked_yet_is_not_invalid() -> None:
    zone = rule(Verdict(Action.ZONE, 2))
    drop = rule(DROP, Match(Field.CT_STATE_INVALID, Operator.EQ, 0))
    assert follow(OUT, base("filter", -300, drop)).end is End.PASSED
    assert follow(OUT, base("filter", -300, zone, drop)).end is End.DROPPED


@pytest.mark.parametrize("operator", list(Operator))
def test_a_rule_about_what_a_packet_has_not_never_applies(operator: Operator) -> None:
    is_set = operator in (Operator.IN, Operator.NOT_IN)
    content = model.make_set("s", model.SetKind.IPV6, ((1, 1),))
    match = Match(Field.IP6_DADDR, operator, "s" if is_set else 1)
    chain = base("filter", 0, rule(DROP, match))
    made = model.Table("t", (content,), (chain,))
    assert evaluator.follow((made,), OUT, OWN).end is End.PASSED


def test_goto_does_not_come_back_and_jump_does() -> None:
    def way(action: Action) -> Way:
        chains = (
            base("nat", -101, rule(Verdict(Action.JUMP, "first")), rule(to(3))),
            model.Chain("first", (rule(Verdict(action, "second")), rule(to(1)))),
            model.Chain("second", (rule(ACCEPT), rule(to(2)))),
        )
        return follow(OUT, *chains)

    assert way(Action.JUMP).captured_at == 1
    assert way(Action.GOTO).captured_at == 3


def test_a_listening_socket_gets_the_packet_as_it_is_and_else_the_next_rule_does() -> None:
    hand_over = rule(Verdict(Action.TPROXY, 15006))
    chains = (
        base("filter", -150, rule(Verdict(Action.JUMP, "in")), number=evaluator.PREROUTING),
        model.Chain("in", (hand_over, rule(Verdict(Action.REJECT)))),
    )
    way = follow(IN, *chains)
    assert (way.end, way.captured_at, way.packet.port) == (End.PASSED, 15006, 80)
    assert way.decider is not None and way.decider.chain == "in"
    alone = follow(IN._replace(is_awaited=False), *chains)
    assert (alone.end, alone.captured_at) == (End.REJECTED, 0)


def test_what_loses_the_socket_of_the_proxy_is_seen_where_it_arrives() -> None:
    hand_over = rule(Verdict(Action.TPROXY, 15006))
    kept = Match(Field.SOCKET_TRANSPARENT, Operator.EQ, 1)
    arrived = (rule(ACCEPT, kept), rule(Verdict(Action.REJECT)))
    chains = (
        base("filter", -150, hand_over, number=evaluator.PREROUTING),
        base("filter", 0, *arrived, number=evaluator.INPUT),
    )
    assert follow(IN, *chains).end is End.PASSED
    lost = follow(IN._replace(is_bridged=True), *chains)
    assert lost.end is End.REJECTED
    assert lost.decider is not None and lost.decider.hook == evaluator.INPUT


def test_a_mark_is_that_of_the_connection_only_with_one() -> None:
    save, restore = rule(Verdict(Action.SAVE_MARK)), rule(Verdict(Action.RESTORE_MARK))
    marked = OUT._replace(mark=7)
    assert follow(marked, base("filter", -150, save)).packet.connection_mark == 7
    assert follow(marked, base("filter", -300, save)).packet.connection_mark == 0
    known = OUT._replace(connection_mark=7)
    assert follow(known, base("filter", -150, restore)).packet.mark == 7
    assert follow(known, base("filter", -300, restore)).packet.mark == 0


def test_a_reset_refuses_tcp_alone() -> None:
    chain = base("filter", 0, rule(Verdict(Action.REJECT)))
    assert follow(OUT, chain).end is End.REJECTED
    assert follow(OUT._replace(protocol=17), chain).end is End.PASSED


def test_what_this_host_sends_to_itself_comes_in_by_loopback_without_a_socket() -> None:
    by_lo = Match(Field.IIFNAME, Operator.EQ, "l*")
    of_user = Match(Field.SKUID, Operator.EQ, 1000)
    arrives = base("filter", 0, rule(DROP, by_lo), number=evaluator.INPUT)
    assert follow(OUT, arrives).end is End.PASSED
    to_own = OUT._replace(destination="10.1.0.2", oif="lo")
    assert follow(to_own, arrives).end is End.DROPPED
    owned = base("filter", 0, rule(DROP, by_lo, of_user), number=evaluator.INPUT)
    assert follow(to_own, owned).end is End.PASSED
    captured = base("nat", -101, rule(to(15001)))
    assert follow(OUT, captured, arrives).end is End.DROPPED


def test_what_nobody_has_translated_on_its_way_out_stays_so_on_its_way_in() -> None:
    captured = base("nat", -101, rule(to(15006)), number=evaluator.PREROUTING)
    to_own = OUT._replace(destination="10.1.0.2", oif="lo")
    assert follow(to_own, captured).captured_at == 0
    assert follow(IN, captured).captured_at == 15006


def test_what_passes_through_this_host_is_forwarded_and_not_let_in() -> None:
    forward, enter = (
        base("filter", number, rule(DROP), number=number)
        for number in (evaluator.FORWARD, evaluator.INPUT)
    )
    through = IN._replace(destination="10.8.8.8")
    assert follow(through, forward).end is End.DROPPED
    assert follow(through, enter).end is End.PASSED
    assert follow(IN, forward).end is End.PASSED
    assert follow(IN, enter).end is End.DROPPED


def test_the_decider_is_the_rule_that_chose_and_not_the_one_that_carries_it_out() -> None:
    is_web = Match(Field.DPORT, Operator.EQ, 80)
    is_mail = Match(Field.DPORT, Operator.EQ, 25)
    chains = (
        base("nat", -101, rule(Verdict(Action.JUMP, "choose"))),
        model.Chain(
            "choose", (rule(ACCEPT, is_mail), rule(Verdict(Action.JUMP, "proxy"), is_web))
        ),
        model.Chain("proxy", (rule(to(15001)),)),
    )

    def decider(port: int) -> tuple[str, int]:
        step = follow(OUT._replace(port=port), *chains).decider
        assert step is not None
        return step.chain, step.number

    assert decider(80) == ("choose", 2)
    assert decider(25) == ("choose", 1)
    assert decider(443) == ("choose", 0)  # none of its rules
    assert follow(OUT, base("filter", 0)).decider is None
