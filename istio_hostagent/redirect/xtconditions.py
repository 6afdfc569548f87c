"""What one rule asks and does, in the words of legacy tables.

Not here: which chain a rule comes into, and what becomes of its alternatives (`xtrender`).
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from . import model, ranges
from .model import Action, Field, Match, Operator, Rule, Verdict
from .xtables import FLAGS_LOOKED_AT, MARK, Condition, Family, NotExpressible, XRule

# The alternatives of each condition of a rule, each a group of tests.
Alternatives = Sequence[Sequence[tuple[Condition, ...]]]

# Legacy tables do not look at these; rules about them are left out.
_NOT_LOOKED_AT = frozenset((Field.ICMP_DPORT, Field.ICMP6_DPORT))
# xt_multiport.h: XT_MULTI_PORTS; a range takes two.
_MOST_PORTS = 15
_FLAGS = {0x01: "FIN", 0x02: "SYN", 0x04: "RST", 0x10: "ACK"}
_PROTOCOLS = {6: "tcp", 17: "udp"}
_LOCAL = 2  # RTN_LOCAL
_EVERYTHING = ("0.0.0.0/0", "::/0")
_QUOTING = "'\"\\"


def without_twice(tests: Sequence[Condition], family: Family) -> Iterator[Condition]:
    """A rule has room for one source and one destination; a second is compared as a range."""
    taken: set[str] = set()
    for test in tests:
        if test.option not in _RANGES or test.option not in taken:
            taken.add(test.option)
            yield test
            continue
        address, length = network_of(test)
        ends = (address, address | (1 << (family.bits - length)) - 1)
        first, last = (written((end, family.bits), family).partition("/")[0] for end in ends)
        yield Condition("iprange", _RANGES[test.option], f"{first}-{last}", test.is_not)


_RANGES = {"-s": "--src-range", "-d": "--dst-range"}


def network_of(test: Condition) -> tuple[int, int]:
    """The address and the prefix length in a test of a network."""
    address, _, length = test.value.partition("/")
    return _read_address(address), int(length)


def _read_address(text: str) -> int:
    return int(ipaddress.ip_address(text))


def is_of(rule: Rule, family: Family) -> bool:
    """Whether a rule concerns this family, and has an equivalent."""
    if any(match.field in _NOT_LOOKED_AT for match in rule.matches):
        return False
    of_other = _OF_V6 if family is Family.V4 else _OF_V4
    if rule.verdict.action is Action.KEEP:
        return rule.verdict.target == ("ip" if family is Family.V4 else "ip6")
    return not any(match.field in of_other for match in rule.matches)


_OF_V4 = (Field.IP_SADDR, Field.IP_DADDR, Field.ORIGINAL_IP_DADDR)
_OF_V6 = (Field.IP6_SADDR, Field.IP6_DADDR, Field.ORIGINAL_IP6_DADDR)
_OF_TCP = (Field.SPORT, Field.DPORT, Field.TCP_FLAGS)
_OF_UDP = (Field.UDP_SPORT, Field.UDP_DPORT)


def protocol_of(rule: Rule) -> Iterator[Condition]:
    """The protocol that a rule implies, or needs for its verdict."""
    fields = {match.field for match in rule.matches}
    if Field.L4PROTO in fields:
        return
    if fields.intersection(_OF_UDP):
        yield Condition("", "-p", "udp")
    elif fields.intersection(_OF_TCP) or rule.verdict.action is Action.REJECT:
        # What is rejected with a reset is of TCP: the chains lead nothing else there.
        yield Condition("", "-p", "tcp")


def translate(
    match: Match, family: Family, sets: Mapping[str, model.NamedSet]
) -> Sequence[tuple[Condition, ...]]:
    """The alternatives of one condition; raises NotExpressible."""
    field, operator, value = match.field, match.operator, match.value
    is_not = operator is Operator.NE
    if operator in (Operator.IN, Operator.NOT_IN):
        if operator is Operator.NOT_IN:
            raise NotExpressible(f"{field.value} not in a set")
        tests = _of_set(match, sets[str(value)], family)
        # Every address is no condition.
        return [() if test.value in _EVERYTHING else (test,) for test in tests]
    if field in _NAMES_OF_ADDRESSES:
        module, option = _NAMES_OF_ADDRESSES[field]
        network = int(value), match.prefix or family.bits
        return [(Condition(module, option, written(network, family), is_not),)]
    if field in _NAMES_OF_PORTS:
        module, option = _NAMES_OF_PORTS[field]
        return [(Condition(module, option, str(value), is_not),)]
    if field is Field.CONTROL_GROUP:
        # The kernel looks each path of the new table up (xt_cgroup.c), with every commit of
        # anybody: one of a group that is gone would have it refused.
        raise NotExpressible("leaving the traffic of some units alone, or capturing it alone")
    if field in _NAMES:
        module, option = _NAMES[field]
        return [(Condition(module, option, str(value), is_not),)]
    if field in (Field.IIFNAME, Field.OIFNAME):
        name = str(value)
        name = f"{name[:-1]}+" if name.endswith("*") else name
        return [(Condition("", "-i" if field is Field.IIFNAME else "-o", name, is_not),)]
    if field is Field.L4PROTO and value in _PROTOCOLS:
        return [(Condition("", "-p", _PROTOCOLS[int(value)], is_not),)]
    if field is Field.TCP_FLAGS:
        names = ",".join(name for bit, name in _FLAGS.items() if int(value) & bit) or "NONE"
        return [(Condition("tcp", "--tcp-flags", f"{FLAGS_LOOKED_AT} {names}", is_not),)]
    if field in _TYPES and value == _LOCAL:
        return [(Condition("addrtype", _TYPES[field], "LOCAL", is_not),)]
    if field in _MARKS:
        return [(Condition(_MARKS[field], "--mark", f"{int(value):#x}", is_not),)]
    if field is Field.SOCKET_TRANSPARENT and (value, is_not) == (1, False):
        # A proxy listens at every address, which counts only if asked for (xt_socket.c).
        options = ("--transparent", "--nowildcard")
        return [tuple(Condition("socket", option, "") for option in options)]
    if field in _STATES and value == 0:
        return [(Condition("conntrack", "--ctstate", _STATES[field], not is_not),)]
    raise NotExpressible(f"{field.value} {operator.value} {value}")


_NAMES_OF_ADDRESSES = {
    Field.IP_SADDR: ("", "-s"),
    Field.IP6_SADDR: ("", "-s"),
    Field.IP_DADDR: ("", "-d"),
    Field.IP6_DADDR: ("", "-d"),
    Field.ORIGINAL_IP_DADDR: ("conntrack", "--ctorigdst"),
    Field.ORIGINAL_IP6_DADDR: ("conntrack", "--ctorigdst"),
}
_NAMES_OF_PORTS = {
    Field.SPORT: ("tcp", "--sport"),
    Field.DPORT: ("tcp", "--dport"),
    Field.UDP_SPORT: ("udp", "--sport"),
    Field.UDP_DPORT: ("udp", "--dport"),
    Field.ORIGINAL_DPORT: ("conntrack", "--ctorigdstport"),
}
_NAMES = {Field.SKUID: ("owner", "--uid-owner"), Field.SKGID: ("owner", "--gid-owner")}
_TYPES = {Field.FIB_DADDR_TYPE: "--dst-type", Field.FIB_SADDR_TYPE: "--src-type"}
_MARKS = {Field.MARK: "mark", Field.CT_MARK: "connmark"}
# Bits of which we only ask whether they are set.
_STATES = {Field.CT_STATUS_DNAT: "DNAT", Field.CT_STATE_INVALID: "INVALID"}


def _of_set(match: Match, found: model.NamedSet, family: Family) -> Iterator[Condition]:
    """One test for each network, or for as many ports as one can hold."""
    if match.field in _NAMES_OF_ADDRESSES:
        module, option = _NAMES_OF_ADDRESSES[match.field]
        for first, last in found.ranges:
            if match.prefix:
                yield Condition(module, option, written((first, match.prefix), family))
                continue
            for network in ranges.to_cidrs(first, last, family.bits):
                yield Condition(module, option, written(network, family))
        return
    if match.field not in _NAMES_OF_PORTS:
        raise NotExpressible(f"{match.field.value} in a set")
    module, option = _NAMES_OF_PORTS[match.field]
    texts = [str(a) if a == b else f"{a}:{b}" for a, b in found.ranges]
    if module == "conntrack" or len(texts) == 1:
        yield from (Condition(module, option, each) for each in texts)
        return
    part: list[str] = []
    room = _MOST_PORTS
    for each in texts:
        size = 2 if ":" in each else 1
        if size > room:
            yield Condition("multiport", f"{option}s", ",".join(part))
            part, room = [], _MOST_PORTS
        part.append(each)
        room -= size
    if part:
        yield Condition("multiport", f"{option}s", ",".join(part))


def written(network: tuple[int, int], family: Family) -> str:
    """A network as tests have it."""
    address, length = network
    made = ipaddress.IPv4Address if family is Family.V4 else ipaddress.IPv6Address
    return f"{made(address)}/{length}"


def comment_of(rule: Rule) -> str:
    """Without what python-iptables reads back as more than it was: it takes it for a shell's."""
    why = "".join(each for each in rule.comment if each not in _QUOTING)
    return f"{MARK}: {why}" if why else MARK


