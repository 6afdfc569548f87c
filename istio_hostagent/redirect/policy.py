"""Which connections go through the proxy: the only place that knows Istio's rules.

The order of the rules is Istio's (release 1.31, REDIRECT mode), except where its own was seen to
fail: exclusions count for lists too, the proxy's real group is used, ssh and metadata are left
alone, IPv6 is captured wherever the host has it. The proxy's calls to the host's own addresses are
captured even where nothing else is, as Istio does it.

Rules for editing: every rule says why it is there; sets, never one rule for each entry, so that
the cost of a connection does not depend on their number; both families in one table.

A connection is judged by its first packet alone (SYN without ACK). A reply of a connection that is
older than the rules, for example of sshd, would otherwise be taken for a new connection to a
captured destination wherever connection tracking starts with our first rule, and be cut off.
The price: once somebody flushes the tracking table, captured connections are reset, not resumed.
"""

import binascii

from ..config import model as config
from . import exemptions, model, ranges
from .model import Action, Field, Match, Operator, Rule, Verdict

# Before docker's and Kubernetes' own destination NAT at -100: at equal priority the table that was
# registered last would win.
PRIORITY = -101
# After every destination NAT: whatever is captured is on its way to loopback by then.
GUARD_PRIORITY = 10
PREROUTING, OUTPUT = 0, 3  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
TCP = 6
SYN = 0x02

_IS_NEW = Match(Field.TCP_FLAGS, Operator.EQ, SYN)
_ON_LOOPBACK = Match(Field.OIFNAME, Operator.EQ, "lo")
_RETURN = Verdict(Action.RETURN)


def build_ruleset(redirection: config.Redirection, facts: config.HostFacts) -> model.Ruleset:
    """Build the main table and, where anything outbound is captured, the guard table."""
    if not redirection.is_managed:
        return model.Ruleset()
    sets = exemptions.build_sets(redirection, facts)
    tables = [_build_main(redirection, facts, sets)]
    if redirection.outbound or redirection.outbound_ports:
        tables.append(_build_guard(redirection, facts, sets))
    addresses = (model.PASSTHROUGH_ADDRESS,) if facts.has_ipv6 else ()
    return model.Ruleset(tuple(tables), addresses)


