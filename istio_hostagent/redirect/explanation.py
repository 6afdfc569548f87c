"""Why a packet goes where it goes, in words: which rule decides, and which settings are behind it.

What becomes of it says the model of the kernel (`evaluator`) on the rules of a configuration
(`policy`). Not here: what the kernel really holds, others' rules, who asks and how it is printed.
"""

import enum
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ..config import directkeys, settings
from ..config import model as config
from ..config.setting import Setting
from . import evaluator, model, names, policy, ranges, units
from .packets import End, Packet, Step, Way, is_local

_Settings = tuple[Setting[Any], ...]


class Verdict(enum.Enum):
    """What becomes of a packet."""

    PROXY = "proxy"  # it goes through the proxy
    RESOLVER = "resolver"  # a query for names: it goes to the proxy's resolver
    DIRECT = "direct"  # it goes where it was going
    REFUSED = "refused"
    DROPPED = "dropped"


class Explanation(NamedTuple):
    """What becomes of a packet and why.

    `keys`: the settings behind the decision, the likeliest first. `detail`: what the rule's words
    leave open. `is_own`: it is for this host. `without`: its way through the guard alone; None:
    there is no guard for it.
    """

    packet: Packet
    verdict: Verdict
    way: Way
    keys: tuple[str, ...]
    detail: str
    is_own: bool
    without: Way | None

    @property
    def text(self) -> str:
        """What becomes of it, as the end of a sentence."""
        port = f"(port {self.way.captured_at})"
        if self.verdict is Verdict.DIRECT:
            return f"{self._direct}, not through the proxy"
        return {
            Verdict.PROXY: f"goes through the proxy {port}",
            Verdict.RESOLVER: f"goes to the resolver of the proxy {port}",
            Verdict.REFUSED: "is refused",
            Verdict.DROPPED: "is dropped",
        }[self.verdict]

    @property
    def _direct(self) -> str:
        if not self.packet.iif:
            return "goes to its destination directly"
        return "reaches this host directly" if self.is_own else "passes through this host"

    @property
    def decision(self) -> str:
        """Which rule decides: `ISTIO_OUTPUT rule 7, every other destination`."""
        step = self.way.decider
        if step is None:
            return self.detail
        more = f" ({self.detail})" if self.detail and step.number else ""
        return f"{describe_step(step)}{more}" if step.number else f"no rule: {self.detail}"

    @property
    def without_text(self) -> str:
        """What would become of it if our main table were gone, as a sentence without full stop."""
        if self.packet.iif:
            return "it comes in as if there were no mesh: the guard is for what this host sends"
        if self.without is None:
            return "it goes to its destination: nothing outbound is captured, so there is no guard"
        decider = self.without.decider
        by = f" ({describe_step(decider)})" if decider is not None and decider.number else ""
        if self.without.end is End.PASSED:
            return f"the guard lets it go to its destination{by}"
        return f"the guard {'drops' if self.without.end is End.DROPPED else 'refuses'} it{by}"


def describe_step(step: Step) -> str:
    """Name a rule: chain, number from 1, and why it is there."""
    if step.rule is None:
        return f"no rule of {step.chain}"
    why = f", {step.rule.comment}" if step.rule.comment else ""
    return f"{step.chain} rule {step.number}{why}"


def explain(
    redirection: config.Redirection,
    facts: config.HostFacts,
    packet: Packet,
    own: Collection[config.Address] = (),
) -> Explanation:
    """Say what the rules of a configuration make of a packet.

    `own`: addresses of this host beside those of `facts`.
    """
    own = {*facts.addresses, *own}
    ruleset = policy.build_ruleset(redirection, facts)
    way = evaluator.follow(ruleset.tables, packet, own)
    rows, detail = _find_reason(redirection, facts, packet, way)
    guards = [each for each in ruleset.tables if each.name == model.GUARD_TABLE]
    without = None
    if guards and not packet.iif:
        without = evaluator.enter_chain(guards[0], "output", packet, own)
    keys = tuple(dict.fromkeys(row.key for row in rows))
    return Explanation(
        packet,
        _conclude(redirection, way),
        way,
        keys,
        detail,
        is_local(packet.address, own),
        without,
    )


