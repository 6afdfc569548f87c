"""Why packets go where they go, in words, and which settings are said to be behind it."""

import re
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import Dns, Generation, Owners, Redirection
from istio_hostagent.redirect import explanation, model, policy
from istio_hostagent.redirect.explanation import Verdict
from istio_hostagent.redirect.packets import Packet
from tests.golden import test_rules as golden
from tests.unit.packet import make
from tests.unit.samples import ALL, FACTS, PROXY_GID, PROXY_UID, STANDARD, cidrs, ports

DNS = ALL._replace(dns=Dns(is_captured=True, resolver_uids=(101,)))
IN = Packet("10.1.0.2", 8080, "10.9.9.9", iif="eth0")


def explain(redirection: Redirection, packet: Packet) -> explanation.Explanation:
    return explanation.explain(redirection, FACTS, packet)


def plain(decision: str) -> str:
    """Without the numbers of rules, which change with every rule that is added."""
    return re.sub(r" rule \d+", " rule", decision)


def made() -> Iterator[model.Table]:
    """The tables of every golden."""
    for case in golden.CASES.glob("*.env"):
        yield from policy.build_ruleset(golden.redirection_of(case), golden.FACTS).tables


def test_every_rule_that_can_be_made_has_its_settings_named() -> None:
    """Whoever adds a rule says in `explanation` which settings bring it."""
    chains = (chain for table in made() for chain in table.chains)
    comments = {rule.comment for chain in chains for rule in chain.rules}
    assert comments - explanation.RULES.keys() == set()


def test_every_chain_at_whose_end_a_packet_is_left_alone_has_its_words() -> None:
    names = set()
    for table in made():
        chains = {each.name: each for each in table.chains}
        left = [each for each in table.chains if each.hook is not None and each.hook.kind == "nat"]
        while left:
            chain = left.pop()
            names.add(chain.name)
            targets = {rule.verdict.target for rule in chain.rules} & chains.keys()
            left += [chains[str(each)] for each in targets]
    assert names - explanation.ENDS.keys() == {"ISTIO_REDIRECT", "ISTIO_IN_REDIRECT"}


@pytest.mark.parametrize(
    ("redirection", "packet", "text", "decision", "key"),
    [
        pytest.param(
            ALL,
            make("8.8.8.8"),
            "goes through the proxy (port 15001)",
            "ISTIO_OUTPUT rule, every other destination",
            "ISTIO_SERVICE_CIDR",
            id="everything",
        ),
        pytest.param(
            ALL,
            make("192.168.9.9"),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT rule, excluded destinations",
            "ISTIO_SERVICE_EXCLUDE_CIDR",
            id="excluded",
        ),
        pytest.param(
            ALL,
            make("8.8.8.8", 6005),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT rule, excluded ports, whatever the address",
            "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
            id="excluded-port",
        ),
        pytest.param(
            STANDARD,
            make("8.8.8.8"),
            "goes to its destination directly, not through the proxy",
            "no rule: no setting lists this destination or port",
            "ISTIO_SERVICE_CIDR",
            id="not-listed",
        ),
        pytest.param(
            STANDARD,
            make("8.8.8.8", 53, protocol=17),
            "goes to its destination directly, not through the proxy",
            "no rule: queries for names are not captured, nor any other UDP",
            "ISTIO_META_DNS_CAPTURE",
            id="a-query-that-is-not-captured",
        ),
        pytest.param(
            DNS,
            make("10.1.0.53", 53, protocol=17),
            "goes to the resolver of the proxy (port 15053)",
            "ISTIO_OUTPUT_DNS rule, to the resolver of the proxy",
            "ISTIO_META_DNS_CAPTURE",
            id="a-query",
        ),
        pytest.param(
            DNS,
            make("10.1.0.53", 53, uid=101, protocol=17),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT_DNS rule, a resolver of this host asks its own servers",
            "ISTIO_HOSTAGENT_RESOLVER_USERS",
            id="a-resolver",
        ),
        pytest.param(
            DNS,
            make("8.8.8.8", 53, protocol=17),
            "goes to its destination directly, not through the proxy",
            "no rule: no server of /etc/resolv.conf, which alone are captured",
            "CAPTURE_ALL_DNS",
            id="another-name-server",
        ),
        pytest.param(
            ALL._replace(owners=Owners(groups=(3000,))),
            make("8.8.8.8"),
            "goes to its destination directly, not through the proxy",
            "no rule: the sender's group is none of those that are captured",
            "ISTIO_OUTBOUND_OWNER_GROUPS",
            id="a-group-that-is-not-listed",
        ),
        pytest.param(
            ALL._replace(owners=Owners(groups_exclude=(3000,))),
            make("8.8.8.8", gid=3000),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT rule, an excluded group",
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
            id="an-excluded-group",
        ),
        pytest.param(
            ALL._replace(owners=Owners(proxy_uids=(2001,))),
            make("8.8.8.8", uid=2001),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT rule, what the proxy sends is final",
            "PROXY_UID",
            id="a-named-user-of-the-proxy",
        ),
        pytest.param(
            ALL._replace(owners=Owners(exempts_root=True), generation=Generation.V1_0),
            make("8.8.8.8", uid=0, gid=0),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT rule, root is left alone",
            "ISTIO_HOSTAGENT_RULES",
            id="root-by-the-rules-of-an-old-release",
        ),
        pytest.param(
            ALL._replace(excluded_interfaces=("eth*",)),
            make("8.8.8.8"),
            "goes to its destination directly, not through the proxy",
            "ISTIO_OUTPUT rule, an excluded interface",
            "ISTIO_EXCLUDE_INTERFACES",
            id="an-excluded-interface",
        ),
        pytest.param(
            STANDARD,
            make("127.0.0.1", 15000, out="lo"),
            "is refused",
            "ISTIO_PRIVATE rule, nobody else",
            "ISTIO_HOSTAGENT_LOCAL_PORTS",
            id="a-private-port",
        ),
        pytest.param(
            STANDARD,
            IN,
            "goes through the proxy (port 15006)",
            "ISTIO_INBOUND rule, listed ports",
            "ISTIO_INBOUND_PORTS",
            id="inbound",
        ),
        pytest.param(
            STANDARD,
            IN._replace(port=81),
            "reaches this host directly, not through the proxy",
            "no rule: no setting lists this port",
            "ISTIO_INBOUND_PORTS",
            id="inbound-not-listed",
        ),
        pytest.param(
            ALL,
            IN._replace(port=9999),
            "reaches this host directly, not through the proxy",
            "ISTIO_INBOUND rule, excluded ports, ssh, the proxy's own ports and its tunnel"
            " (9999 is excluded)",
            "ISTIO_LOCAL_EXCLUDE_PORTS",
            id="inbound-excluded",
        ),
        pytest.param(
            STANDARD._replace(inbound_closed=(8080,)),
            IN,
            "reaches this host directly, not through the proxy",
            "ISTIO_INBOUND rule, excluded ports, ssh, the proxy's own ports and its tunnel"
            " (the firewall of this host closes 8080)",
            "ISTIO_HOSTAGENT_CLOSED_PORTS",
            id="inbound-closed-by-the-firewall",
        ),
        pytest.param(
            Redirection(outbound=cidrs("10.0.0.0/8")),
            IN,
            "reaches this host directly, not through the proxy",
            "nothing inbound is captured",
            "ISTIO_INBOUND_PORTS",
            id="nothing-inbound",
        ),
        pytest.param(
            ALL._replace(guest_interfaces=("veth*",)),
            IN._replace(iif="veth1", destination="8.8.8.8"),
            "goes through the proxy (port 15001)",
            "ISTIO_GUEST rule, every other destination",
            "ISTIO_SERVICE_CIDR",
            id="a-guest",
        ),
        pytest.param(
            Redirection(is_managed=False),
            make("8.8.8.8"),
            "goes to its destination directly, not through the proxy",
            "the rules of this host are the operator's own",
            "ISTIO_CUSTOM_IP_TABLES",
            id="unmanaged",
        ),
    ],
)
def test_the_decision_and_the_setting_behind_it(
    redirection: Redirection, packet: Packet, text: str, decision: str, key: str
) -> None:
    found = explain(redirection, packet)
    assert (found.text, plain(found.decision)) == (text, decision)
    assert found.keys[0] == key


