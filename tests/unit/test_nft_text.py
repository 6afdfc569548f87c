"""Rules in the words of nft(8): every expression has a text, and no text hides a difference."""

import pytest

from istio_hostagent.redirect import expressions, model, nft, policy
from istio_hostagent.redirect.model import Action, Expr, Field, Match, Operator, Rule, Verdict
from tests.unit.samples import CASES, FACTS


def text(*matches: Match, verdict: Verdict = Verdict(Action.RETURN), comment: str = "") -> str:  # noqa: B008 - a constant
    return nft.render_rule(expressions.compile_rule(Rule(matches, verdict, comment)))


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (Match(Field.L4PROTO, Operator.EQ, 6), "meta l4proto tcp"),
        (Match(Field.L4PROTO, Operator.NE, 17), "meta l4proto != udp"),
        (Match(Field.OIFNAME, Operator.EQ, "lo"), 'oifname "lo"'),
        (Match(Field.IIFNAME, Operator.NE, "eth0"), 'iifname != "eth0"'),
        (Match(Field.SKUID, Operator.EQ, 998), "meta skuid 998"),
        (Match(Field.SKGID, Operator.NE, 0), "meta skgid != 0"),
        (Match(Field.IP_SADDR, Operator.EQ, 0x7F000006), "ip saddr 127.0.0.6"),
        (Match(Field.IP_DADDR, Operator.NE, 0x7F000001), "ip daddr != 127.0.0.1"),
        (Match(Field.IP6_SADDR, Operator.EQ, 6), "ip6 saddr ::6"),
        (Match(Field.IP6_DADDR, Operator.IN, "some"), "ip6 daddr @some"),
        (Match(Field.DPORT, Operator.NE, 15008), "tcp dport != 15008"),
        (Match(Field.SPORT, Operator.NOT_IN, "some"), "tcp sport != @some"),
        (
            Match(Field.TCP_FLAGS, Operator.EQ, 2),
            "tcp flags & (fin | syn | rst | ack) == syn",
        ),
        (Match(Field.FIB_DADDR_TYPE, Operator.NE, 2), "fib daddr type != local"),
        (Match(Field.FIB_DADDR_TYPE, Operator.EQ, 8), "fib daddr type prohibit"),
        (Match(Field.FIB_DADDR_TYPE, Operator.EQ, 9), "fib daddr type 9"),
        (Match(Field.CT_STATUS_DNAT, Operator.NE, 0), "ct status dnat"),
        (Match(Field.CT_STATUS_DNAT, Operator.EQ, 0), "ct status & dnat == 0"),
        (
            Match(Field.ORIGINAL_IP_DADDR, Operator.NE, 0x7F000001),
            "ct original ip daddr != 127.0.0.1",
        ),
        (Match(Field.ORIGINAL_IP6_DADDR, Operator.IN, "some"), "ct original ip6 daddr @some"),
        (
            Match(Field.ORIGINAL_DPORT, Operator.EQ, 25),
            "meta l4proto tcp ct original proto-dst 25",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_conditions(match: Match, words: str) -> None:
    assert text(match) == f"{words} counter return"


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict(Action.JUMP, "ISTIO_OUTPUT"), "counter jump ISTIO_OUTPUT"),
        (Verdict(Action.GOTO, "ISTIO_OUTPUT"), "counter goto ISTIO_OUTPUT"),
        (Verdict(Action.DROP), "counter drop"),
        (Verdict(Action.REDIRECT, 15001), "counter redirect to :15001"),
        (Verdict(Action.KEEP, "ip"), "counter dnat ip to ip daddr"),
        (Verdict(Action.KEEP, "ip6"), "counter dnat ip6 to ip6 daddr"),
        (Verdict(Action.REJECT), "meta l4proto tcp counter reject with tcp reset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_verdicts(verdict: Verdict, words: str) -> None:
    assert text(verdict=verdict) == words


def test_a_comment_follows_the_rule() -> None:
    assert text(comment="why") == 'counter return comment "why"'


def test_what_we_would_never_write_is_shown_as_it_is() -> None:
    foreign = model.RuleState((Expr("?limit", (("?", b"\1\2"),)), Expr("meta", (("key", 99),))))
    assert nft.render_rule(foreign) == "[ ?limit ?=0x0102 ] [ meta key=99 ]"


def test_different_rules_have_different_texts() -> None:
    seen: dict[str, model.RuleState] = {}
    for redirection in CASES.values():
        for table in policy.build_ruleset(redirection, FACTS).tables:
            for chain in expressions.compile_table(table, model.Owner.NOBODY).chains:
                for rule in chain.rules:
                    assert seen.setdefault(nft.render_rule(rule), rule) == rule


@pytest.mark.parametrize(
    ("kind", "first", "last", "words"),
    [
        ("inet_service", 22, 22, "22"),
        ("inet_service", 0, 65535, "0-65535"),
        ("ipv4_addr", 0x0A000000, 0x0AFFFFFF, "10.0.0.0/8"),
        ("ipv4_addr", 0x0A000001, 0x0A000003, "10.0.0.1-10.0.0.3"),
        ("ipv4_addr", 0, 2**32 - 1, "0.0.0.0/0"),
        ("ipv6_addr", 1, 1, "::1"),
        ("ipv6_addr", 0xFE80 << 112, (0xFEC0 << 112) - 1, "fe80::/10"),
    ],
)
def test_ranges(kind: str, first: int, last: int, words: str) -> None:
    assert nft.render_range(kind, first, last) == words


def test_loading_a_listing_replaces_the_table() -> None:
    table = policy.build_ruleset(CASES["standard"], FACTS).tables[1]
    lines = nft.render_nft(table).splitlines()
    assert lines[:4] == [
        "table inet istio_guard {",
        "}",
        "delete table inet istio_guard",
        "table inet istio_guard {",
    ]
