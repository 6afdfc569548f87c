"""A firewall that lets in the application's port lets in what is captured there, and nothing else.

The part of the agent that keeps the rules, with ISTIO_HOSTAGENT_FIREWALL=open, on a real kernel and
beside real rules of nft and of iptables-nft; a real neighbour calls.
"""

import contextlib
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import PortSet, Redirection
from tests.lab import servers
from tests.lab.host import CHECKOUT, PYTHON
from tests.netns import rig as rigs
from tests.netns import test_arrivals as firewalls
from tests.netns.keeper import Keeper
from tests.netns.rig import HOST_V4, HOST_V6, NEIGHBOUR_V4, Rig
from tests.netns.test_arrivals import called, strict
from tests.unit.samples import ports

REPORTING = Redirection(inbound=ports(8080, 8081))
# Nothing else keeps what the firewall closes from being captured and let in.
OPENING = REPORTING._replace(opens_firewall=True, keeps_closed=False)
APPLICATION = ((HOST_V4, 8080), (HOST_V6, 8080))
CLOSED = ((HOST_V4, 8081), (HOST_V6, 8081))
PROXY = ((HOST_V4, 15006), (HOST_V6, 15006))
POLICY = strict("tcp dport { 22, 8080 } accept")


@pytest.fixture(autouse=True)
def _clean(site: Rig) -> Iterator[None]:
    yield
    site.nft("flush", "ruleset")
    site.clean()


@pytest.fixture
def keeper(site: Rig) -> Iterator[Keeper]:
    with site.kernel() as kernel, contextlib.closing(Keeper(site, kernel)) as made:
        yield made


def test_by_default_a_firewall_is_reported_and_left_alone(site: Rig, keeper: Keeper) -> None:
    site.nft(text=POLICY)
    before = site.nft("-s", "list", "table", "inet", "filter")
    keeper.settle(REPORTING)
    assert keeper.part.value.is_shut
    assert site.nft("-s", "list", "table", "inet", "filter") == before


def test_what_the_firewall_lets_in_is_let_in_once_it_is_captured(
    site: Rig, keeper: Keeper
) -> None:
    site.nft(text=POLICY)
    assert called(site, APPLICATION) == ["host"] * 2
    keeper.settle(OPENING)
    assert keeper.part.value.is_open, keeper.part.last_error
    assert called(site, APPLICATION) == ["inbound"] * 2
    # What the firewall closes stays closed, and so does the proxy's own port.
    assert not {"inbound", "host"} & {*called(site, CLOSED + PROXY)}
    assert "chain inet filter input" in keeper.part.remark


# What lets the port in, and what of it is said of captured connections.
RULES = {
    "set": ("tcp dport { 22, 8000-8080 } accept", "ct original proto-dst 8000-8080"),
    "map": ("tcp dport vmap { 22 : accept, 8080 : accept }", "ct original proto-dst 8080"),
    "named-set": ("tcp dport @open accept", "ct original proto-dst @open"),
    "any-protocol": ("meta l4proto { tcp, udp } th dport 8080 accept", "proto-dst 8080"),
    "below": ("tcp dport < 8081 counter accept", "ct original proto-dst < 8081"),
    "by-interface": ('iifname "eth0" tcp dport 8080 accept', 'iifname "eth0" tcp dport 15006'),
    "by-source": (
        "meta nfproto ipv6 tcp dport 8080 accept; ip saddr { 10.1.0.0/24, 192.0.2.1 }"
        " tcp dport 8080 limit rate 900/second accept",
        "ip saddr { 10.1.0.0/24, 192.0.2.1 } tcp dport 15006",
    ),
    "in-a-chain": ("jump services", "ct original proto-dst 8080"),
    "jump-by-map": ("ip protocol vmap { tcp : jump services }; jump services", "proto-dst 8080"),
}