def _conclude(redirection: config.Redirection, way: Way) -> Verdict:
    if way.end is not End.PASSED:
        return Verdict.DROPPED if way.end is End.DROPPED else Verdict.REFUSED
    if not way.captured_at:
        return Verdict.DIRECT
    is_query = redirection.dns.is_captured and way.captured_at == redirection.dns.port
    return Verdict.RESOLVER if is_query else Verdict.PROXY


def _comment(step: Step) -> str:
    return step.rule.comment if step.rule is not None else ""


class _Case(NamedTuple):
    """What a reason may depend on."""

    redirection: config.Redirection
    facts: config.HostFacts
    packet: Packet


def _find_reason(
    redirection: config.Redirection, facts: config.HostFacts, packet: Packet, way: Way
) -> tuple[_Settings, str]:
    case = _Case(redirection, facts, packet)
    step = way.decider
    if redirection.is_none:
        return (directkeys.REDIRECT,), "nothing is redirected here"
    if not redirection.is_managed:
        return (settings.CUSTOM_RULES,), "the rules of this host are the operator's own"
    if step is None:
        return (settings.INBOUND_PORTS,), "nothing inbound is captured"
    if step.rule is None:
        return ENDS[step.chain](case)
    behind = RULES[step.rule.comment]
    return behind(case) if callable(behind) else (behind, "")


# -- rules, by why they are there ---------------------------------------------------------------


def _exempt_port(case: _Case) -> tuple[_Settings, str]:
    """Whose port it is that is never captured inbound."""
    redirection, port = case.redirection, case.packet.port
    if ranges.contains(ranges.merge(redirection.inbound_exclude.ranges), port):
        return (
            (settings.LOCAL_EXCLUDE_PORTS, settings.INBOUND_EXCLUDE_PORTS, settings.RULES),
            f"{port} is excluded",
        )
    if port in redirection.inbound_closed:
        return (settings.CLOSED_PORTS,), f"the firewall of this host closes {port}"
    if port == redirection.tunnel_port:
        return (settings.INBOUND_TUNNEL_PORT,), f"{port} is the proxy's tunnel"
    if port in (redirection.outbound_capture_port, redirection.inbound_capture_port):
        return (), f"{port} is where captured connections arrive"
    if port in redirection.proxy_ports:
        return (), f"{port} is a port of the proxy"
    return (), f"sshd listens on {port}"


def _proxy(case: _Case) -> tuple[_Settings, str]:
    owners = case.redirection.owners
    uid, gid = case.packet.uid, case.packet.gid
    if uid == case.facts.proxy_uid or gid == case.facts.proxy_gid:
        return (), ""
    is_named = uid in owners.proxy_uids or gid in owners.proxy_gids
    rows = (settings.PROXY_UID, settings.PROXY_GID, settings.ENVOY_USER, settings.EXEC_USER)
    return (rows if is_named else ()), ""


def _root(case: _Case) -> tuple[_Settings, str]:
    is_old = case.redirection.generation is not config.Generation.CURRENT
    return ((settings.RULES,) if is_old else (settings.EXEMPT_ROOT,)), ""


def _unit(case: _Case) -> tuple[_Settings, str]:
    groups = (each for each in case.facts.control_groups if each.number in case.packet.groups)
    return (settings.EXCLUDE_UNITS,), next((each.unit for each in groups), "")


def _other_unit(case: _Case) -> tuple[_Settings, str]:
    groups = (each for each in case.facts.control_groups if each.number in case.packet.groups)
    return (settings.INCLUDE_UNITS,), next((each.path for each in groups), "")


