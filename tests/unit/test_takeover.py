"""What is recognised as left by Istio's scripts, and what is not, however much it looks like it."""

import pytest

from istio_hostagent.redirect import takeover
from istio_hostagent.redirect.takeover import Outcome, Remains, Rule, Table, Taking


def table(name: str, *lines: str, chains: tuple[str, ...] = ()) -> Table:
    """A table with these rules, in the words of iptables-save without the `-A`."""
    rules = []
    for line in lines:
        text, _, comment = line.partition(" # ")
        target = text.rpartition("-j ")[2].split(" ")[0]
        rules.append(Rule(text.split(" ")[0], text, target, comment))
    return Table(name, chains, tuple(rules))


# With this in another table of the same kind, what belongs to chains of Istio's is theirs.
ELSEWHERE = table("nat", "OUTPUT -j ISTIO_OUTPUT", chains=("ISTIO_OUTPUT",))


def taken(one: Table, *others: Table) -> list[str]:
    """The rules of the first table that are Istio's."""
    for taking in takeover.find((one, *others)):
        if taking.table == one.name:
            return [one.rules[number].text for number in taking.rules]
    return []


def test_chains_go_with_all_that_is_in_them_and_all_that_jumps_there() -> None:
    nat = table(
        "nat",
        "PREROUTING -p tcp -j ISTIO_INBOUND",
        "PREROUTING -j DOCKER",
        "OUTPUT -j MINE",
        "MINE -p tcp -j ISTIO_OUTPUT",
        "MINE -j RETURN",
        "ISTIO_INBOUND -p tcp --dport 22 -j RETURN",
        "ISTIO_INBOUND ? whatever -j ? either",
        "ISTIO_FOREIGN -j RETURN",
        "OUTPUT -j ISTIO_FOREIGN",
        chains=("DOCKER", "MINE", "ISTIO_INBOUND", "ISTIO_OUTPUT", "ISTIO_FOREIGN"),
    )
    assert takeover.find((nat,)) == (
        Taking("nat", (0, 3, 5, 6), ("ISTIO_INBOUND", "ISTIO_OUTPUT")),
    )


def test_a_jump_to_a_chain_that_is_not_there_is_no_jump() -> None:
    """A target of x_tables may be called anything."""
    assert takeover.find((table("nat", "OUTPUT -j ISTIO_OUTPUT"),)) == ()