@pytest.mark.parametrize("case", RULES)
def test_each_form_of_a_rule_is_said_again(site: Rig, keeper: Keeper, case: str) -> None:
    rules, words = RULES[case]
    text = strict(*rules.split("; ")).replace(
        "    chain input {",
        "    set open { type inet_service; flags interval; elements = { 22, 8080 }\n }\n"
        "    chain services { tcp dport { 22, 8080 } accept\n }\n    chain input {",
    )
    site.nft(text=text)
    assert called(site, APPLICATION) == ["host"] * 2
    keeper.settle(OPENING)
    assert keeper.part.value.is_open, keeper.part.last_error
    assert called(site, APPLICATION) == ["inbound"] * 2
    assert not {"inbound", "host"} & {*called(site, CLOSED + PROXY)}
    listing = site.nft("list", "table", "inet", "filter")
    assert words in listing
    # People write this into their files.
    site.nft("flush", "table", "inet", "filter")
    site.nft("delete", "table", "inet", "filter")
    site.nft(text=listing)
    assert called(site, APPLICATION) == ["inbound"] * 2


def test_the_rules_of_ufw_let_in_what_is_captured(site: Rig, keeper: Keeper) -> None:
    firewalls.load(site, firewalls.UFW)
    before = called(site, APPLICATION + CLOSED + PROXY)
    keeper.settle(OPENING)
    assert keeper.part.value.is_open, keeper.part.last_error
    after = called(site, APPLICATION + CLOSED + PROXY)
    assert (before[:2], after[:2]) == (["host"] * 2, ["inbound"] * 2)
    assert after[2:] == before[2:]
    # ufw goes on working with its chains, which none but rules of iptables may be in.
    for program in ("iptables-nft", "ip6tables-nft"):
        assert site.host.run([program, "-S"]).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "-p tcp -m conntrack --ctstate NEW -m tcp --dport 8080 --tcp-flags FIN,SYN,RST SYN",
        "-p tcp -m multiport --dports 22,8000:8080",
        "-i eth0 -p tcp -m tcp ! --dport 8081:65535 -m comment --comment",
    ],
)
def test_each_form_of_a_rule_of_iptables_is_said_again(
    site: Rig, keeper: Keeper, words: str
) -> None:
    for program, icmp in (("iptables-nft", "icmp"), ("ip6tables-nft", "icmpv6")):
        comment = ['the web\'s "own" port'] if words.endswith("--comment") else []
        rules = (["-m", "conntrack", "--ctstate", "ESTABLISHED"], ["-p", icmp])
        for rule in (*rules, ["-i", "lo"], [*words.split(), *comment]):
            site.host.run([program, "-A", "INPUT", *rule, "-j", "ACCEPT"], check=True)
        site.host.run([program, "-P", "INPUT", "DROP"], check=True)
    keeper.settle(OPENING)
    assert keeper.part.value.is_open, keeper.part.last_error
    assert called(site, APPLICATION) == ["inbound"] * 2
    assert not {"inbound", "host"} & {*called(site, CLOSED + PROXY)}


def test_ranges_that_overlap_are_as_good_as_one(site: Rig, keeper: Keeper) -> None:
    site.nft(text=strict("tcp dport 8081 accept", "tcp dport { 22, 8080 } accept"))
    inbound = PortSet(ranges=((8000, 8080), (8080, 8080), (8080, 8090)))
    keeper.settle(OPENING._replace(inbound=inbound))
    assert called(site, APPLICATION + CLOSED) == ["inbound"] * 4


def test_where_all_ports_are_captured_those_beside_a_served_one_are_let_in_too(
    site: Rig, keeper: Keeper
) -> None:
    """Of all ports those are tried that people often serve: 8080 is one, 8081 is not."""
    site.nft(text=strict("tcp dport 8081 accept", "tcp dport { 22, 8080 } accept"))
    keeper.settle(OPENING._replace(inbound=PortSet(is_all=True)))
    assert called(site, APPLICATION + CLOSED) == ["inbound"] * 4
    assert not {"inbound", "host"} & {*called(site, PROXY)}