def _everything(case: _Case) -> tuple[_Settings, str]:
    is_older = case.redirection.generation is config.Generation.V0_7
    return (settings.SERVICE_CIDR, *((settings.RULES,) if is_older else ())), ""


def _resolver(case: _Case) -> tuple[_Settings, str]:
    keys = (settings.DNS_CAPTURE, settings.REDIRECT_DNS)
    every = (settings.CAPTURE_ALL_DNS,) if case.redirection.dns.is_every_server else ()
    return (*keys, *every), ""


def _transparent(case: _Case) -> tuple[_Settings, str]:
    is_transparent = case.redirection.is_transparent
    return ((settings.INBOUND_PORTS, settings.INTERCEPTION_MODE) if is_transparent else ()), ""


def _bridge(case: _Case) -> tuple[_Settings, str]:
    keys = (settings.INBOUND_PORTS, settings.INTERCEPTION_MODE)
    return keys, f"{case.packet.iif} has br_netfilter look at what comes in by it"


_Reason = Callable[[_Case], tuple[_Settings, str]]
# By its comment, the settings that brought a rule, or a function that finds them; a rule that no
# setting brings has none.
RULES: dict[str, _Settings | _Reason] = {
    "excluded ports, whatever the address": (settings.OUTBOUND_PORTS_EXCLUDE,),
    "excluded destinations": (settings.SERVICE_EXCLUDE_CIDR,),
    "listed ports, whatever the address": (settings.OUTBOUND_PORTS,),
    "port ranges, whatever the address": (settings.OUTBOUND_PORTS,),
    "listed destinations": (settings.SERVICE_CIDR,),
    "loopback addresses listed one by one": (settings.SERVICE_CIDR,),
    "every other destination": _everything,
    "listed ports": (settings.INBOUND_PORTS,),
    "every other port": (settings.INBOUND_PORTS,),
    "excluded ports, ssh, the proxy's own ports and its tunnel": _exempt_port,
    "excluded ports, ssh, the proxy's own ports": _exempt_port,
    "ssh of this host, and the proxy's own ports": _exempt_port,
    "an own address": (settings.RULES,),
    "an excluded group": (settings.OWNER_GROUPS_EXCLUDE,),
    "a captured group": (settings.OWNER_GROUPS,),
    "an excluded interface": (settings.EXCLUDE_INTERFACES,),
    "from a guest": (settings.GUEST_INTERFACES,),
    "what the proxy sends is final": _proxy,
    "the proxy calls an own address of this host": _proxy,
    "root is left alone": _root,
    "an excluded user": (settings.EXCLUDE_USERS,),
    units.EXCLUDED: _unit,
    units.OTHER: _other_unit,
    "belongs to no connection": (settings.DROP_INVALID, settings.INVALID_DROP),
    "to the resolver of the proxy": _resolver,
    "a resolver of this host asks its own servers": (settings.RESOLVER_USERS,),
    "queries for names": _resolver,
    "nobody else answers queries in its place": _resolver,
    "nobody else": (settings.LOCAL_PORTS,),
    # What the product does whatever the files say:
    "metadata, link-local, multicast: only if named": (),
    "an application that calls this host directly": (),
    "what the proxy hands to an application: nowhere else, and never back to the proxy": (),
    "only passes through this host": (),
    "on a capture port nobody else answers": (),
    "the proxy itself": (),
    "root": (),
    "first packet of a connection only": (),
    "to the proxy": _transparent,
    "for the proxy: no translation of others, as of a published port": _transparent,
    "inbound connections": (),
    "an application answers to the address of a client: back to the proxy": (),
    "the proxy calls an application with the address of a client": (),
    "between the proxy and an application": (),
    "for the answer of the application": (),
    "this host calls itself": (),
    "there is no proxy": _transparent,
    "the answer to a SYN cookie": _transparent,
    "what has arrived": (),
    "the proxy has it": (),
    "no bridge has brought it": (),
    "others translated it to this port": (),
    "a bridge that calls the packet filter took it from the proxy": _bridge,
    "private ports": (),
    "answer to a new connection": (),
    "answer to a query": (),
    # of zones, which never decide where a packet goes
    "a captured query": (),
    "answer to a captured query": (),
    "answer to a query that is not captured": (),
    "answer of a name server on this host": (),
    "refusal of a captured query": (),
    "queries": (),
    "every other query": (),
    # of the guard
    "the host's own addresses": (),
    "captured already, or meant for this host": (),
    "translated by others: what was asked for counts": (),
}


