"""Which rules of a firewall may deny by port or address, and for which ports."""

import shlex
from typing import Any

import pytest

from istio_hostagent.redirect import admission, denials
from istio_hostagent.redirect.denials import EVERY, Denial
from istio_hostagent.redirect.openings import Listed, Repetition
from tests.unit.test_openings import ACCEPT, DPORT, SADDR, TH, match

DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
L4PROTO = {"meta": {"key": "l4proto"}}
DROP: dict[str, Any] = {"drop": None}
JUMP: dict[str, Any] = {"jump": {"target": "web"}}
BUT_22 = ((0, 21), (23, 65535))


def vmap(*pairs: Any) -> Any:
    return {"vmap": {"key": DPORT, "data": {"set": [list(each) for each in pairs]}}}


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([match(DPORT, 8080), DROP], Denial(((8080, 8080),))),
        ([match(DPORT, {"set": [80, {"range": [90, 99]}]}), DROP], Denial(((80, 80), (90, 99)))),
        ([match(DPORT, 22, "!="), DROP], Denial(BUT_22)),
        ([match(DPORT, 1024, "<"), DROP], Denial(EVERY)),
        ([match(DPORT, "@ports"), DROP], Denial(EVERY)),
        ([match({"concat": [SADDR, DPORT]}, "@both"), DROP], Denial(EVERY)),
        ([match(TH, 53), DROP], Denial(((53, 53),))),
        ([match(DPORT, 8080), {"mangle": {"key": {"meta": {"key": "mark"}}}}], ((8080, 8080),)),
        ([match(DPORT, 8080), {"ct count": {"val": 5}}, ACCEPT], ((8080, 8080),)),
        ([match(DPORT, 8080), JUMP], Denial(((8080, 8080),), ("web",))),
        ([vmap([22, ACCEPT], [8080, JUMP])], Denial(((8080, 8080),), ("web",))),
        ([{"vmap": {"key": SADDR, "data": "@verdicts"}}], Denial(EVERY)),
        ([match(DADDR, "10.0.0.1"), DROP], Denial(EVERY)),
        ([match({"payload": {"base": "th", "offset": 16, "len": 16}}, 8080), DROP], EVERY),
        ([match({"ct": {"key": "proto-src", "dir": "reply"}}, 8080), DROP], EVERY),
        ([match({"fib": {"result": "oif", "flags": ["daddr"]}}, "eth0"), DROP], EVERY),
        ([{"xt": {"type": "match", "name": "multiport"}}, DROP], EVERY),
        # These deny nobody, or after the translation just as before.
        ([match(DPORT, 8080), ACCEPT], Denial()),
        ([match(DPORT, 8080), {"log": None}], Denial()),
        ([vmap([22, ACCEPT], [80, {"continue": None}])], Denial()),
        ([match(SADDR, "10.0.0.1"), DROP], Denial()),
        ([match(SADDR, "10.0.0.1"), JUMP], Denial((), ("web",))),
        ([match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), DROP], Denial()),
        ([match(L4PROTO, "udp"), match(DADDR, "224.0.0.251"), DROP], Denial()),
        ([match({"payload": {"protocol": "udp", "field": "dport"}}, 53), DROP], Denial()),
    ],
)
def test_what_a_rule_of_nft_may_deny(statements: list[Any], expected: Any) -> None:
    wanted = expected if isinstance(expected, Denial) else Denial(expected)
    assert denials.of_statements(statements) == wanted


@pytest.mark.parametrize(
    ("rule", "ports"),
    [
        ("-s 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j DROP", ((8080, 8080),)),
        ("-p tcp -m multiport --dports 80,8000:8090 -j f2b-web", ((80, 80), (8000, 8090))),
        ("-p tcp -m tcp ! --dport 22 -j DROP", BUT_22),
        ("-p tcp -m tcp --dport 8080 -m recent --set --name web", ((8080, 8080),)),
        ("-p tcp -m tcp --dport 8080 -m limit --limit 1/sec -j RETURN", ((8080, 8080),)),
        ("-p tcp -m multiport --ports 8080 -j DROP", EVERY),
        ("-d 192.0.2.1/32 -j DROP", EVERY),
        ("-m set --match-set closed src,dst -j DROP", EVERY),
        ("-m addrtype --dst-type LOCAL --limit-iface-in -j DROP", EVERY),
        ("-m bpf --bytecode 1 -j DROP", EVERY),
        ("-m recent --update --rdest -j DROP", EVERY),
        ("-p tcp -m tcp --dport 8080 -j ACCEPT", ()),
        ("-p tcp -m tcp --dport 8080 -j LOG --log-prefix '-d x'", ()),
        ("-p udp -m udp --dport 8080 -j DROP", ()),
        ("-s 192.0.2.1/32 -m comment --comment '-d 10.0.0.1' -j DROP", ()),
        ("-m addrtype --dst-type LOCAL -j RETURN", ()),
        ("-m set --match-set banned src -j DROP", ()),
    ],
)
def test_what_a_rule_of_iptables_may_deny(rule: str, ports: Any) -> None:
    assert denials.of_words(shlex.split(rule)).ports == ports


def test_what_iptables_does_not_show_may_deny_everything() -> None:
    assert denials.of_words(["-j", "DROP"], is_whole=False).ports == EVERY


def keep(**chains: list[Listed]) -> dict[str, list[Listed]]:
    return admission.keep_denials(chains, "inet filter", ["input"])


def accept(*ports: int) -> Listed:
    repeated = [Repetition((), str(port), ((port, port),)) for port in ports]
    return Listed(9, repetitions=tuple(repeated))


def test_the_ports_that_nobody_denies_are_let_in_nevertheless() -> None:
    ban = Listed(7, denial=Denial(((22, 22),)))
    (_, kept) = keep(input=[ban, accept(22, 8080)])["input"]
    assert [each.digest for each in kept.repetitions] == ["8080"]
    assert kept.problem.startswith("rule handle 7 of chain inet filter input may deny it")


def test_what_comes_behind_denies_nothing() -> None:
    (kept, _) = keep(input=[accept(22), Listed(7, denial=Denial(EVERY))])["input"]
    assert kept.repetitions


def test_a_chain_gets_so_many_rules_and_no_more() -> None:
    (kept,) = keep(input=[accept(*range(1, 65))])["input"]
    assert len(kept.repetitions) == 64
    (kept, other) = keep(input=[accept(*range(1, 65)), accept(80)])["input"]
    assert not (kept.repetitions or other.repetitions)
    assert "would need more than 64 rules" in kept.problem