def test_who_is_let_in_from_one_network_only_is_let_in_from_there_only(
    site: Rig, keeper: Keeper
) -> None:
    near = strict("ip saddr 10.1.0.0/24 tcp dport 8080 accept")
    site.nft(text=near)
    keeper.settle(OPENING)
    assert called(site, APPLICATION) == ["inbound", "timeout"]
    elsewhere = rigs.target(HOST_V4, 8080, source=rigs.UNLISTED_V4, timeout_s=0.5)
    assert rigs.words(servers.ask_all(site.neighbour, [elsewhere])[0]) == "timeout"


def test_what_is_dropped_before_stays_dropped(site: Rig, keeper: Keeper) -> None:
    """A ban of an address, as fail2ban makes it for all ports."""
    site.nft(text=strict("ip saddr 10.1.0.1 drop", "tcp dport 8080 accept"))
    keeper.settle(OPENING)
    assert called(site, APPLICATION) == ["timeout", "inbound"]


def test_what_iptables_drops_before_stays_dropped(site: Rig, keeper: Keeper) -> None:
    for program, banned in (("iptables-nft", "10.1.0.1"), ("ip6tables-nft", "fd00:9::1")):
        words = ("-i lo -j ACCEPT", f"-s {banned} -j DROP", "-p tcp --dport 8080 -j ACCEPT")
        for rule in (*words, "-p tcp --dport 22 -j ACCEPT", "-p ipv6-icmp -j ACCEPT"):
            site.host.run([program, "-A", "INPUT", *rule.split()], check=True)
        site.host.run([program, "-P", "INPUT", "DROP"], check=True)
    keeper.settle(OPENING)
    assert keeper.part.value.is_open, keeper.part.last_error
    assert called(site, APPLICATION) == ["timeout", "inbound"]


def test_a_firewall_that_is_loaded_anew_is_mended_with_the_next_proof(
    site: Rig, keeper: Keeper
) -> None:
    site.nft(text=POLICY)
    keeper.settle(OPENING)
    site.nft("delete table inet filter")
    site.nft(text=strict("tcp dport 8080 accept", "tcp dport 22 accept"))
    assert called(site, APPLICATION) == ["timeout"] * 2
    keeper.settle(OPENING)
    assert called(site, APPLICATION) == ["inbound"] * 2


def test_a_port_that_the_firewall_closes_again_is_closed(site: Rig, keeper: Keeper) -> None:
    site.nft(text=strict("tcp dport 22 accept", "tcp dport 8080 accept"))
    keeper.settle(OPENING)
    listing = site.nft("-a", "list", "chain", "inet", "filter", "input")
    handle = next(line for line in listing.splitlines() if "tcp dport 8080 accept" in line)
    site.nft(f"delete rule inet filter input handle {handle.split()[-1]}")
    keeper.settle(OPENING)
    assert called(site, APPLICATION) == ["timeout"] * 2
    assert "istio-hostagent" not in site.nft("list", "table", "inet", "filter")


@pytest.mark.parametrize("how", ["stop", "report", "changed-port", "script", "clean"])
def test_it_goes_with_what_asked_for_it(site: Rig, keeper: Keeper, how: str) -> None:
    site.nft(text=POLICY)
    firewalls.load(site, firewalls.UFW)
    commands = (["nft", "list", "table", "inet", "filter"], ["iptables-nft", "-S"])
    before = [site.host.run(each, check=True).stdout for each in commands]
    keeper.settle(OPENING)
    assert [site.host.run(each, check=True).stdout for each in commands] != before
    if how == "stop":
        keeper.withdraw()
    elif how == "script":
        site.host.run([str(CHECKOUT / "systemd" / "firewall-openings")], check=True)
    elif how == "clean":
        done = site.host.run([PYTHON, "-m", "istio_hostagent", "clean"], cwd=CHECKOUT)
        assert "-rules for captured connections in the firewall of this host" in done.stdout
    else:
        another = OPENING._replace(inbound=ports(8081))
        keeper.settle(REPORTING if how == "report" else another)
    assert [site.host.run(each, check=True).stdout for each in commands] == before


