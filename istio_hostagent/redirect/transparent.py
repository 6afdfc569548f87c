"""The rules of TPROXY: inbound connections reach the proxy without any translation.

Not here: outbound connections, which are redirected as ever (`policy`).
The proxy sees the client's address, and may connect to the application with it; such packets carry
a mark, as does what the application answers, and a routing table takes both to this host.

Rules for editing: what arrives for the proxy gets no mark. Its destination is an own address in
any case, and with a mark the reverse-path filter of a host that looks at marks (src_valid_mark,
which wg-quick(8) sets) would drop it. Without a socket that listens `tproxy` lets a packet pass:
the next rule has to refuse it. Later packets find the connection by themselves; only the answer to
a SYN cookie needs the listening socket once more.
"""

from collections.abc import Iterator

from ..config import model as config
from . import exemptions, model, owners
from .model import Action, Field, Match, Operator, Rule, Verdict

PREROUTING, OUTPUT = 0, 3  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
# NF_IP_PRI_MANGLE: behind tracking, before everybody's destination NAT.
PRIORITY = -150
_SYN, _TCP, _LOCAL = 0x02, 6, 2  # SYN alone, IPPROTO_TCP, RTN_LOCAL

_IS_TCP = Match(Field.L4PROTO, Operator.EQ, _TCP)
_IS_NEW = Match(Field.TCP_FLAGS, Operator.EQ, _SYN)


def build_routing(
    redirection: config.Redirection, facts: config.HostFacts
) -> tuple[model.Routing, ...]:
    """What takes marked packets to this host."""
    found = redirection.transparent
    if found is None or not redirection.is_transparent:
        return ()
    versions = (4, 6) if facts.knows_ipv6 else (4,)
    return tuple(
        each
        for version in versions
        for each in model.make_routing(found.mark, found.table, version)
    )


def build_chains(
    redirection: config.Redirection, facts: config.HostFacts
) -> Iterator[model.Chain]:
    """Every chain that exists only for TPROXY; none where that is not in use."""
    found = redirection.transparent
    if found is None or not redirection.is_transparent:
        return
    yield model.Chain("ISTIO_TPROXY", tuple(_inbound_rules(redirection, facts, found.mark)))
    to_chain = Rule((_IS_TCP,), Verdict(Action.JUMP, "ISTIO_TPROXY"), "inbound connections")
    hook = model.Hook("filter", PREROUTING, PRIORITY)
    yield model.Chain("prerouting_mangle", (to_chain,), hook)
    is_answer = Match(Field.CT_MARK, Operator.EQ, found.mark)
    comment = "an application answers to the address of a client: back to the proxy"
    back = Rule((is_answer, _IS_TCP), Verdict(Action.RESTORE_MARK), comment)
    # A chain of this type has the route looked up once more where the mark has changed.
    yield model.Chain("output_mangle", (back,), model.Hook("route", OUTPUT, PRIORITY))


def own_rules(found: config.Transparent, facts: config.HostFacts) -> Iterator[Rule]:
    """What the proxy sends with the address of a client goes to the application, and stays so."""
    on_loopback = Match(Field.OIFNAME, Operator.EQ, "lo")
    is_marked = Match(Field.MARK, Operator.EQ, found.mark)
    comment = "the proxy calls an application with the address of a client"
    for family, field, own in _families(facts):
        matches = (on_loopback, is_marked, Match(field, Operator.NE, own))
        yield Rule(matches, Verdict(Action.KEEP, family), comment)


def keep_rules(facts: config.HostFacts) -> Iterator[Rule]:
    """What the proxy has got already: nobody who comes later takes it elsewhere."""
    comment = "for the proxy: no translation of others, as of a published port"
    for family, field, own in _families(facts):
        yield Rule((Match(field, Operator.NE, own),), Verdict(Action.KEEP, family), comment)


def _families(facts: config.HostFacts) -> tuple[tuple[str, Field, int], ...]:
    """Each family with a source that neither of these packets has."""
    v4 = ("ip", Field.IP_SADDR, exemptions.PASSTHROUGH_V4)
    v6 = ("ip6", Field.IP6_SADDR, exemptions.PASSTHROUGH_V6)
    return (v4, v6) if facts.knows_ipv6 else (v4,)


def _inbound_rules(
    redirection: config.Redirection, facts: config.HostFacts, mark: int
) -> Iterator[Rule]:
    for names in (redirection.excluded_interfaces, redirection.guest_interfaces):
        yield from owners.interface_rules(names, Field.IIFNAME)
    is_marked = Match(Field.MARK, Operator.EQ, mark)
    yield Rule((is_marked,), Verdict(Action.SAVE_MARK), "for the answer of the application")
    yield Rule((is_marked,), owners.RETURN, "between the proxy and an application")
    from_here = (
        Match(Field.IIFNAME, Operator.EQ, "lo"),
        Match(Field.FIB_SADDR_TYPE, Operator.EQ, _LOCAL),
    )
    yield Rule(from_here, owners.RETURN, "this host calls itself")
    elsewhere = Match(Field.FIB_DADDR_TYPE, Operator.NE, _LOCAL)
    yield Rule((elsewhere,), owners.RETURN, "only passes through this host")
    exempt = Match(Field.DPORT, Operator.IN, "inbound_ports_exempt")
    yield Rule((exempt,), owners.RETURN, "excluded ports, ssh, the proxy's own ports")
    listed = Match(Field.DPORT, Operator.IN, "inbound_ports")
    captured = (_IS_TCP,) if redirection.inbound.is_all else (listed,)
    to_proxy = Verdict(Action.TPROXY, redirection.inbound_capture_port)
    yield Rule((_IS_NEW, *captured), to_proxy, "to the proxy")
    yield Rule((_IS_NEW, *captured), Verdict(Action.REJECT), "there is no proxy")
    yield Rule(captured, to_proxy, "the answer to a SYN cookie")
