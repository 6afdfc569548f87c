"""Which connections go through the proxy: the only place that knows Istio's rules.

The order of the rules is Istio's (release 1.31, REDIRECT mode), except where its own was seen to
fail: exclusions count for lists too, the proxy's real group is used, ssh and metadata are left
alone, IPv6 is captured wherever the host has it, what the host only forwards is not inbound.
The proxy's calls to the host's own addresses are captured even where nothing else is, as Istio
does it.

Rules for editing: every rule says why it is there; sets, never one rule for each entry, so that
the cost of a connection does not depend on their number; both families in one table.

A connection is told by its first packet alone (SYN without ACK). A reply of a connection that is
older than the rules, for example of sshd, would otherwise be taken for a new connection to a
captured destination wherever connection tracking starts with our first rule, and be cut off.
The price: once somebody flushes the tracking table, captured connections are reset, not resumed.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..config import model as config
from . import exemptions, model, names, owners, tables, transparent
from .model import Action, Field, Match, Operator, Rule, Verdict

# Before docker's and Kubernetes' own destination NAT at -100: at equal priority the table that was
# registered last would win.
PRIORITY = -101
# Behind connection tracking and before any destination NAT: here a packet shows what the
# application asked for. Behind it, a captured address of loopback would lead to a private port.
FILTER_PRIORITY = -102
# After every destination NAT: whatever is captured is on its way to loopback by then.
GUARD_PRIORITY = 10
PREROUTING, OUTPUT = 0, 3  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
SYN, SYN_ACK = 0x02, 0x12
LOCAL = 2  # RTN_LOCAL

# When the tracking entry of a captured connection, or of one that the proxy makes, is forgotten.
# Both go from the same address to the same destination: only their port tells them apart, which
# the kernel gives out again as soon as the socket before is gone. A first packet that meets the
# entry of the other kind is not translated as it must be: the guard refuses it, or it comes back
# to the proxy. After a FIN the kernel replaces the entry; after a reset by the other end it would
# keep it for 10 s, after an attempt that was given up for 120 s.
_FORGOTTEN = model.Timeout("forgotten", (("close", 0), ("syn_sent", 1)))

_IS_NEW = Match(Field.TCP_FLAGS, Operator.EQ, SYN)
_IS_ANSWER = Match(Field.TCP_FLAGS, Operator.EQ, SYN_ACK)
_ON_LOOPBACK = Match(Field.OIFNAME, Operator.EQ, "lo")
_RETURN = Verdict(Action.RETURN)


class _Destination(NamedTuple):
    """Where a rule finds the destination that it matches."""

    v4: Field
    v6: Field
    port: Field


_OF_PACKET = _Destination(Field.IP_DADDR, Field.IP6_DADDR, Field.DPORT)
# What the application asked for: what the main table, before all others, has matched.
_ASKED_FOR = _Destination(Field.ORIGINAL_IP_DADDR, Field.ORIGINAL_IP6_DADDR, Field.ORIGINAL_DPORT)


def build_ruleset(redirection: config.Redirection, facts: config.HostFacts) -> model.Ruleset:
    """Build the main table and, where anything outbound is captured, the guard table."""
    if not redirection.is_managed:
        return model.Ruleset()
    sets = exemptions.build_sets(redirection, facts)
    built = [_build_main(redirection, facts, sets)]
    if redirection.captures_outbound:
        built.append(_build_guard(redirection, facts, sets))
    addresses = (model.PASSTHROUGH_ADDRESS,) if facts.has_ipv6 else ()
    routing = transparent.build_routing(redirection, facts)
    return model.Ruleset(tuple(built), addresses, routing)


def _build_main(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> model.Table:
    output = _base_chain("output", model.Hook("nat", OUTPUT, PRIORITY), "ISTIO_OUTPUT")
    if redirection.dns.is_captured:
        output = output._replace(rules=(*output.rules, names.first_packet_rule()))
    chains = [
        _redirect_chain("ISTIO_IN_REDIRECT", redirection.inbound_capture_port),
        _redirect_chain("ISTIO_REDIRECT", redirection.outbound_capture_port, _FORGOTTEN.name),
        *_output_chains(redirection, facts, sets),
        output,
        *_filter_chains(redirection, facts),
        *names.build_chains(redirection, facts),
        *_inbound_chains(redirection, facts, sets),
        *transparent.build_chains(redirection, facts),
    ]
    if redirection.drops_invalid:
        hook = model.Hook("filter", PREROUTING, transparent.PRIORITY)
        is_invalid = Match(Field.CT_STATE_INVALID, Operator.NE, 0)
        drop = Rule((is_invalid,), Verdict(Action.DROP), "belongs to no connection")
        chains.append(model.Chain("prerouting_invalid", (drop,), hook))
    return tables.build_table(
        model.MAIN_TABLE,
        chains,
        tables.name_sets(sets),
        may_be_owned=True,
        timeouts=(_FORGOTTEN,),
    )


def _build_guard(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> model.Table:
    """Refuse what the main table would have captured: if it gets here, that one is not there.

    This comes after everybody's destination NAT. Of a connection whose destination was translated
    it matches what was asked for: an excluded address stays excluded wherever somebody takes it,
    and a captured one captured. Of every other connection it matches the packet.
    """
    of_packet, asked_for = (
        (
            *_exempt_port_rules(sets, destination),
            *_destination_rules(redirection, sets, Verdict(Action.REJECT), destination),
        )
        for destination in (_OF_PACKET, _ASKED_FOR)
    )
    translated = Rule(
        (Match(Field.CT_STATUS_DNAT, Operator.NE, 0),),
        Verdict(Action.GOTO, "ISTIO_GUARD_TRANSLATED"),
        "translated by others: what was asked for counts",
    )
    base = _base_chain("output", model.Hook("filter", OUTPUT, GUARD_PRIORITY), "ISTIO_GUARD")
    chains = [
        *_behind_groups(
            "ISTIO_GUARD",
            redirection,
            _guard_first_rules(redirection, facts),
            (translated, *of_packet),
        ),
        model.Chain("ISTIO_GUARD_ANSWER", _answer_rules(redirection, facts)),
        model.Chain("ISTIO_GUARD_TRANSLATED", asked_for),
        base._replace(rules=(*base.rules, _to_answer_rules("ISTIO_GUARD_ANSWER"))),
    ]
    loopback = model.make_set("loopback_v4", model.SetKind.IPV4, exemptions.LOOPBACK_V4)
    return tables.build_table(
        model.GUARD_TABLE, chains, [loopback, *tables.name_sets(sets)], may_be_owned=False
    )


def _behind_groups(
    name: str,
    redirection: config.Redirection,
    first: Iterable[Rule],
    behind: Iterable[Rule],
) -> Iterator[model.Chain]:
    """A chain whose last rules are for captured groups alone; listed, these have their own."""
    if redirection.owners.groups is None:
        rules = owners.group_rules(redirection.owners, _RETURN)
        yield model.Chain(name, (*first, *rules, *behind))
        return
    captured = f"{name}_GROUPS"
    rules = owners.group_rules(redirection.owners, Verdict(Action.GOTO, captured))
    yield model.Chain(name, (*first, *rules))
    if rules:
        yield model.Chain(captured, tuple(behind))


def _guard_first_rules(redirection: config.Redirection, facts: config.HostFacts) -> Iterator[Rule]:
    """What passes whatever its destination is called."""
    yield from owners.interface_rules(redirection.excluded_interfaces, Field.OIFNAME)
    yield from owners.exempt_rules(redirection, facts)
    yield Rule((_ON_LOOPBACK,), _RETURN, "the host's own addresses")
    on_loopback = [Match(Field.IP_DADDR, Operator.IN, "loopback_v4")]
    if facts.knows_ipv6:
        on_loopback.append(Match(Field.IP6_DADDR, Operator.EQ, exemptions.LOCALHOST_V6))
    for match in on_loopback:
        yield Rule((match,), _RETURN, "captured already, or meant for this host")


def _filter_chains(
    redirection: config.Redirection, facts: config.HostFacts
) -> Iterator[model.Chain]:
    """Keep other users of this host from standing in for the proxy, and from its private ports."""
    rules = [_to_answer_rules("ISTIO_ANSWER")]
    if redirection.dns.is_captured:
        rules.append(names.answer_rule(redirection))
    yield model.Chain("ISTIO_ANSWER", _answer_rules(redirection, facts))
    if redirection.private_ports:
        private = Match(Field.DPORT, Operator.IN, "private_ports")
        to_private = Verdict(Action.JUMP, "ISTIO_PRIVATE")
        rules.append(Rule((_IS_NEW, _ON_LOOPBACK, private), to_private, "private ports"))
        yield model.Chain("ISTIO_PRIVATE", _private_rules(redirection, facts))
    yield model.Chain("output_filter", tuple(rules), model.Hook("filter", OUTPUT, FILTER_PRIORITY))


def _to_answer_rules(chain: str) -> Rule:
    return Rule((_IS_ANSWER,), Verdict(Action.JUMP, chain), "answer to a new connection")


def _answer_rules(redirection: config.Redirection, facts: config.HostFacts) -> tuple[Rule, ...]:
    """Drop what somebody else answers on a capture port: his client waits, and tells him nothing.

    A SYN cookie is an answer without a socket, so nobody knows whose it is; with a queue of no
    length (listen(fd, 0)) every answer is one. It is dropped, too.
    """
    return (
        *owners.user_rules(redirection, facts),
        *(
            Rule(
                (Match(Field.SPORT, Operator.EQ, port),),
                Verdict(Action.DROP),
                "on a capture port nobody else answers",
            )
            for port in dict.fromkeys(redirection.answer_ports)
        ),
    )


def _private_rules(redirection: config.Redirection, facts: config.HostFacts) -> tuple[Rule, ...]:
    return (
        Rule((Match(Field.SKUID, Operator.EQ, owners.ROOT),), _RETURN, "root"),
        *owners.user_rules(redirection, facts),
        Rule((), Verdict(Action.REJECT), "nobody else"),
    )


def _redirect_chain(name: str, port: int, timeout: str = "") -> model.Chain:
    is_tcp = Match(Field.L4PROTO, Operator.EQ, names.TCP)
    rule = Rule((is_tcp,), Verdict(Action.REDIRECT, port), "to the proxy", timeout)
    return model.Chain(name, (rule,))


def _base_chain(name: str, hook: model.Hook, target: str) -> model.Chain:
    rule = Rule((_IS_NEW,), Verdict(Action.JUMP, target), "first packet of a connection only")
    return model.Chain(name, (rule,), hook)


def _inbound_chains(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> Iterator[model.Chain]:
    """Inbound is what goes to an address of this host, not what it forwards for others.

    A published port of a container is one of this host: only later somebody translates it. What
    comes from a guest is outbound, wherever it goes.
    """
    guests = redirection.guest_interfaces
    if not (redirection.inbound or guests):
        return
    rules = list(owners.interface_rules(redirection.excluded_interfaces, Field.IIFNAME))
    for name in guests:
        to_guest = Verdict(Action.GOTO, "ISTIO_GUEST")
        rules.append(Rule((Match(Field.IIFNAME, Operator.EQ, name),), to_guest, "from a guest"))
    if guests:
        yield model.Chain("ISTIO_GUEST", tuple(_guest_rules(redirection, sets)))
    if redirection.inbound:
        rules += _inbound_rules(redirection)
    yield model.Chain("ISTIO_INBOUND", tuple(rules))
    if redirection.is_transparent:
        yield model.Chain("ISTIO_IN_KEEP", tuple(transparent.keep_rules(facts)))
    hook = model.Hook("nat", PREROUTING, PRIORITY)
    yield _base_chain("prerouting", hook, "ISTIO_INBOUND")


def _guest_rules(redirection: config.Redirection, sets: exemptions.Sets) -> Iterator[Rule]:
    """As outbound, whoever sends it; what reaches this host itself stays reachable."""
    is_local = Match(Field.FIB_DADDR_TYPE, Operator.EQ, LOCAL)
    exempt = Match(Field.DPORT, Operator.IN, "own_ports")
    yield Rule((is_local, exempt), _RETURN, "ssh of this host, and the proxy's own ports")
    yield from _exempt_port_rules(sets, _OF_PACKET)
    to_proxy = Verdict(Action.JUMP, "ISTIO_REDIRECT")
    yield from _destination_rules(redirection, sets, to_proxy, _OF_PACKET)


def _inbound_rules(redirection: config.Redirection) -> tuple[Rule, ...]:
    is_kept = redirection.is_transparent
    to_proxy = Verdict(Action.JUMP, "ISTIO_IN_KEEP" if is_kept else "ISTIO_IN_REDIRECT")
    elsewhere = Rule(
        (Match(Field.FIB_DADDR_TYPE, Operator.NE, LOCAL),),
        _RETURN,
        "only passes through this host",
    )
    exempt = Rule(
        (Match(Field.DPORT, Operator.IN, "inbound_ports_exempt"),),
        _RETURN,
        "excluded ports, ssh, the proxy's own ports and its tunnel",
    )
    if redirection.inbound.is_all:
        return (elsewhere, exempt, Rule((), to_proxy, "every other port"))
    listed = Match(Field.DPORT, Operator.IN, "inbound_ports")
    return (elsewhere, exempt, Rule((listed,), to_proxy, "listed ports"))


def _output_chains(
    redirection: config.Redirection, facts: config.HostFacts, sets: exemptions.Sets
) -> Iterator[model.Chain]:
    """Whose connection it is comes first, then where it goes."""
    to_proxy = Verdict(Action.JUMP, "ISTIO_REDIRECT")
    found = redirection.transparent if redirection.is_transparent else None
    to_applications = transparent.own_rules(found, facts) if found is not None else ()
    whose = (
        *owners.interface_rules(redirection.excluded_interfaces, Field.OIFNAME),
        *_passthrough_rules(facts),
        *to_applications,
        *_exempt_port_rules(sets, _OF_PACKET),
        *_own_call_rules(redirection, facts),
        *owners.exempt_rules(redirection, facts, timeout=_FORGOTTEN.name),
    )
    where = (
        *((names.capture_rule(),) if redirection.dns.is_captured else ()),
        *_address_rules(
            "outbound_loopback",
            (sets.v4.named_loopback, sets.v6.named_loopback),
            to_proxy,
            _OF_PACKET,
            "loopback addresses listed one by one",
        ),
        Rule((_ON_LOOPBACK,), _RETURN, "an application that calls this host directly"),
        *_destination_rules(redirection, sets, to_proxy, _OF_PACKET),
    )
    yield from _behind_groups("ISTIO_OUTPUT", redirection, whose, where)


def _exempt_port_rules(sets: exemptions.Sets, destination: _Destination) -> tuple[Rule, ...]:
    if not sets.exempt_ports:
        return ()
    excluded = Match(destination.port, Operator.IN, "outbound_ports_exempt")
    return (Rule((excluded,), _RETURN, "excluded ports, whatever the address"),)


def _passthrough_rules(facts: config.HostFacts) -> tuple[Rule, ...]:
    """Final: docker's own translation of a published port, which comes later, takes the address of
    this host to the container, where nothing from 127.0.0.6 can arrive. It is for its proxy.
    """
    comment = "what the proxy hands to an application: nowhere else, and never back to the proxy"
    sources = [("ip", Field.IP_SADDR, exemptions.PASSTHROUGH_V4)]
    if facts.knows_ipv6:
        sources.append(("ip6", Field.IP6_SADDR, exemptions.PASSTHROUGH_V6))
    return tuple(
        Rule(
            (_ON_LOOPBACK, Match(field, Operator.EQ, address)),
            Verdict(Action.KEEP, family),
            comment,
        )
        for family, field, address in sources
    )


def _own_call_rules(redirection: config.Redirection, facts: config.HostFacts) -> tuple[Rule, ...]:
    """Calls to an own address of this host that are captured.

    An application calls its own service: proxy outbound, own address, proxy inbound. Until release
    1.0 every such call went to the proxy's one port, which told both ways apart.
    """
    elsewhere = [_elsewhere_v4(redirection)]
    if facts.knows_ipv6:
        elsewhere.append((Match(Field.IP6_DADDR, Operator.NE, exemptions.LOCALHOST_V6),))
    if redirection.generation is not config.Generation.CURRENT:
        to_proxy = Verdict(Action.JUMP, "ISTIO_REDIRECT")
        exempt = Match(Field.DPORT, Operator.IN, "own_ports")
        return (
            Rule((_ON_LOOPBACK, exempt), _RETURN, "ssh of this host, and the proxy's own ports"),
            *(Rule((_ON_LOOPBACK, *each), to_proxy, "an own address") for each in elsewhere),
        )
    others = [redirection.tunnel_port]
    if redirection.dns.is_captured:
        others.append(names.PORT)  # the proxy asks name servers of this host themselves
    to_others = tuple(Match(Field.DPORT, Operator.NE, port) for port in others)
    return tuple(
        Rule(
            (_ON_LOOPBACK, who, *each, *to_others),
            Verdict(Action.JUMP, "ISTIO_IN_REDIRECT"),
            "the proxy calls an own address of this host",
        )
        for who in owners.proxy_matches(redirection, facts)
        for each in elsewhere
    )


def _elsewhere_v4(redirection: config.Redirection) -> tuple[Match, ...]:
    """Not where the proxy reaches applications directly, which is 127.0.0.1 in any case."""
    loopback = redirection.loopback_v4
    prefix = 0 if loopback.prefixlen == 32 else loopback.prefixlen
    in_network = Match(Field.IP_DADDR, Operator.NE, int(loopback.network_address), prefix)
    localhost = Match(Field.IP_DADDR, Operator.NE, exemptions.LOCALHOST_V4)
    has_localhost = ipaddress.IPv4Address(exemptions.LOCALHOST_V4) in loopback
    return (in_network,) if has_localhost else (in_network, localhost)


def _destination_rules(
    redirection: config.Redirection,
    sets: exemptions.Sets,
    verdict: Verdict,
    destination: _Destination,
) -> list[Rule]:
    """Excluded, named, never, listed, in this order; the same for capture and guard."""
    v4, v6 = sets.v4, sets.v6
    why = "listed destinations"
    rules = _address_rules(
        "outbound_exclude",
        (v4.exclude, v6.exclude),
        _RETURN,
        destination,
        "excluded destinations",
    )
    if sets.named_ports:
        named = Match(destination.port, Operator.IN, "outbound_ports_named")
        rules.append(Rule((named,), verdict, "listed ports, whatever the address"))
    if not (redirection.outbound or sets.ranged_ports):
        return rules
    rules += _address_rules(
        "outbound_never",
        (v4.never, v6.never),
        _RETURN,
        destination,
        "metadata, link-local, multicast: only if named",
    )
    if sets.ranged_ports:
        ranged = Match(destination.port, Operator.IN, "outbound_ports")
        rules.append(Rule((ranged,), verdict, "port ranges, whatever the address"))
    if redirection.outbound.is_all:
        rules.append(Rule((), verdict, "every other destination"))
    else:
        rules += [
            Rule((_in_blocks(field, version, length),), verdict, why)
            for field, version, family in ((destination.v4, "v4", v4), (destination.v6, "v6", v6))
            for length, _ in family.hashed
        ]
        rules += _address_rules(
            "outbound", (v4.intervals, v6.intervals), verdict, destination, why
        )
    return rules


def _in_blocks(field: Field, version: str, length: int) -> Match:
    """Look up so many leading bits; of single addresses all, which is what no prefix means."""
    is_whole = length == (32 if version == "v4" else 128)
    name = f"outbound_{version}_{length}"
    return Match(field, Operator.IN, name, 0 if is_whole else length)


def _address_rules(
    name: str,
    content: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]],
    verdict: Verdict,
    destination: _Destination,
    comment: str,
) -> list[Rule]:
    """One rule for each family that has something in its set."""
    fields = ((destination.v4, "v4"), (destination.v6, "v6"))
    return [
        Rule((Match(field, Operator.IN, f"{name}_{version}"),), verdict, comment)
        for (field, version), held in zip(fields, content, strict=True)
        if held
    ]