def test_one_that_has_started_anew_knows_what_is_its_own(site: Rig, keeper: Keeper) -> None:
    site.nft(text=POLICY)
    before = site.nft("list", "table", "inet", "filter")
    keeper.settle(OPENING)
    opened = site.nft("-a", "list", "table", "inet", "filter")
    with site.kernel() as kernel, contextlib.closing(Keeper(site, kernel)) as another:
        another.settle(OPENING)
        assert site.nft("-a", "list", "table", "inet", "filter") == opened
        another.settle(REPORTING)
    assert site.nft("list", "table", "inet", "filter") == before


def test_the_script_takes_it_out_of_chains_of_any_name_and_leaves_what_it_cannot(
    site: Rig,
) -> None:
    """iptables-nft lets people name chains as nft's own words are."""
    made = "-p tcp --dport 15006 -m comment --comment x -j istio-hostagent"
    for program in ("iptables-nft", "ip6tables-nft"):
        for words in (
            "-N counter",
            "-N istio-hostagent",
            f"-A counter {made}",
            f"-A INPUT {made}",
        ):
            site.host.run([program, *words.split()], check=True)
    # An element that leads there holds the chain, and keeps no other table from being cleaned.
    site.nft(
        text="""table inet held {
            chain istio-hostagent { accept
            }
            map ports { type inet_service : verdict; elements = { 80 : jump istio-hostagent }
            }
        }"""
    )
    done = site.host.run([str(CHECKOUT / "systemd" / "firewall-openings")])
    for family in ("ip", "ip6"):
        listing = site.nft("list", "table", family, "filter")
        assert "istio-hostagent" not in listing
        assert "chain counter" in listing
    assert "are left in the firewall of this host" in done.stderr


