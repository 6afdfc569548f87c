"""The rules for queries for names (DNS): which go to the resolver of the proxy.

Not here: other connections (`policy`). UDP and TCP to port 53 are captured; the answer of UDP
finds its way back by the tracking zone in which its query was translated. Why zones: an
application's query and the one that the resolver sends on may have the same addresses and ports;
in one zone the second would be taken for a part of the first. The zones are Istio's: 2 for what is
captured, 1 for what is not. A zone is set before tracking, and the first rule that sets one counts
(nft_ct_set_zone_eval()).
"""

from collections.abc import Iterator, Sequence

from ..config import model as config
from . import exemptions, model, owners
from .model import Action, Field, Match, Operator, Rule, Verdict

PREROUTING, OUTPUT = 0, 3  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
# NF_IP_PRI_RAW: before tracking, which is at -200
_RAW_PRIORITY = -300
PORT = 53
OWN_ZONE, CAPTURED_ZONE = 1, 2
TCP, UDP = 6, 17

_TO_NAME_SERVER = Match(Field.UDP_DPORT, Operator.EQ, PORT)
_FROM_NAME_SERVER = Match(Field.UDP_SPORT, Operator.EQ, PORT)
_CAPTURED = Verdict(Action.ZONE, CAPTURED_ZONE)
_OWN = Verdict(Action.ZONE, OWN_ZONE)


def build_chains(
    redirection: config.Redirection, facts: config.HostFacts
) -> Iterator[model.Chain]:
    """Every chain that exists only for queries; none where they are not captured."""
    if not redirection.dns.is_captured:
        return
    yield model.Chain("ISTIO_OUTPUT_DNS", tuple(_capture_rules(redirection, facts)))
    yield model.Chain("ISTIO_OUTPUT_UDP", tuple(_query_rules(redirection, facts)))
    yield model.Chain("ISTIO_DNS_ZONES", tuple(_zone_rules(redirection, facts)))
    yield model.Chain(
        "output_raw",
        tuple(_raw_output_rules(redirection, facts)),
        model.Hook("filter", OUTPUT, _RAW_PRIORITY),
    )
    yield model.Chain(
        "prerouting_raw",
        tuple(_raw_prerouting_rules(redirection, facts)),
        model.Hook("filter", PREROUTING, _RAW_PRIORITY),
    )
    if redirection.owners.groups is not None:
        yield model.Chain("ISTIO_DNS_CAPTURED", (Rule((), _CAPTURED, "a captured query"),))
    yield model.Chain("ISTIO_ANSWER_DNS", tuple(_answer_rules(redirection, facts)))


def first_packet_rule() -> Rule:
    """What in the base chain for outbound connections is for queries."""
    return Rule((_TO_NAME_SERVER,), Verdict(Action.JUMP, "ISTIO_OUTPUT_UDP"), "queries for names")


def capture_rule() -> Rule:
    """What leads to capture, behind the rules about whose packet it is."""
    return Rule((), Verdict(Action.JUMP, "ISTIO_OUTPUT_DNS"), "queries for names")


def answer_rule(redirection: config.Redirection) -> Rule:
    """What in the base chain of answers is for those to queries."""
    match = Match(Field.UDP_SPORT, Operator.EQ, redirection.dns.port)
    return Rule((match,), Verdict(Action.JUMP, "ISTIO_ANSWER_DNS"), "answer to a query")


def _answer_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    yield from owners.user_rules(redirection, facts)
    yield Rule((), Verdict(Action.DROP), "nobody else answers queries in its place")


def _query_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    """Queries by UDP: those of the proxy are its own, and of the others some groups'."""
    yield from owners.interface_rules(redirection.excluded_interfaces, Field.OIFNAME)
    yield from owners.exempt_rules(redirection, facts)
    to_capture = Verdict(Action.GOTO, "ISTIO_OUTPUT_DNS")
    yield from owners.group_rules(redirection.owners, to_capture)
    if redirection.owners.groups is None:
        yield capture_rule()