@pytest.mark.parametrize(
    ("packet", "decision"),
    [
        pytest.param(
            make("8.8.8.8", uid=PROXY_UID),
            "ISTIO_OUTPUT rule, what the proxy sends is final",
            id="proxy",
        ),
        pytest.param(
            make("10.1.0.2", gid=PROXY_GID, out="lo"),
            "ISTIO_OUTPUT rule, the proxy calls an own address of this host",
            id="self-call",
        ),
        pytest.param(
            make("169.254.169.254"),
            "ISTIO_OUTPUT rule, metadata, link-local, multicast: only if named",
            id="metadata",
        ),
        pytest.param(
            IN._replace(port=22),
            "ISTIO_INBOUND rule, excluded ports, ssh, the proxy's own ports and its tunnel"
            " (sshd listens on 22)",
            id="ssh",
        ),
        pytest.param(
            IN._replace(destination="10.1.0.3"),
            "ISTIO_INBOUND rule, only passes through this host",
            id="forwarded",
        ),
    ],
)
def test_no_setting_is_blamed_for_what_is_always_so(packet: Packet, decision: str) -> None:
    found = explain(ALL, packet)
    assert (plain(found.decision), found.keys) == (decision, ())


def test_what_passes_through_is_said_to_pass_through() -> None:
    found = explain(ALL, IN._replace(destination="10.1.0.3"))
    assert found.text == "passes through this host, not through the proxy"
    assert found.verdict is Verdict.DIRECT


@pytest.mark.parametrize(
    ("redirection", "packet", "text"),
    [
        pytest.param(
            ALL,
            make("8.8.8.8"),
            "the guard refuses it (ISTIO_GUARD rule, every other destination)",
            id="captured",
        ),
        pytest.param(
            ALL,
            make("192.168.9.9"),
            "the guard lets it go to its destination (ISTIO_GUARD rule, excluded destinations)",
            id="excluded",
        ),
        pytest.param(
            STANDARD,
            make("8.8.8.8"),
            "the guard lets it go to its destination",
            id="not-listed",
        ),
        pytest.param(
            Redirection(inbound=ports(80)),
            make("8.8.8.8"),
            "it goes to its destination: nothing outbound is captured, so there is no guard",
            id="no-guard",
        ),
        pytest.param(
            ALL,
            IN,
            "it comes in as if there were no mesh: the guard is for what this host sends",
            id="inbound",
        ),
    ],
)
def test_what_would_become_of_it_without_our_rules(
    redirection: Redirection, packet: Packet, text: str
) -> None:
    assert plain(explain(redirection, packet).without_text) == text