# Whose rules they are, and why they cannot be said again.
REFUSED = {
    "no-port": (
        strict('iifname "eth0" tcp dport 15006 drop', 'iifname "eth0" accept'),
        "it does not name the port",
    ),
    "way": (
        strict("tcp dport { 22, 8080 } jump web").replace(
            "    chain input {", "    chain web { tcp dport 8080 accept\n }\n    chain input {"
        ),
        "may deny it by port or address",
    ),
    "before": (
        strict("tcp dport 15006 drop", "tcp dport 8080 accept"),
        "it is dropped before it comes there",
    ),
    "counts": (
        strict("tcp dport 8080 ct count 5 accept"),
        "it has a part (ct count) that cannot be said twice",
    ),
    "together": (
        strict(
            "meta nfproto ipv6 tcp dport 8080 accept",
            "ip saddr . tcp dport { 10.1.0.0/24 . 8080 } accept",
        ),
        "it looks port and other things up in an unnamed set",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_said_again_is_reported_with_the_reason(
    site: Rig, keeper: Keeper, case: str
) -> None:
    rules, reason = REFUSED[case]
    site.nft(text=rules)
    keeper.settle(OPENING)
    assert keeper.part.value.is_shut
    assert reason in keeper.part.last_error
    assert "let it in: nft insert rule inet filter input" in keeper.part.last_error
    assert called(site, APPLICATION)[0] == "timeout"


def test_an_accept_in_a_chain_before_the_one_that_drops_lets_nothing_in(site: Rig) -> None:
    """Why a rule in the firewall's own chain is needed, and none in a table of ours would do."""
    site.nft(text=POLICY)
    site.nft(
        text="""table inet early {
            chain first { type filter hook input priority -400; policy accept;
                ct status dnat tcp dport 15006 accept
            }
            chain last { type filter hook input priority 400; policy accept;
                ct status dnat tcp dport 15006 accept
            }
        }"""
    )
    site.install(REPORTING)
    assert called(site, APPLICATION) == ["timeout"] * 2
    # Of iptables-nft's chains the same is true, and of a jump from within the chain it is not.
    site.nft("insert rule inet filter input ct status dnat tcp dport 15006 accept")
    assert called(site, APPLICATION) == ["inbound"] * 2


BANNED = f"ip saddr {NEIGHBOUR_V4} tcp dport 8080 drop"


def with_chain(text: str, chain: str) -> str:
    return text.replace("    chain input {", f"    {chain}\n    chain input {{")


# Whoever is denied the application's port by another rule, which no longer sees him at the proxy's.
DENIED = {
    "in-front": strict(BANNED, "tcp dport 8080 accept"),
    "in-a-set-of-ports": strict(
        f"ip saddr {NEIGHBOUR_V4} tcp dport {{ 80, 8000-8090 }} reject", "tcp dport 8080 accept"
    ),
    "by-a-map": with_chain(
        strict("tcp dport vmap { 22 : accept, 8080 : jump web }", "tcp dport 8080 accept"),
        f"chain web {{ ip saddr {NEIGHBOUR_V4} drop\n }}",
    ),
    "by-a-return": with_chain(
        strict("jump web"),
        f"chain web {{ ip saddr {NEIGHBOUR_V4} tcp dport 8080 return\n tcp dport 8080 accept\n }}",
    ),
    "in-a-chain-before": with_chain(
        strict("jump bans", "tcp dport 8080 accept"), f"chain bans {{ {BANNED}\n }}"
    ),
    "on-the-way": with_chain(strict(BANNED, "jump web"), "chain web { tcp dport 8080 accept\n }"),
    "by-mark": strict(
        f"ip saddr {NEIGHBOUR_V4} tcp dport 8080 meta mark set 7",
        "meta mark 7 drop",
        "tcp dport 8080 accept",
    ),
    "by-address": strict(
        f"ip saddr {NEIGHBOUR_V4} ip daddr {HOST_V4} drop", "tcp dport 8080 accept"
    ),
    "in-another-chain": with_chain(
        strict("tcp dport 8080 accept"),
        f"chain early {{ type filter hook input priority -10; {BANNED}\n }}",
    ),
    # As fail2ban (0.11) makes it with nftables-multiport.
    "in-another-table": strict("tcp dport 8080 accept")
    + f"""table inet f2b-table {{
        set addr-set-web {{ type ipv4_addr; elements = {{ {NEIGHBOUR_V4} }}
        }}
        chain f2b-chain {{ type filter hook input priority filter - 1; policy accept;
            tcp dport {{ 80, 8080 }} ip saddr @addr-set-web reject
        }}
    }}""",
}


@pytest.mark.parametrize("case", DENIED)
def test_who_is_denied_the_port_is_not_let_in(site: Rig, keeper: Keeper, case: str) -> None:
    site.nft(text=DENIED[case])
    before = site.nft("-s", "list", "ruleset")
    assert called(site, APPLICATION)[0] != "host"
    keeper.settle(OPENING)
    assert keeper.part.value.is_shut
    assert "may deny it by port or address" in keeper.part.last_error
    assert called(site, APPLICATION)[0] not in ("inbound", "host")
    assert "istio-hostagent" not in before


def test_a_denial_that_comes_later_closes_what_was_opened(site: Rig, keeper: Keeper) -> None:
    site.nft(text=POLICY)
    keeper.settle(OPENING)
    assert called(site, APPLICATION) == ["inbound"] * 2
    site.nft(f"insert rule inet filter input {BANNED}")
    keeper.settle(OPENING)
    assert called(site, APPLICATION)[0] == "timeout"
    assert "istio-hostagent" not in site.nft("list", "table", "inet", "filter")


@pytest.mark.parametrize(
    "rule",
    ["tcp dport 22 ip saddr 10.1.0.1 drop", "ip daddr 224.0.0.251 udp dport 5353 drop"],
)
def test_a_denial_of_another_port_or_protocol_closes_nothing(
    site: Rig, keeper: Keeper, rule: str
) -> None:
    site.nft(text=strict(rule, "tcp dport { 22, 8080 } accept"))
    keeper.settle(OPENING)
    assert called(site, APPLICATION) == ["inbound"] * 2


def test_an_address_that_is_closed_stays_closed(site: Rig, keeper: Keeper) -> None:
    """Translated, a connection asks for the first address of the interface."""
    site.nft(
        text=strict(
            f"ip daddr {HOST_V4} tcp dport 8080 accept", "meta nfproto ipv6 tcp dport 8080 accept"
        )
    )
    keeper.settle(OPENING)
    assert "which the translation changes" in keeper.part.last_error
    assert called(site, APPLICATION) == ["timeout", "inbound"]


IPTABLES_DENIED = {
    "in-front": [f"-s {NEIGHBOUR_V4} -p tcp --dport 8080 -j DROP"],
    "fail2ban": [
        "-p tcp -m multiport --dports 80,8080 -j f2b-web",
    ],
    "connlimit": ["-p tcp --dport 8080 -m connlimit --connlimit-above 3 -j REJECT"],
    "recent": [
        "-p tcp --dport 8080 -m recent --set --name web",
        "-m recent --rcheck --hitcount 9 --name web -j DROP",
    ],
}


@pytest.mark.parametrize("case", IPTABLES_DENIED)
def test_whom_iptables_denies_the_port_is_not_let_in(site: Rig, keeper: Keeper, case: str) -> None:
    def iptables(words: str) -> None:
        site.host.run(["iptables-nft", *words.split()], check=True)

    iptables("-N f2b-web")
    iptables(f"-A f2b-web -s {NEIGHBOUR_V4} -j DROP")
    for rule in (*IPTABLES_DENIED[case], "-p tcp --dport 8080 -j ACCEPT"):
        iptables(f"-A INPUT {rule}")
    iptables("-P INPUT DROP")
    keeper.settle(OPENING)
    assert "may deny it by port or address" in keeper.part.last_error
    assert called(site, APPLICATION)[0] not in ("inbound", "host")


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("ip saddr @friends", "it has conditions that iptables does not show"),
        ("tcp sequence != 7", "it has conditions that iptables does not show"),
        ("ip length < 1000", "the rules of table ip filter stay as they are"),
    ],
)
def test_a_condition_that_iptables_does_not_show_is_not_left_out(
    site: Rig, keeper: Keeper, condition: str, reason: str
) -> None:
    """A rule that nft has put in a table of iptables, as people do."""
    for words in ("-A INPUT -p tcp --dport 22 -j ACCEPT", "-P INPUT DROP"):
        site.host.run(["iptables-nft", *words.split()], check=True)
    site.nft(
        "add set ip filter friends { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 } }"
    )
    site.nft(f"add rule ip filter INPUT {condition} tcp dport 8080 accept")
    assert called(site, APPLICATION)[0] == "host"
    listing = site.nft("-s", "list", "table", "ip", "filter")
    keeper.settle(OPENING)
    assert called(site, APPLICATION)[0] == "timeout"
    assert site.nft("-s", "list", "table", "ip", "filter") == listing
    assert reason in keeper.part.last_error


