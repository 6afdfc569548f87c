"""Which rules of a firewall deny by what the translation changes: the port, and the address.

After it a captured connection asks for the proxy's port at another address, and such a rule no
longer sees it. What comes after such a rule must not let in what the rule may deny, and so is not
repeated (`openings`). Whatever is not understood counts as denying every port.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import ranges, words

EVERY: ranges.Ranges = ((0, 65535),)
_TCP = ("tcp", "th")
_HARMLESS = ("match", "limit", "counter", "log", "accept", "continue")
_OTHER_PROTOCOLS = ("udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "esp", "ah")
# Modules of iptables that look at neither port nor address of the destination, but for options
# that are looked at below.
_NEUTRAL = words.MODULES | {
    *("recent", "connlimit", "hashlimit", "time", "udp", "icmp", "icmp6", "ttl", "hl", "rt"),
    *("pkttype", "length", "tcpmss"),
}
_HARMLESS_TARGETS = ("", "ACCEPT", "LOG", "NFLOG")


class Denial(NamedTuple):
    """What one rule may deny by port or address, and the chains it leads to."""

    ports: ranges.Ranges = ()
    leads: tuple[str, ...] = ()


class Barrier(NamedTuple):
    """A rule that may deny connections to these ports, and its place in words."""

    ports: ranges.Ranges
    place: str


class Rule(NamedTuple):
    """A rule of a chain, as far as it is of concern here."""

    place: str
    denial: Denial


def of_statements(statements: Sequence[Any]) -> Denial:
    """Look at a rule as `nft --json` shows it."""
    if all(map(_is_harmless, statements)) or any(map(_is_of_other_protocol, statements)):
        return Denial()
    leads = tuple(_targets(statements))
    ports, is_dependent = EVERY, False
    for each in statements:
        if depends_on_port(each) or depends_on_address(each) or _is_unknown_map(each):
            is_dependent = True
            ports = ranges.intersect(ports, _ports_of(each))
    return Denial(ports if is_dependent else (), leads)


def depends_on_port(statement: Any) -> bool:
    """Whether a statement looks at the port of the destination, or may do so."""
    return any(
        (kind == "payload" and content.get("field") == "dport" and content["protocol"] in _TCP)
        or (kind == "payload" and "base" in content)
        or (kind == "ct" and content.get("dir") == "reply")
        or kind in ("xt", "socket")
        for kind, content in _walk(statement)
    )


def depends_on_address(statement: Any) -> bool:
    """Whether a statement looks at the address of the destination.

    Its type alone does not count: what is translated goes to an address of this host as before.
    """
    return any(
        (kind == "payload" and content.get("field") == "daddr")
        or (kind == "payload" and "base" in content)
        or (kind == "ct" and content.get("dir") == "reply")
        or (kind == "fib" and _is_of_address(content))
        or kind in ("xt", "socket")
        for kind, content in _walk(statement)
    )


def _is_of_address(fib: Mapping[str, Any]) -> bool:
    flags = fib.get("flags", ())
    flags = [flags] if isinstance(flags, str) else list(flags)
    return "daddr" in flags and (fib.get("result") != "type" or flags != ["daddr"])


def _walk(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, dict):
        for kind, content in value.items():
            yield kind, content if isinstance(content, dict) else {}
            yield from _walk(content)
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each)


def _targets(value: Any) -> Iterator[str]:
    for kind, content in _walk(value):
        if kind in ("jump", "goto") and "target" in content:
            yield content["target"]


def _is_harmless(statement: Any) -> bool:
    if not isinstance(statement, dict):
        return False
    if "vmap" in statement:
        data = statement["vmap"].get("data")
        return isinstance(data, dict) and all(map(_lets_in, data.get("set", [None])))
    return all(kind in _HARMLESS for kind in statement)


def _lets_in(element: Any) -> bool:
    verdict = element[1] if isinstance(element, list) and len(element) == 2 else {}
    return verdict in ({"accept": None}, {"continue": None})


def _is_unknown_map(statement: Any) -> bool:
    """A named verdict map: its elements may lead anywhere."""
    vmap = statement.get("vmap") if isinstance(statement, dict) else None
    return isinstance(vmap, dict) and not isinstance(vmap.get("data"), dict)


def _is_of_other_protocol(statement: Any) -> bool:
    match = statement.get("match") if isinstance(statement, dict) else None
    if not isinstance(match, dict) or not isinstance(match["left"], dict):
        return False
    payload = match["left"].get("payload", {})
    if payload.get("protocol") in _OTHER_PROTOCOLS:
        return True
    is_protocol = match["left"] == {"meta": {"key": "l4proto"}} or payload == {
        "protocol": "ip",
        "field": "protocol",
    }
    right = match["right"]
    named = right["set"] if isinstance(right, dict) and "set" in right else [right]
    is_known = all(each in (*_OTHER_PROTOCOLS, "ipv6-icmp") for each in named)
    return is_protocol and match["op"] in ("==", "in") and is_known


def _ports_of(statement: Any) -> ranges.Ranges:
    """The ports for which a statement goes on to a verdict that may deny."""
    if "vmap" in statement and not _is_unknown_map(statement):
        if not _is_port(statement["vmap"]["key"]):
            return EVERY
        elements = statement["vmap"]["data"]["set"]
        return _literal([each[0] for each in elements if not _lets_in(each)])
    match = statement.get("match")
    if match is None or not _is_port(match["left"]):
        return EVERY
    right = match["right"]
    found = _literal(right["set"] if isinstance(right, dict) and "set" in right else [right])
    if match["op"] in ("==", "in"):
        return found
    if match["op"] == "!=" and found != EVERY:
        return ranges.subtract(EVERY, found)
    return EVERY


def _is_port(left: Any) -> bool:
    payload = left.get("payload", {}) if isinstance(left, dict) else {}
    return payload.get("field") == "dport" and payload.get("protocol") in _TCP


def _literal(elements: Iterable[Any]) -> ranges.Ranges:
    found = []
    for each in elements:
        ends = each["range"] if isinstance(each, dict) and "range" in each else (each, each)
        if not all(isinstance(end, int) for end in ends):
            return EVERY
        found.append((ends[0], ends[1]))
    return ranges.merge(found)


def of_words(rule: Sequence[str], *, is_whole: bool = True) -> Denial:
    """Look at a rule of `iptables -S`; `is_whole`: that shows all of its conditions."""
    options = list(words.parse(rule))
    target = next((each.values[0] for each in options if each.name in ("-j", "-g")), "")
    modules = {each.values[0] for each in options if each.name == "-m"}
    is_harmless = target == "ACCEPT" or (target in _HARMLESS_TARGETS and is_whole)
    if is_harmless and modules <= words.MODULES:
        return Denial()
    leads = (target,) if target else ()
    if not is_whole:
        return Denial(EVERY, leads)
    for each in options:
        is_named = each.name == "-p" and not each.is_negated
        if is_named and each.values[0] not in ("tcp", "all", "6"):
            return Denial()
    ports, is_dependent = EVERY, not modules <= _NEUTRAL
    for each in options:
        if words.depends_on_address(each) or each.name in ("--dport", "--dports", "--ports"):
            is_dependent = True
        if each.name in ("--dport", "--dports"):
            named = ranges.merge(words.read_ports(each))
            ports = ranges.intersect(
                ports, ranges.subtract(EVERY, named) if each.is_negated else named
            )
    return Denial(ports if is_dependent else (), leads)


def collect(chains: Mapping[str, Sequence[Rule]], name: str) -> Iterator[Barrier]:
    """Give all that a chain, and those that it leads to, may deny."""
    return _collect(chains, chains.get(name, ()), {name})


def _collect(
    chains: Mapping[str, Sequence[Rule]], rules: Iterable[Rule], seen: set[str]
) -> Iterator[Barrier]:
    for each in rules:
        if each.denial.ports:
            yield Barrier(each.denial.ports, each.place)
            continue
        for lead in each.denial.leads:
            if lead not in seen:
                seen.add(lead)
                yield from _collect(chains, chains.get(lead, ()), seen)


def callers(chains: Mapping[str, Sequence[Rule]], name: str) -> Iterator[tuple[str, int]]:
    """Give each chain and number of a rule that leads to a chain."""
    for chain, rules in chains.items():
        for number, each in enumerate(rules):
            if name in each.denial.leads:
                yield chain, number


def on_the_way(chains: Mapping[str, Sequence[Rule]], name: str) -> tuple[list[Barrier], set[str]]:
    """Give what may deny before a chain begins, and the chains that lead there, with itself."""
    found: list[Barrier] = []
    seen = {name}
    waiting = [name]
    while waiting:
        for chain, number in callers(chains, waiting.pop()):
            rules = chains[chain]
            found += _collect(chains, rules[:number], set())
            if rules[number].denial.ports:
                # Another port than those may not come there at all, and those not once translated.
                found.append(Barrier(EVERY, rules[number].place))
            if chain not in seen:
                seen.add(chain)
                waiting.append(chain)
    return found, seen
