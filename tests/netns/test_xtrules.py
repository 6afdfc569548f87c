"""Rules of iptables in words: the same from legacy tables and from nf_tables, in both families."""

import shutil
import socket

import pytest

from istio_hostagent.host import compatrules, legacytables, xtrules
from istio_hostagent.host.nfnetlink import connection, framing, messages
from istio_hostagent.redirect import takeover
from tests.lab import istiorules
from tests.netns.rig import Rig

pytestmark = pytest.mark.skipif(
    shutil.which("iptables-legacy") is None, reason="needs iptables, both of its kinds"
)

# As they are given to iptables-restore, and in words; {a}, {b}, {n} are of the family.
RULES = {
    "nat": (
        ("PREROUTING -i eth9 -j RETURN",) * 2,
        ("PREROUTING -i eth+ -j RETURN",) * 2,
        ("PREROUTING ! -i eth9 -p 255 -j RETURN",) * 2,
        ("PREROUTING -i fifteen-letters -j ACCEPT",) * 2,
        ("PREROUTING -s {n} -j MINE",) * 2,
        ("PREROUTING ! -s {n} -g MINE", "PREROUTING ! -s {n} -j MINE"),
        ("OUTPUT -o lo -d {b} -j RETURN",) * 2,
        ("OUTPUT ! -d {a} -p tcp -j RETURN",) * 2,
        (
            "OUTPUT -d {a} -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
            "OUTPUT -d {a} -p udp --dport 53 -j REDIRECT --to-ports 15053",
        ),
        (
            "OUTPUT -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 7 -j RETURN",
            "OUTPUT -p tcp ! --dport 53 ! --uid-owner 7 -j RETURN",
        ),
        (
            "OUTPUT -p tcp -m tcp -m owner --gid-owner 7 -j MINE",
            "OUTPUT -p tcp --gid-owner 7 -j MINE",
        ),
        ("OUTPUT -m comment --comment istio/x -j MINE", "OUTPUT -j MINE # istio/x"),
        (
            "POSTROUTING -p udp -m udp --sport 15053 -j SNAT --to-source {a}",
            "POSTROUTING -p udp --sport 15053 -j SNAT --to-source {a}",
        ),
        ("MINE -j RETURN",) * 2,
    ),
    "mangle": (
        (
            "PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark",
            "PREROUTING -p tcp --mark 0x539 -j CONNMARK --save-mark",
        ),
        ("OUTPUT -m mark ! --mark 0x539 -j DROP", "OUTPUT ! --mark 0x539 -j DROP"),
        (
            "OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark",
            "OUTPUT -p tcp --connmark 0x539 -j CONNMARK --restore-mark",
        ),
        (
            "OUTPUT -o lo -j MARK --set-xmark 0x53a/0xffffffff",
            "OUTPUT -o lo -j MARK --set-mark 0x53a",
        ),
    ),
    "raw": (
        (
            "PREROUTING -s {a} -p udp -m udp --sport 53 -j CT --zone 1",
            "PREROUTING -s {a} -p udp --sport 53 -j CT --zone 1",
        ),
    ),
}
# What no rule of Istio's has outside its chains: not understood, and so nobody takes it for one.
UNKNOWN = {
    "nat": (
        "OUTPUT -p udp -m udp --dport 53:54 -j REDIRECT --to-ports 15053-15054",
        "OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053 --random",
        "OUTPUT -p udp -m multiport --dports 53,54 -j REDIRECT --to-ports 15053",
        "OUTPUT -p tcp -m tcp --dport 53 --syn -j REDIRECT --to-ports 15053",
        "OUTPUT -m owner --uid-owner 7-9 -j RETURN",
        "OUTPUT -m addrtype --dst-type LOCAL -j RETURN",
        "PREROUTING -d {hole} -j RETURN",
    ),
    "mangle": (
        "PREROUTING -m mark --mark 0x539/0xfff -j RETURN",
        "PREROUTING -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
        "PREROUTING -j MARK --set-xmark 0x539/0xfff",
    ),
    "raw": (
        "OUTPUT -j CT --notrack",
        "OUTPUT -j CT --zone 1 --helper ftp -p tcp",
        "OUTPUT -j CT --zone 1 --ctevents new",
    ),
}
FAMILIES = {
    socket.AF_INET: {"a": "127.0.0.1/32", "b": "10.0.0.0/8", "n": "10.64.0.0/10"},
    socket.AF_INET6: {"a": "::1/128", "b": "fd00::/8", "n": "fd00:40::/26"},
}
HOLES = {socket.AF_INET: "10.0.0.1/255.0.0.255", socket.AF_INET6: "fd00::1/ff00::ff"}