BESIDE = {
    "nat": (
        "OUTPUT -d 10.0.0.53/32 -p udp --dport 53 -j REDIRECT --to-ports 15053",
        "OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 15053",
        "OUTPUT -p udp --dport 53 --uid-owner 998 -j RETURN",
        "OUTPUT -p udp --dport 53 --gid-owner 998 -j RETURN",
        "POSTROUTING -p udp --dport 15053 -j SNAT --to-source 127.0.0.1",
        "INPUT -p 255 -j RETURN",
        "PREROUTING -i eth9 -j RETURN",
        "OUTPUT -o eth9 -j RETURN",
    ),
    "mangle": (
        "PREROUTING -p tcp --mark 0x539 -j CONNMARK --save-mark",
        "OUTPUT -o lo -p tcp --mark 0x539 -j RETURN",
        "OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp --uid-owner 998 -j MARK --set-mark 0x53a",
        "OUTPUT -o lo ! -d ::1/128 -p tcp --gid-owner 998 -j MARK --set-mark 0x53a",
        "OUTPUT -p tcp --connmark 0x539 -j CONNMARK --restore-mark",
        "PREROUTING -i eth+ -j RETURN",
        "OUTPUT -o eth+ -j RETURN",
    ),
    "raw": (
        "PREROUTING -s 10.0.0.53/32 -p udp --sport 53 -j CT --zone 1",
        "PREROUTING -s fd00::53/128 -p udp --sport 53 -j CT --zone 1",
        "PREROUTING -p udp --sport 53 -j CT --zone 1",
        "OUTPUT -p udp --dport 53 --uid-owner 998 -j CT --zone 1",
        "OUTPUT -p udp --sport 15053 --gid-owner 998 -j CT --zone 2",
        "OUTPUT -d 10.0.0.53/32 -p udp --dport 53 -j CT --zone 2",
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_rules_beside_their_chains_are_theirs(name: str) -> None:
    one = table(name, *BESIDE[name])
    elsewhere = ELSEWHERE._replace(name="filter")
    assert taken(one, elsewhere) == list(BESIDE[name])


@pytest.mark.parametrize("name", BESIDE)
def test_without_any_of_their_chains_they_are_nobodys(name: str) -> None:
    assert takeover.find((table(name, *BESIDE[name]),)) == ()


OTHERS = {
    "nat": (
        "OUTPUT -d 10.0.0.0/8 -p udp --dport 53 -j REDIRECT --to-ports 15053",
        "OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 5353",
        "OUTPUT -p tcp --dport 53 -j REDIRECT --to-ports 15053",
        "OUTPUT -p udp --dport 53 ? conntrack -j REDIRECT --to-ports 15053",
        "PREROUTING -p udp --dport 53 -j REDIRECT --to-ports 15053",
        # Without a redirection of theirs behind it, it is an exemption of anybody's.
        "OUTPUT -p udp --dport 53 --uid-owner 998 -j RETURN",
        "POSTROUTING -p udp --dport 15053 -j SNAT --to-source 10.0.0.1",
        "INPUT -p 254 -j RETURN",
        "PREROUTING -i wan0 -j RETURN",
        "OUTPUT -o wan1 -j RETURN",
    ),
    "mangle": (
        "PREROUTING -p tcp --mark 0x1 -j CONNMARK --save-mark",
        "OUTPUT -p tcp --mark 0x539 -j RETURN",
        "OUTPUT -p tcp --uid-owner 998 -j MARK --set-mark 0x53a",
        "OUTPUT -p tcp --connmark 0x539 -j CONNMARK ?",
        "INPUT -i eth9 -j RETURN",
    ),
    "raw": (
        "PREROUTING -p udp --sport 53 -j CT --zone 3",
        "PREROUTING -s 10.0.0.0/8 -p udp --sport 53 -j CT --zone 1",
        "OUTPUT -p udp --dport 53 ! --uid-owner 998 -j CT --zone 1",
    ),
    "filter": (
        "INPUT -p tcp -j DROP",
        "INPUT -p udp -j DROP",
        "FORWARD -p tcp -j DROP",
        "FORWARD -p udp -j DROP",
        "OUTPUT -p tcp -j ACCEPT",
        "OUTPUT -p udp -j DROP",
    ),
    "security": BESIDE["raw"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_theirs_is_somebody_elses(name: str) -> None:
    elsewhere = ELSEWHERE._replace(name="mangle" if name == "nat" else "nat")
    assert taken(table(name, *OTHERS[name]), elsewhere) == []


def test_an_interface_is_left_alone_by_them_only_in_front_of_their_jump() -> None:
    lines = (
        "PREROUTING -i eth8 -j RETURN",
        "PREROUTING -p tcp -j ISTIO_INBOUND",
        "PREROUTING -i eth9 -j RETURN",
        "OUTPUT -o eth8 -j RETURN",
        "OUTPUT -j ISTIO_OUTPUT",
        "OUTPUT -o eth9 -j RETURN",
    )
    one = table("nat", *lines, chains=("ISTIO_INBOUND", "ISTIO_OUTPUT"))
    assert taken(one) == [lines[0], lines[1], lines[3], lines[4]]


def test_interfaces_of_guests_are_theirs_where_guests_are_captured() -> None:
    lines = (
        "PREROUTING -i virt1 -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "PREROUTING -i virt1 -j RETURN",
        "PREROUTING -i virt2 -j RETURN",
    )
    assert taken(table("nat", *lines, chains=("ISTIO_REDIRECT",))) == list(lines[:2])


def test_what_drops_everything_goes_if_it_is_at_the_head_of_all_three_chains() -> None:
    guards = [
        f"{chain} -p {protocol} -j DROP"
        for chain in ("INPUT", "FORWARD", "OUTPUT")
        for protocol in ("udp", "tcp")
    ]
    own = "FORWARD -p sctp -j DROP"
    behind = table("filter", *guards, own)
    assert takeover.find((behind, ELSEWHERE))[0] == Taking("filter", (0, 1, 2, 3, 4, 5), ())
    assert taken(table("filter", own, *guards), ELSEWHERE) == []
    assert taken(table("filter", *guards[:-1]), ELSEWHERE) == []


@pytest.mark.parametrize(
    ("lines", "author"),
    [
        (("ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",), "istio-iptables.sh"),
        (
            (
                "ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
                "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
            ),
            "istio-iptables.sh",
        ),
        (
            (
                "ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
                "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
            ),
            "istio-iptables",
        ),
        (
            ("ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001 # istio/redirect-to-envoy-port",),
            "prepare_proxy.sh",
        ),
        (("ISTIO_INBOUND -j RETURN", "OUTPUT -j REDIRECT --to-ports 1"), "istio-iptables"),
    ],
)
def test_who_has_left_them_is_known_by_their_ports(lines: tuple[str, ...], author: str) -> None:
    assert takeover.name_author((table("nat", *lines),)) == author


def test_the_words_of_a_rule_have_one_order() -> None:
    words = ["--dport 53", "? other", "! -d 10.0.0.1/32", "-p udp", "-o lo", "--uid-owner 7"]
    rule = takeover.make_rule("OUTPUT", words, "CT --zone 1", "why")
    text = "OUTPUT -o lo ! -d 10.0.0.1/32 -p udp --dport 53 --uid-owner 7 ? other -j CT --zone 1"
    assert rule == Rule("OUTPUT", text, "CT", "why")


LEGACY = Remains(23, "istio-iptables", "iptables-legacy")
ROUTING = Remains(1, "istio-iptables", takeover.ROUTING)


def test_remains_in_words() -> None:
    assert LEGACY.text == "23 rules of istio-iptables in iptables-legacy"
    assert ROUTING.text == "1 rule of istio-iptables in the routing policy"
    assert takeover.render(ROUTING.text) == "-1 rule of istio-iptables in the routing policy"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ip6tables-nft", "ip6tables-nft-restore"),
        (takeover.NFTABLES, "nft delete table inet istio-proxy-$t"),
        (takeover.ROUTING, "rule del fwmark 1337 lookup 133"),
    ],
)
def test_every_place_has_a_remedy(place: str, words: str) -> None:
    assert words in Remains(1, "istio-iptables", place).remedy


def test_an_outcome_says_what_went_and_what_is_left_and_why() -> None:
    some = LEGACY._replace(rules=3)
    outcome = takeover.join((Outcome((LEGACY,), (some,), ("no lock",)), Outcome((ROUTING,))))
    assert outcome.taken == (LEGACY._replace(rules=20).text, ROUTING.text)
    assert outcome.problem == (
        f"{some.text} could not be taken out (no lock); they go with `{some.remedy}`"
    )
    assert Outcome((LEGACY,), (LEGACY,)).problem.startswith(f"{LEGACY.text} are still there; ")
    unknown = Outcome(errors=("nobody answers",))
    assert unknown.problem == "what Istio's scripts may have left is not known: nobody answers"
    assert (Outcome().problem, Outcome().taken) == ("", ())