def target_of(rule: Rule, family: Family) -> XRule:
    """A rule without conditions that does the same; raises NotExpressible."""
    return _verdict(rule.verdict, family)


def _verdict(verdict: Verdict, family: Family) -> XRule:
    action, target = verdict
    match action:
        case Action.RETURN:
            return XRule((), "RETURN")
        case Action.DROP:
            return XRule((), "DROP")
        case Action.JUMP | Action.GOTO:
            return XRule((), str(target), is_goto=action is Action.GOTO)
        case Action.REDIRECT:
            return XRule((), "REDIRECT", (("--to-ports", str(target)),))
        case Action.REJECT:
            return XRule((), "REJECT", (("--reject-with", "tcp-reset"),))
        case Action.ZONE:
            return XRule((), "CT", (("--zone", str(target)),))
        case Action.TPROXY:
            return XRule((), "TPROXY", (("--on-port", str(target)),))
        case Action.SAVE_MARK:
            return XRule((), "CONNMARK", (("--save-mark", ""),))
        case Action.RESTORE_MARK:
            return XRule((), "CONNMARK", (("--restore-mark", ""),))
        case Action.KEEP:
            return XRule((), "NETMAP", (("--to", _EVERYTHING[family is Family.V6]),))
    raise NotExpressible(f"the verdict {action.value}")