def _capture_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    yield from _resolver_rules(redirection.dns, owners.RETURN)
    to_resolver = Verdict(Action.REDIRECT, redirection.dns.port)
    for protocol, field in ((UDP, Field.UDP_DPORT), (TCP, Field.DPORT)):
        is_protocol = Match(Field.L4PROTO, Operator.EQ, protocol)
        to_port = Match(field, Operator.EQ, PORT)
        for servers in _servers(redirection, facts, (Field.IP_DADDR, Field.IP6_DADDR)):
            matches = (*servers, is_protocol, to_port)
            yield Rule(matches, to_resolver, "to the resolver of the proxy")


def _resolver_rules(dns: config.Dns, verdict: Verdict) -> Iterator[Rule]:
    for uid in dns.resolver_uids:
        match = Match(Field.SKUID, Operator.EQ, uid)
        yield Rule((match,), verdict, "a resolver of this host asks its own servers")


def _servers(
    redirection: config.Redirection, facts: config.HostFacts, fields: Sequence[Field]
) -> Iterator[tuple[Match, ...]]:
    """The conditions on an address, one for each family; where all count there is none."""
    if redirection.dns.is_every_server:
        yield ()
        return
    for version, field in zip((4, 6), fields, strict=True):
        is_known = version == 4 or facts.knows_ipv6
        if is_known and exemptions.name_servers(redirection, facts, version):
            yield (Match(field, Operator.IN, f"name_servers_v{version}"),)


def _raw_output_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    # An answer comes by `lo` wherever its query was going: first of all.
    from_resolver = Match(Field.UDP_SPORT, Operator.EQ, redirection.dns.port)
    for match in owners.proxy_matches(redirection, facts):
        yield Rule((from_resolver, match), _CAPTURED, "answer to a captured query")
    # While the resolver is not there the kernel says so, and whoever asks waits for nothing.
    on_loopback = Match(Field.OIFNAME, Operator.EQ, "lo")
    for field in (Field.ICMP_DPORT, *((Field.ICMP6_DPORT,) if facts.knows_ipv6 else ())):
        is_refusal = Match(field, Operator.EQ, redirection.dns.port)
        yield Rule((on_loopback, is_refusal), _CAPTURED, "refusal of a captured query")
    yield from owners.interface_rules(redirection.excluded_interfaces, Field.OIFNAME)
    to_zones = Verdict(Action.JUMP, "ISTIO_DNS_ZONES")
    for servers in _servers(redirection, facts, (Field.IP_DADDR, Field.IP6_DADDR)):
        yield Rule((*servers, _TO_NAME_SERVER), to_zones, "queries")
    for servers in _servers(redirection, facts, (Field.IP_SADDR, Field.IP6_SADDR)):
        matches = (on_loopback, *servers, _FROM_NAME_SERVER)
        yield Rule(matches, _OWN, "answer of a name server on this host")


def _raw_prerouting_rules(
    redirection: config.Redirection, facts: config.HostFacts
) -> Iterator[Rule]:
    yield from owners.interface_rules(redirection.excluded_interfaces, Field.IIFNAME)
    for servers in _servers(redirection, facts, (Field.IP_SADDR, Field.IP6_SADDR)):
        yield Rule((*servers, _FROM_NAME_SERVER), _OWN, "answer to a query that is not captured")


def _zone_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    """The same decisions as those of capture: the first zone that is set counts."""
    yield from owners.exempt_rules(redirection, facts, _OWN)
    yield from _resolver_rules(redirection.dns, _OWN)
    to_captured = Verdict(Action.GOTO, "ISTIO_DNS_CAPTURED")
    yield from owners.group_rules(redirection.owners, to_captured, _OWN)
    is_all = redirection.owners.groups is None
    yield Rule((), _CAPTURED if is_all else _OWN, "every other query")