def test_a_chain_of_which_nothing_is_opened_stays_as_it_is(site: Rig, keeper: Keeper) -> None:
    site.nft(text=strict('iifname "eth0" tcp dport 15006 drop', "accept", "tcp dport 8080 accept"))
    before = site.nft("-s", "list", "table", "inet", "filter")
    keeper.settle(OPENING)
    assert "it does not name the port" in keeper.part.last_error
    assert site.nft("-s", "list", "table", "inet", "filter") == before


def test_a_table_that_cannot_be_read_keeps_those_of_the_same_packets_closed_and_no_other(
    site: Rig, keeper: Keeper
) -> None:
    site.host.run(
        ["iptables-nft", *["-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "ACCEPT"]],
        check=True,
    )
    site.nft("add rule ip filter INPUT ip length < 1 drop")
    for family, address in (("ip", "10.1.0.0/24"), ("ip6", "fd00:1::/64")):
        site.nft(
            text=f"""table {family} mine {{
                chain input {{ type filter hook input priority 1; policy drop;
                    ct state established,related accept
                    meta l4proto ipv6-icmp accept
                    {family} saddr {address} tcp dport 8080 accept
                }}
            }}"""
        )
    keeper.settle(OPENING)
    assert "table ip filter, which cannot be read (" in keeper.part.last_error
    assert called(site, APPLICATION) == ["timeout", "inbound"]