# -- chains at whose end nothing has decided ----------------------------------------------------


def _not_tcp(case: _Case) -> tuple[_Settings, str]:
    if case.packet.protocol == names.TCP:
        return (), "only the first packet of a connection is looked at"
    if case.packet.port == names.PORT:
        keys = (settings.DNS_CAPTURE, settings.REDIRECT_DNS)
        return keys, "queries for names are not captured, nor any other UDP"
    return (), "UDP is captured only where it is a query for names"


def _group(_case: _Case) -> tuple[_Settings, str]:
    return (settings.OWNER_GROUPS,), "the sender's group is none of those that are captured"


def _unlisted(case: _Case) -> tuple[_Settings, str]:
    if not case.redirection.captures_outbound:
        return (settings.SERVICE_CIDR, settings.OUTBOUND_PORTS), "nothing outbound is captured"
    keys = (settings.SERVICE_CIDR, settings.OUTBOUND_PORTS)
    return keys, "no setting lists this destination or port"


def _outbound(case: _Case) -> tuple[_Settings, str]:
    has_groups = case.redirection.owners.groups is not None
    return _group(case) if has_groups else _unlisted(case)


def _server(_case: _Case) -> tuple[_Settings, str]:
    return (settings.CAPTURE_ALL_DNS,), "no server of /etc/resolv.conf, which alone are captured"


def _port(_case: _Case) -> tuple[_Settings, str]:
    return (settings.INBOUND_PORTS,), "no setting lists this port"


ENDS: dict[str, _Reason] = {
    "output": _not_tcp,
    "prerouting": _not_tcp,
    "prerouting_mangle": _not_tcp,
    "ISTIO_TPROXY": _port,
    "ISTIO_IN_KEEP": _port,
    "ISTIO_OUTPUT": _outbound,
    "ISTIO_OUTPUT_GROUPS": _unlisted,
    "ISTIO_OUTPUT_UDP": _group,
    "ISTIO_OUTPUT_DNS": _server,
    "ISTIO_INBOUND": _port,
    "ISTIO_GUEST": _unlisted,
}


def to_json(explanation: Explanation) -> dict[str, Any]:
    """Version 1 of the machine-readable form; the settings are added by who knows the files."""
    packet, way = explanation.packet, explanation.way
    without = explanation.without
    return {
        "version": 1,
        "packet": {
            "protocol": "tcp" if packet.protocol == names.TCP else "udp",
            "destination": packet.destination,
            "port": packet.port,
            "source": packet.source,
            "uid": packet.uid,
            "gid": packet.gid,
            "interface": packet.iif or packet.oif,
            "direction": "in" if packet.iif else "out",
        },
        "verdict": explanation.verdict.value,
        "text": explanation.text,
        "captured_at": way.captured_at if way.end is End.PASSED else 0,
        "zone": way.packet.zone,
        "decision": explanation.decision,
        "decided_by": _step(way.decider) if way.decider is not None else None,
        "path": [_step(step) for step in way.steps],
        "without_rules": {
            "text": explanation.without_text,
            "decided_by": _step(without.decider) if without and without.decider else None,
        },
    }


def _step(step: Step) -> dict[str, object]:
    """One rule, or with number 0 the end of a chain."""
    return {
        "table": step.table,
        "chain": step.chain,
        "rule": step.number,
        "comment": _comment(step),
    }