def _build_main(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> model.Table:
    chains = [
        _redirect_chain("ISTIO_IN_REDIRECT", redirection.inbound_capture_port),
        _redirect_chain("ISTIO_REDIRECT", redirection.outbound_capture_port),
        model.Chain("ISTIO_OUTPUT", _output_rules(redirection, facts, sets)),
        _base_chain("output", model.Hook("nat", OUTPUT, PRIORITY), "ISTIO_OUTPUT"),
    ]
    if redirection.inbound:
        chains += [
            model.Chain("ISTIO_INBOUND", _inbound_rules(redirection)),
            _base_chain("prerouting", model.Hook("nat", PREROUTING, PRIORITY), "ISTIO_INBOUND"),
        ]
    return _build_table(
        model.MAIN_TABLE, chains, _named_sets(redirection, sets), may_be_owned=True
    )


def _build_guard(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> model.Table:
    """Refuse captured destinations that get here unchanged: then the main table is not there."""
    loopback = [
        Rule(
            (Match(Field.IP_DADDR, Operator.IN, "loopback_v4"),),
            _RETURN,
            "captured already, or meant for this host",
        )
    ]
    named = [model.NamedSet("loopback_v4", model.SetKind.IPV4.value, exemptions.LOOPBACK_V4)]
    if facts.has_ipv6:
        loopback.append(
            Rule(
                (Match(Field.IP6_DADDR, Operator.EQ, exemptions.LOCALHOST_V6),),
                _RETURN,
                "captured already, or meant for this host",
            )
        )
    rules = (
        *_exempt_port_rules(sets),
        *_proxy_rules(facts),
        Rule((_ON_LOOPBACK,), _RETURN, "the host's own addresses"),
        *loopback,
        *_destination_rules(redirection, sets, Verdict(Action.REJECT)),
    )
    chains = [
        model.Chain("ISTIO_GUARD", rules),
        _base_chain("output", model.Hook("filter", OUTPUT, GUARD_PRIORITY), "ISTIO_GUARD"),
    ]
    return _build_table(
        model.GUARD_TABLE, chains, [*named, *_named_sets(redirection, sets)], may_be_owned=False
    )


def _build_table(
    name: str, chains: list[model.Chain], sets: list[model.NamedSet], *, may_be_owned: bool
) -> model.Table:
    """Keep only the sets that a rule uses, everything in order of name as in what is observed."""
    stamped = {each.name: each._replace(name=_stamp(each)) for each in sets}
    used: dict[int | str, model.NamedSet] = {}

    def resolve(match: Match) -> Match:
        if match.operator not in (Operator.IN, Operator.NOT_IN):
            return match
        used[match.value] = found = stamped[str(match.value)]
        return match._replace(value=found.name)

    resolved = [
        chain._replace(
            rules=tuple(
                rule._replace(matches=tuple(map(resolve, rule.matches))) for rule in chain.rules
            )
        )
        for chain in chains
    ]
    return model.Table(
        name,
        tuple(sorted(used.values(), key=lambda each: each.name)),
        tuple(sorted(resolved, key=lambda chain: chain.name)),
        may_be_owned,
    )


def _stamp(named_set: model.NamedSet) -> str:
    """Name a set after its content too: what has another content is another set.

    So a new set can be filled completely beside the old one, before any rule looks at it.
    """
    checksum = binascii.crc32(repr(named_set.ranges).encode())
    return f"{named_set.name}{model.STAMP_SEPARATOR}{checksum:08x}"


def _named_sets(redirection: config.Redirection, sets: exemptions.Sets) -> list[model.NamedSet]:
    named = [
        model.NamedSet(name, model.SetKind.PORT.value, content)
        for name, content in (
            ("outbound_ports_exempt", sets.exempt_ports),
            ("outbound_ports_named", sets.named_ports),
            ("outbound_ports", sets.ranged_ports),
            ("inbound_ports_exempt", sets.inbound_exempt),
            ("inbound_ports", sets.inbound),
        )
    ]
    for version, kind, family in (
        ("v4", model.SetKind.IPV4.value, sets.v4),
        ("v6", model.SetKind.IPV6.value, sets.v6),
    ):
        named += [
            model.NamedSet(f"outbound_{version}", kind, family.include),
            model.NamedSet(f"outbound_exclude_{version}", kind, family.exclude),
            model.NamedSet(f"outbound_never_{version}", kind, family.never),
            model.NamedSet(f"outbound_loopback_{version}", kind, family.named_loopback),
        ]
    return named


def _redirect_chain(name: str, port: int) -> model.Chain:
    is_tcp = Match(Field.L4PROTO, Operator.EQ, TCP)
    return model.Chain(name, (Rule((is_tcp,), Verdict(Action.REDIRECT, port), "to the proxy"),))


def _base_chain(name: str, hook: model.Hook, target: str) -> model.Chain:
    rule = Rule((_IS_NEW,), Verdict(Action.JUMP, target), "first packet of a connection only")
    return model.Chain(name, (rule,), hook)


def _inbound_rules(redirection: config.Redirection) -> tuple[Rule, ...]:
    to_proxy = Verdict(Action.JUMP, "ISTIO_IN_REDIRECT")
    exempt = Rule(
        (Match(Field.DPORT, Operator.IN, "inbound_ports_exempt"),),
        _RETURN,
        "excluded ports, ssh, the proxy's own ports and its tunnel",
    )
    if redirection.inbound.is_all:
        return (exempt, Rule((), to_proxy, "every other port"))
    listed = Match(Field.DPORT, Operator.IN, "inbound_ports")
    return (exempt, Rule((listed,), to_proxy, "listed ports"))


def _output_rules(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> tuple[Rule, ...]:
    to_proxy = Verdict(Action.JUMP, "ISTIO_REDIRECT")
    return (
        *_exempt_port_rules(sets),
        *_passthrough_rules(facts),
        *_self_call_rules(redirection, facts),
        *_proxy_rules(facts),
        *_address_rules(
            "outbound_loopback",
            (sets.v4.named_loopback, sets.v6.named_loopback),
            to_proxy,
            "loopback addresses listed one by one",
        ),
        Rule((_ON_LOOPBACK,), _RETURN, "an application that calls this host directly"),
        *_destination_rules(redirection, sets, to_proxy),
    )


def _exempt_port_rules(sets: exemptions.Sets) -> tuple[Rule, ...]:
    if not sets.exempt_ports:
        return ()
    excluded = Match(Field.DPORT, Operator.IN, "outbound_ports_exempt")
    return (Rule((excluded,), _RETURN, "excluded ports, before everything else"),)


def _passthrough_rules(facts: config.HostFacts) -> tuple[Rule, ...]:
    comment = "what the proxy hands to an application: never back to the proxy"
    sources = [(Field.IP_SADDR, exemptions.PASSTHROUGH_V4)]
    if facts.has_ipv6:
        sources.append((Field.IP6_SADDR, exemptions.PASSTHROUGH_V6))
    return tuple(
        Rule((_ON_LOOPBACK, Match(field, Operator.EQ, address)), _RETURN, comment)
        for field, address in sources
    )


def _self_call_rules(redirection: config.Redirection, facts: config.HostFacts) -> tuple[Rule, ...]:
    """An application calls its own service: proxy outbound, own address, proxy inbound."""
    bases = [(Field.IP_DADDR, exemptions.LOCALHOST_V4)]
    if facts.has_ipv6:
        bases.append((Field.IP6_DADDR, exemptions.LOCALHOST_V6))
    not_tunnel = Match(Field.DPORT, Operator.NE, redirection.tunnel_port)
    return tuple(
        Rule(
            (_ON_LOOPBACK, who, Match(field, Operator.NE, base), not_tunnel),
            Verdict(Action.JUMP, "ISTIO_IN_REDIRECT"),
            "the proxy calls an own address of this host",
        )
        for who in _proxy_matches(facts)
        for field, base in bases
    )


def _proxy_rules(facts: config.HostFacts) -> tuple[Rule, ...]:
    comment = "what the proxy sends is final"
    return tuple(Rule((who,), _RETURN, comment) for who in _proxy_matches(facts))


def _proxy_matches(facts: config.HostFacts) -> tuple[Match, Match]:
    return (
        Match(Field.SKUID, Operator.EQ, facts.proxy_uid),
        Match(Field.SKGID, Operator.EQ, facts.proxy_gid),
    )


def _destination_rules(
    redirection: config.Redirection, sets: exemptions.Sets, verdict: Verdict
) -> list[Rule]:
    """Excluded, named, never, listed, in this order; the same for capture and guard."""
    v4, v6 = sets.v4, sets.v6
    rules = _address_rules(
        "outbound_exclude", (v4.exclude, v6.exclude), _RETURN, "excluded destinations"
    )
    if sets.named_ports:
        named = Match(Field.DPORT, Operator.IN, "outbound_ports_named")
        rules.append(Rule((named,), verdict, "listed ports, whatever the address"))
    if not (redirection.outbound or sets.ranged_ports):
        return rules
    rules += _address_rules(
        "outbound_never",
        (v4.never, v6.never),
        _RETURN,
        "metadata, link-local, multicast: only if named",
    )
    if sets.ranged_ports:
        ranged = Match(Field.DPORT, Operator.IN, "outbound_ports")
        rules.append(Rule((ranged,), verdict, "port ranges, whatever the address"))
    if redirection.outbound.is_all:
        rules.append(Rule((), verdict, "every other destination"))
    else:
        rules += _address_rules(
            "outbound", (v4.include, v6.include), verdict, "listed destinations"
        )
    return rules


def _address_rules(
    name: str, content: tuple[ranges.Ranges, ranges.Ranges], verdict: Verdict, comment: str
) -> list[Rule]:
    """One rule for each family that has something in its set."""
    fields = ((Field.IP_DADDR, "v4"), (Field.IP6_DADDR, "v6"))
    return [
        Rule((Match(field, Operator.IN, f"{name}_{version}"),), verdict, comment)
        for (field, version), held in zip(fields, content, strict=True)
        if held
    ]
