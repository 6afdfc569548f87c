"""The rules of TPROXY: inbound connections reach the proxy without any translation.

Not here: outbound connections, which are redirected as ever (`policy`).
The proxy sees the client's address, and may connect to the application with it; such packets carry
a mark, as does what the application answers, and a routing table takes both to this host.

Rules for editing: what arrives for the proxy gets no mark. Its destination is an own address in
any case, and with a mark the reverse-path filter of a host that looks at marks (src_valid_mark,
which wg-quick(8) sets) would drop it. Without a socket that listens `tproxy` lets a packet pass:
the next rule has to refuse it. Later packets find the connection by themselves; only the answer to
a SYN cookie needs the listening socket once more.
Where a bridge calls the packet filter (br_netfilter), what comes in by it meets `tproxy` below the
bridge, loses the socket on its way up (skb_orphan() in ip_rcv_core()) and meets nothing again. It
would reach the application, so it is looked at once more where it is delivered, and refused.
"""

from collections.abc import Iterator

from ..config import model as config
from . import exemptions, model, owners
from .model import Action, Field, Match, Operator, Rule, Verdict

PREROUTING, INPUT, OUTPUT = 0, 1, 3  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT
# NF_IP_PRI_MANGLE: behind tracking, before everybody's destination NAT.
PRIORITY = -150
_INPUT_PRIORITY = 0  # NF_IP_PRI_FILTER: whoever refuses, refuses for all
_SYN, _TCP, _LOCAL = 0x02, 6, 2  # SYN alone, IPPROTO_TCP, RTN_LOCAL

_IS_TCP = Match(Field.L4PROTO, Operator.EQ, _TCP)
_IS_NEW = Match(Field.TCP_FLAGS, Operator.EQ, _SYN)
_HAS_PROXY_SOCKET = Match(Field.SOCKET_TRANSPARENT, Operator.EQ, 1)
_BY_LOOPBACK = Match(Field.IIFNAME, Operator.EQ, "lo")
_IS_TRANSLATED = Match(Field.CT_STATUS_DNAT, Operator.NE, 0)


def build_routing(
    redirection: config.Redirection, facts: config.HostFacts
) -> tuple[model.Routing, ...]:
    """What takes marked packets to this host."""
    found = redirection.transparent
    if found is None or not redirection.is_transparent:
        return ()
    # Where IPv6 is switched off the kernel takes no route for it.
    versions = (4, 6) if facts.has_ipv6 else (4,)
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
    yield model.Chain("ISTIO_TPROXY", tuple(_inbound_rules(redirection, found.mark)))
    to_chain = Rule((_IS_TCP,), Verdict(Action.JUMP, "ISTIO_TPROXY"), "inbound connections")
    hook = model.Hook("filter", PREROUTING, PRIORITY)
    yield model.Chain("prerouting_mangle", (to_chain,), hook)
    yield model.Chain("ISTIO_TPROXY_INPUT", tuple(_arrived_rules(redirection)))
    to_arrived = Rule((_IS_NEW,), Verdict(Action.JUMP, "ISTIO_TPROXY_INPUT"), "what has arrived")
    hook = model.Hook("filter", INPUT, _INPUT_PRIORITY)
    yield model.Chain("input_filter", (to_arrived,), hook)
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


def _inbound_rules(redirection: config.Redirection, mark: int) -> Iterator[Rule]:
    yield from _interface_rules(redirection)
    is_marked = Match(Field.MARK, Operator.EQ, mark)
    yield Rule((is_marked,), Verdict(Action.SAVE_MARK), "for the answer of the application")
    yield Rule((is_marked,), owners.RETURN, "between the proxy and an application")
    from_here = (_BY_LOOPBACK, Match(Field.FIB_SADDR_TYPE, Operator.EQ, _LOCAL))
    yield Rule(from_here, owners.RETURN, "this host calls itself")
    yield from _exempt_rules()
    captured = _captured(redirection)
    to_proxy = Verdict(Action.TPROXY, redirection.inbound_capture_port)
    yield Rule((_IS_NEW, *captured), to_proxy, "to the proxy")
    yield Rule((_IS_NEW, *captured), Verdict(Action.REJECT), "there is no proxy")
    yield Rule(captured, to_proxy, "the answer to a SYN cookie")


def _arrived_rules(redirection: config.Redirection) -> Iterator[Rule]:
    # Of what comes by lo the mark tells, which somebody may have changed by now.
    yield Rule((_BY_LOOPBACK,), owners.RETURN, "no bridge has brought it")
    yield Rule((_HAS_PROXY_SOCKET,), owners.RETURN, "the proxy has it")
    yield Rule((_IS_TRANSLATED,), owners.RETURN, "others translated it to this port")
    yield from _interface_rules(redirection)
    yield from _exempt_rules()
    comment = "a bridge that calls the packet filter took it from the proxy"
    yield Rule(_captured(redirection), Verdict(Action.REJECT), comment)


def _interface_rules(redirection: config.Redirection) -> Iterator[Rule]:
    for names in (redirection.excluded_interfaces, redirection.guest_interfaces):
        yield from owners.interface_rules(names, Field.IIFNAME)


def _exempt_rules() -> Iterator[Rule]:
    elsewhere = Match(Field.FIB_DADDR_TYPE, Operator.NE, _LOCAL)
    yield Rule((elsewhere,), owners.RETURN, "only passes through this host")
    exempt = Match(Field.DPORT, Operator.IN, "inbound_ports_exempt")
    yield Rule((exempt,), owners.RETURN, "excluded ports, ssh, the proxy's own ports")


def _captured(redirection: config.Redirection) -> tuple[Match, ...]:
    listed = Match(Field.DPORT, Operator.IN, "inbound_ports")
    return (_IS_TCP,) if redirection.inbound.is_all else (listed,)
