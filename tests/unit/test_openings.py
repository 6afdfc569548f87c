"""What rules of a firewall are said again, in which words, and what is compared."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.redirect import openings
from istio_hostagent.redirect.openings import Changes, Listed, NotRepeatable, Repetition

CAPTURED = ((8080, 8080), (9000, 9010))
DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
TH = {"payload": {"protocol": "th", "field": "dport"}}
SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}
ORIGINAL = {"ct": {"key": "proto-dst", "dir": "original"}}
ACCEPT: dict[str, Any] = {"accept": None}


def match(left: Any, right: Any, op: str = "==") -> Any:
    return {"match": {"op": op, "left": left, "right": right}}


def originals(*statements: Any) -> list[Any]:
    """What is said of the port that was asked for, in each repetition."""
    made = openings.repeat_statements(statements, 15006, CAPTURED)
    for each in made:
        assert match(DPORT, 15006) in each.conditions
        assert ACCEPT not in each.conditions
    return [
        each["match"]["right"]
        for one in made
        for each in one.conditions
        if "match" in each and "ct" in str(each["match"]["left"])
    ]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([match(DPORT, 8080), ACCEPT], [8080]),
        ([match(DPORT, 22), ACCEPT], []),
        ([match(DPORT, {"range": [8000, 9000]}), ACCEPT], [{"range": [8000, 9000]}]),
        (
            [match(DPORT, {"set": [22, 8080, {"range": [9001, 9002]}]}), ACCEPT],
            [8080, {"range": [9001, 9002]}],
        ),
        ([match(DPORT, "@web"), ACCEPT], ["@web"]),
        ([match(DPORT, 22, "!="), ACCEPT], [22]),
        ([match({"concat": [SADDR, DPORT]}, "@web"), ACCEPT], ["@web"]),
        ([match(TH, 8080), ACCEPT], [8080]),
        ([{"vmap": {"key": DPORT, "data": {"set": [[22, ACCEPT], [8080, ACCEPT]]}}}], [8080]),
        ([{"vmap": {"key": DPORT, "data": {"set": [[8080, {"jump": {"target": "x"}}]]}}}], []),
        ([match(DPORT, 8080), {"drop": None}], []),
        ([match(SADDR, "10.0.0.1"), ACCEPT], []),
        ([match({"payload": {"protocol": "udp", "field": "dport"}}, 8080), ACCEPT], []),
        ([match({"meta": {"key": "l4proto"}}, "udp"), match(TH, 8080), ACCEPT], []),
    ],
)
def test_the_port_that_was_asked_for_takes_the_place_of_the_packets(
    statements: list[Any], expected: list[Any]
) -> None:
    assert originals(*statements) == expected


def test_every_other_condition_stays_in_its_place() -> None:
    conditions = [match(SADDR, {"set": ["10.0.0.1"]}), {"limit": {"rate": 5, "per": "second"}}]
    (made,) = openings.repeat_statements(
        [
            conditions[0],
            match(DPORT, 8080),
            {"counter": {"packets": 7, "bytes": 9}},
            conditions[1],
            {"log": None},
            ACCEPT,
        ],
        15006,
        CAPTURED,
    )
    at = [match(DPORT, 15006), match(ORIGINAL, 8080)]
    assert list(made.conditions) == [conditions[0], *at, {"counter": None}, conditions[1]]


@pytest.mark.parametrize(
    "statements",
    [
        [match(DPORT, 8080), {"quota": {"val": 5}}, ACCEPT],
        [match(DPORT, 8080), {"xt": None}, ACCEPT],
        [match(DPORT, 8080), match(DPORT, 22, "!="), ACCEPT],
        [match(DPORT, {"set": [22]}, "!="), ACCEPT],
        [match({"concat": [SADDR, DPORT]}, {"set": [{"concat": ["10.0.0.1", 8080]}]}), ACCEPT],
        [match({"&": [DPORT, 1]}, 1), ACCEPT],
    ],
)
def test_what_is_not_understood_is_not_said_again(statements: list[Any]) -> None:
    with pytest.raises(NotRepeatable):
        openings.repeat_statements(statements, 15006, CAPTURED)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "-p tcp -m tcp --dport 8080 -j ACCEPT",
            ["-p tcp -m tcp --dport 15006 -m conntrack --ctorigdstport 8080"],
        ),
        (
            "! -s 10.0.0.0/8 -i eth+ -p tcp -m tcp --sport 1024:65535 ! --dport 22 -j ACCEPT",
            [
                "! -s 10.0.0.0/8 -i eth+ -p tcp -m tcp --sport 1024:65535 --dport 15006"
                " -m conntrack ! --ctorigdstport 22"
            ],
        ),
        (
            "-p tcp -m multiport --dports 22,8080,9000:9100 -m comment --comment 'a -j b' -j ACCEPT",
            [
                "-p tcp -m tcp --dport 15006 -m conntrack --ctorigdstport 8080",
                "-p tcp -m tcp --dport 15006 -m conntrack --ctorigdstport 9000:9100",
            ],
        ),
        ("-p tcp -m tcp --dport 22 -j ACCEPT", []),
        ("-p udp -m udp --dport 8080 -j ACCEPT", []),
        ("-p tcp -m tcp --dport 8080 -j DROP", []),
        ("-s 10.0.0.1/32 -j ACCEPT", []),
    ],
)
def test_words_of_iptables_are_said_again(rule: str, expected: list[str]) -> None:
    made = openings.repeat_words(shlex.split(rule), 15006, CAPTURED)
    assert [" ".join(each.conditions) for each in made] == expected


@pytest.mark.parametrize(
    "rule",
    [
        "-p tcp -m tcp --dport 8080 -m recent --update --seconds 30 -j ACCEPT",
        "-p tcp -m multiport ! --dports 22,23 -j ACCEPT",
        "-p tcp -m multiport --ports 8080 -j ACCEPT",
        "-p tcp -m multiport --sports 1024:65535 -m multiport --dports 8080 -j ACCEPT",
    ],
)
def test_words_that_are_not_understood_are_not_said_again(rule: str) -> None:
    with pytest.raises(NotRepeatable):
        openings.repeat_words(shlex.split(rule), 15006, CAPTURED)


def test_a_digest_is_of_all_that_is_said() -> None:
    def digests(*words: str, at: int = 15006) -> set[str]:
        rule = shlex.split(" ".join(words) + " -p tcp -m tcp --dport 8080 -j ACCEPT")
        return {each.digest for each in openings.repeat_words(rule, at, CAPTURED)}

    assert digests() == digests()
    assert len(digests() | digests("-i eth0") | digests(at=15106)) == 3


rules = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.lists(st.sampled_from("abc"), max_size=2)),
    max_size=8,
)


@given(rules)
def test_what_is_arranged_is_right_and_stays_so(made: list[tuple[str, list[str]]]) -> None:
    """Every rule of others has exactly its repetitions in front of it, and is where it was."""
    listed = [
        Listed(number, digest)
        if digest
        else Listed(number, repetitions=tuple(Repetition((), each) for each in repeated))
        for number, (digest, repeated) in enumerate(made)
    ]
    changes = openings.arrange(listed)
    after: list[Listed] = []
    for each in listed:
        after += [
            Listed(-1, one.digest) for handle, one in changes.insert if handle == each.handle
        ]
        after += [each] if each.handle not in changes.delete else []
    assert openings.arrange(after) == Changes()
    assert [each for each in after if not each.digest] == [
        each for each in listed if not each.digest
    ]
    wanted = [one.digest for each in listed for one in each.repetitions]
    assert [each.digest for each in after if each.digest] == wanted