def write(rig: Rig, program: str, rules: dict[str, list[str]]) -> None:
    text = ""
    for table, lines in rules.items():
        chains = ":MINE - [0:0]\n" if table == "nat" else ""
        text += f"*{table}\n{chains}" + "".join(f"-A {line}\n" for line in lines) + "COMMIT\n"
    istiorules.restore(rig.host, program, text)


def read(rig: Rig, family: socket.AddressFamily, back_end: str) -> dict[str, list[takeover.Rule]]:
    def look() -> dict[str, list[takeover.Rule]]:
        if back_end == "legacy":
            return {
                name: list(xtrules.read(family, name, legacytables.fetch(family, name)).rules)
                for name in RULES
            }
        link = connection.Connection()
        with link.socket:
            found = {}
            for name in RULES:
                body = framing.pack_text(1, name)
                rules = map(
                    messages.read_raw_rule,
                    link.dump(messages.GETRULE, body, family=int(family), is_strict=False),
                )
                found[name] = [
                    compatrules.read(int(family), chain, data, comment)
                    for chain, _, data, comment in rules
                ]
            return found

    return rig.host.inside(look)


@pytest.fixture(params=[*FAMILIES], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    return socket.AddressFamily(request.param)


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_rules_are_read_as_they_were_written(
    rig: Rig, family: socket.AddressFamily, back_end: str
) -> None:
    program = istiorules.PROGRAMS[back_end][family == socket.AF_INET6]
    words = FAMILIES[family]
    # iptables-restore takes the source of a translation without its length.
    source = words["a"].split("/")[0]

    def fill(text: str) -> str:
        return text.replace("--to-source {a}", f"--to-source {source}").format(**words)

    write(rig, program, {name: [fill(each[0]) for each in RULES[name]] for name in RULES})
    try:
        found = read(rig, family, back_end)
    finally:
        flush(rig, program)
    for name, rules in RULES.items():
        shown = {f"{r.text} # {r.comment}" if r.comment else r.text for r in found[name]}
        assert shown == {fill(each[1]) for each in rules}


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_what_is_not_understood_says_so(
    rig: Rig, family: socket.AddressFamily, back_end: str
) -> None:
    program = istiorules.PROGRAMS[back_end][family == socket.AF_INET6]
    rules = {
        name: [line.format(hole=HOLES[family]) for line in lines]
        for name, lines in UNKNOWN.items()
    }
    write(rig, program, rules)
    try:
        found = read(rig, family, back_end)
    finally:
        flush(rig, program)
    for name, lines in rules.items():
        texts = [rule.text for rule in found[name]]
        assert len(texts) == len(lines)
        assert [text for text in texts if takeover.UNKNOWN not in text] == []


def flush(rig: Rig, program: str) -> None:
    for name in RULES:
        rig.host.run([program, "-t", name, "-F"], check=True)
        rig.host.run([program, "-t", name, "-X"], check=True)


@pytest.mark.parametrize("back_end", ["legacy", "nft"])
def test_nothing_of_istios_goes_while_nothing_of_ours_is_there(rig: Rig, back_end: str) -> None:
    istiorules.write_classic(rig.host, back_end, "istio-iptables.sh 1.0")
    before = istiorules.save(rig.host)
    part = "ip_tables" if back_end == "legacy" else "netlink"
    request = {"part": part, "removes": True, "is_replaced": True}
    answer = rig.worker("takeover", request)
    assert answer["error"]["message"] == "rules of ours are not there"
    assert answer["left"] == answer["found"] != []
    assert istiorules.save(rig.host) == before
    answer = rig.worker("takeover", request | {"is_replaced": False})
    assert (answer["error"], answer["left"]) == (None, [])
