"""The same rules for legacy tables (x_tables): which chains of which table they become.

Not here: what the rules say (`policy`), how they get into the kernel (`host.xtrules`,
`workers.legacy`). The policy is written down once, in the terms of nf_tables; here each part gets
what is equal to it:

- A base chain becomes rules at the head of a built-in chain. Filters before any translation are
  in `mangle` and `raw`. Only the table filter can reject, which comes behind the translation: what
  is rejected by its destination is told there by what was asked for.
- A set of ports becomes one rule for every 15 of them (multiport). A set of networks becomes one
  rule for each while they are few; else chains that lead to each by its leading bits, so that a
  connection meets some dozens of rules and not ten thousand.
- x_tables cannot return from two chains at once. Where a rule with many networks returns, the rest
  of its chain goes into a chain of its own, which all that is not found goes on to.
- KEEP is NETMAP to all addresses: every address is mapped to itself, and that is final.
- TPROXY drops what no socket takes, so that nothing has to refuse it behind; and what a socket has
  already is not given to TPROXY, which would drop it unless that socket is a transparent one.
- Timeout policies have no equivalent (CT --timeout names an object of another program) and are
  left out, and so is what looks into the text of ICMP. The manual says what follows from that.

Ours is recognised by the comment of its rules, and by the names of chains that nobody else has.
"""

import enum
import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import model, ranges
from .model import Action, Field, Match, Operator, Rule, Verdict

MARK = model.LEGACY_MARK
SET_CHAIN = "ISTIO_SET_"  # chains of networks, numbered
# Legacy tables do not look at these; rules about them are left out.
_NOT_LOOKED_AT = frozenset((Field.ICMP_DPORT, Field.ICMP6_DPORT))
# How many networks a rule is written out for, and how many branches a chain of networks has.
MOST_INLINE = 16
BRANCHES = 32
# xt_multiport.h: XT_MULTI_PORTS; a range takes two.
_MOST_PORTS = 15
_PREROUTING, _OUTPUT = "PREROUTING", "OUTPUT"
_HOOKS = {0: _PREROUTING, 3: _OUTPUT}
_FLAGS = {0x01: "FIN", 0x02: "SYN", 0x04: "RST", 0x10: "ACK"}
FLAGS_LOOKED_AT = "FIN,SYN,RST,ACK"
# NF_IP_PRI_RAW and NF_IP_PRI_FILTER
_RAW_PRIORITY, _FILTER_PRIORITY = -300, 0
_PROTOCOLS = {6: "tcp", 17: "udp"}
_LOCAL = 2  # RTN_LOCAL
_EVERYTHING = ("0.0.0.0/0", "::/0")


class Family(enum.Enum):
    """One IP version; each has tables of its own. The value is its command."""

    V4 = "iptables-legacy"
    V6 = "ip6tables-legacy"

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.V4 else 128


class NotExpressible(ValueError):
    """A rule has no equivalent in legacy tables; the text says which."""


class Condition(NamedTuple):
    """One condition as iptables(8) writes it; `module` empty: of every rule (`-s`, `-o`, `-p`)."""

    module: str
    option: str
    value: str
    is_not: bool = False

    def __str__(self) -> str:
        """The words behind the name of the module; none where that is all."""
        return f"{'! ' if self.is_not else ''}{self.option} {self.value}".strip()


class XRule(NamedTuple):
    """One rule: its tests in ascending order, a target with options, or the chain it goes to."""

    tests: tuple[Condition, ...]
    target: str
    options: tuple[tuple[str, str], ...] = ()
    is_goto: bool = False
    comment: str = ""

    def __str__(self) -> str:
        """The rule as `iptables-save` has it, without its chain."""
        words = []
        before = ""
        taken: set[str] = set()
        for test in self.tests:
            if test.module and (test.module != before or test.option in taken):
                words.append(f"-m {test.module}")
                before, taken = test.module, set()
            taken.add(test.option)
            words += [str(test)] if test.option else []
        if self.comment:
            words.append(f'-m comment --comment "{self.comment}"')
        words.append(f"{'-g' if self.is_goto else '-j'} {self.target}")
        words += (f"{option} {value}".rstrip() for option, value in self.options)
        return " ".join(words)

    @property
    def is_ours(self) -> bool:
        """Whether it carries our mark."""
        return model.is_mark(self.comment)


class XChain(NamedTuple):
    """Rules in order. Of a built-in chain only those of ours, which are its first."""

    name: str
    rules: tuple[XRule, ...]
    is_built_in: bool = False


class XTable(NamedTuple):
    """What is ours in one table, in order of names. Empty chains: nothing is."""

    name: str
    chains: tuple[XChain, ...] = ()

    def lines(self) -> Iterator[str]:
        """Every rule, as `iptables-save` has it."""
        for chain in self.chains:
            if not chain.is_built_in:
                yield f":{chain.name} - [0:0]"
        for chain in self.chains:
            for rule in chain.rules:
                yield f"-A {chain.name} {rule}"


_QUOTING = "'\"\\"
# In which order tables change, so that nothing goes around and nothing is refused on the way.
TABLES = ("raw", "mangle", "filter", "nat")


def render(desired: model.Ruleset, family: Family) -> tuple[XTable, ...]:
    """Give every table of one family, also those in which nothing of ours is.

    Raises NotExpressible.
    """
    built: dict[str, _Builder] = {name: _Builder(name, family) for name in TABLES}
    for table in desired.tables:
        chains = {chain.name: chain for chain in table.chains}
        sets = {each.name: each for each in table.sets}
        for chain in table.chains:
            if chain.hook is not None:
                _place(built, chain, chain.hook, chains, sets)
    return tuple(built[name].finish() for name in TABLES)


def without_guard(table: XTable) -> XTable:
    """Leave out what leads to the guard: for the moment in which nat changes."""
    return _keep_heads(table, is_of_guard=False) if table.name == "filter" else table


def of_guard(table: XTable) -> XTable:
    """Leave out everything but the guard: for early boot."""
    return _keep_heads(table, is_of_guard=True)


def _keep_heads(table: XTable, *, is_of_guard: bool) -> XTable:
    kept = []
    for chain in table.chains:
        if chain.is_built_in:
            rules = tuple(
                rule
                for rule in chain.rules
                if rule.target.startswith("ISTIO_GUARD") is is_of_guard
            )
            chain = chain._replace(rules=rules)
            if not rules:
                continue
        kept.append(chain)
    return table._replace(chains=_needed(kept))


def _needed(chains: Sequence[XChain]) -> tuple[XChain, ...]:
    """Those that built-in chains lead to."""
    named = {chain.name: chain for chain in chains}
    found: dict[str, XChain] = {}
    left = [chain for chain in chains if chain.is_built_in]
    while left:
        chain = left.pop()
        found[chain.name] = chain
        targets = {rule.target for rule in chain.rules}
        left += (named[t] for t in sorted(targets) if t in named and t not in found)
    return tuple(found[name] for name in sorted(found))


def _place(
    built: Mapping[str, "_Builder"],
    base: model.Chain,
    hook: model.Hook,
    chains: Mapping[str, model.Chain],
    sets: Mapping[str, model.NamedSet],
) -> None:
    """Bring a base chain into the table and the built-in chain that are called in its place."""
    where = _HOOKS.get(hook.number)
    if where is None or hook.kind not in ("nat", "filter", "route") or not hook.policy:
        raise NotExpressible(f"a chain of kind {hook.kind} at hook {hook.number}")
    if hook.kind == "nat":
        built["nat"].add_base(base, base.rules, where, chains, sets)
        return
    if hook.priority >= _FILTER_PRIORITY:
        built["filter"].add_base(base, base.rules, where, chains, sets)
        return
    early = built["raw" if hook.priority <= _RAW_PRIORITY else "mangle"]
    rejecting = [rule for rule in base.rules if _rejects(rule, chains)]
    other = [rule for rule in base.rules if rule not in rejecting]
    early.add_base(base, other, where, chains, sets)
    late = built["filter"]
    late.add_base(base, list(map(_by_what_was_asked_for, rejecting)), where, chains, sets)
    # Of what is not tracked the packet itself tells.
    late.add_base(base, rejecting, where, chains, sets, (_IS_UNTRACKED,))


def _rejects(rule: Rule, chains: Mapping[str, model.Chain]) -> bool:
    if rule.verdict.action is Action.REJECT:
        return True
    if rule.verdict.action not in (Action.JUMP, Action.GOTO):
        return False
    below = _that_decide(chains[str(rule.verdict.target)].rules)
    return any(_rejects(each, chains) for each in below)


def _that_decide(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Leave out what refuses behind TPROXY: that has dropped it."""
    before: Rule | None = None
    for rule in rules:
        is_taken = before is not None and before.verdict.action is Action.TPROXY
        if not (is_taken and before is not None and before.matches == rule.matches):
            yield rule
        before = rule


_HAS_SOCKET = Condition("socket", "", "")
_ASKED_FOR = {
    Field.DPORT: Field.ORIGINAL_DPORT,
    Field.IP_DADDR: Field.ORIGINAL_IP_DADDR,
    Field.IP6_DADDR: Field.ORIGINAL_IP6_DADDR,
}


def _by_what_was_asked_for(rule: Rule) -> Rule:
    """The same rule behind the translation."""
    return rule._replace(
        matches=tuple(
            match._replace(field=_ASKED_FOR.get(match.field, match.field))
            for match in rule.matches
        )
    )


_IS_UNTRACKED = Condition("conntrack", "--ctstate", "UNTRACKED")


class _Builder:
    """Collects what is ours in one table of one family."""

    def __init__(self, name: str, family: Family) -> None:
        self._name = name
        self._family = family
        self._heads: dict[str, list[XRule]] = {}
        self._chains: dict[str, list[XRule]] = {}
        self._sets = 0

    def finish(self) -> XTable:
        """What was collected."""
        heads = (XChain(name, tuple(rules), True) for name, rules in self._heads.items())
        own = (XChain(name, tuple(rules)) for name, rules in self._chains.items())
        return XTable(self._name, tuple(sorted((*heads, *own), key=lambda each: each.name)))

    def add_base(
        self,
        base: model.Chain,
        rules: Sequence[Rule],
        where: str,
        chains: Mapping[str, model.Chain],
        sets: Mapping[str, model.NamedSet],
        further: tuple[Condition, ...] = (),
    ) -> None:
        """Bring these rules of a base chain in at the head of a built-in one.

        `further`: conditions of each of them.
        """
        if not any(_is_of(rule, self._family) for rule in rules):
            return
        head = self._heads.setdefault(where, [])
        # In a built-in chain a return would end it for everybody.
        if all(rule.verdict.action is Action.JUMP for rule in rules):
            for rule in rules:
                if _is_of(rule, self._family):
                    alternatives = self._tests_of(rule, sets)
                    head += self._inline(rule, [*alternatives, (further,)])
        else:
            name = f"ISTIO_{base.name.upper()}"
            if name in chains or further:
                raise NotExpressible(f"base chain {base.name} has no chain of its own")
            self._add_chain(name, rules, sets)
            head.append(XRule((), name, comment=MARK))
        self._add_targets(rules, chains, sets)

    def _add_targets(
        self,
        rules: Iterable[Rule],
        chains: Mapping[str, model.Chain],
        sets: Mapping[str, model.NamedSet],
    ) -> None:
        for rule in rules:
            target = str(rule.verdict.target)
            is_chain = rule.verdict.action in (Action.JUMP, Action.GOTO)
            if is_chain and _is_of(rule, self._family) and target not in self._chains:
                self._add_chain(target, chains[target].rules, sets)
                self._add_targets(chains[target].rules, chains, sets)

    def _add_chain(
        self, name: str, rules: Iterable[Rule], sets: Mapping[str, model.NamedSet]
    ) -> None:
        current = self._chains[name] = []
        parts = itertools.count(2)
        for rule in _that_decide(rules):
            if not _is_of(rule, self._family):
                continue
            alternatives = self._tests_of(rule, sets)
            is_first = any(match.field is Field.TCP_FLAGS for match in rule.matches)
            if rule.verdict.action is Action.TPROXY and not is_first:
                found = XRule((), "RETURN", comment=f"{MARK}: a socket has it")
                current += self._product([*alternatives, ((_HAS_SOCKET,),)], found)
            large = max(alternatives, key=len, default=())
            if len(large) <= MOST_INLINE:
                current += self._inline(rule, alternatives)
                continue
            protocol = tuple(each for each in alternatives[0][0] if each.option == "-p")
            verdict = _target_of(rule, self._family)._replace(tests=protocol)
            others = [each for each in alternatives if each is not large]
            if rule.verdict.action not in (Action.RETURN, Action.GOTO):
                root = self._add_tree([each[0] for each in large], verdict, "")
                current += self._product(others, XRule((), root, comment=_comment(rule)))
                continue
            rest = f"{name}_{next(parts)}"
            root = self._add_tree([each[0] for each in large], verdict, rest)
            found = XRule((), root, is_goto=True, comment=_comment(rule))
            current += self._product(others, found)
            current.append(XRule((), rest, is_goto=True, comment=MARK))
            current = self._chains[rest] = []

    def _inline(self, rule: Rule, alternatives: "_Alternatives") -> Iterator[XRule]:
        made = _target_of(rule, self._family)
        return self._product(alternatives, made._replace(comment=_comment(rule)))

    def _product(self, alternatives: "_Alternatives", made: XRule) -> Iterator[XRule]:
        for chosen in itertools.product(*alternatives):
            tests = sorted({test for each in chosen for test in each})
            yield made._replace(tests=tuple(sorted(_without_twice(tests, self._family))))

    def _add_tree(self, tests: Sequence[Condition], verdict: XRule, rest: str) -> str:
        """Chains that lead to one of many networks by its leading bits; gives the first one.

        What is not found goes on to the chain `rest`, or back to where it came from.
        """
        form = tests[0]
        networks = sorted(map(_network, tests))
        return self._add_node(networks, form, verdict, rest)

    def _add_node(
        self, networks: Sequence[tuple[int, int]], form: Condition, verdict: XRule, rest: str
    ) -> str:
        self._sets += 1
        name = f"{SET_CHAIN}{self._sets}"
        rules = self._chains[name] = []
        for group in _group(networks, self._family.bits):
            test = form._replace(value=_written(group.prefix, self._family))
            if len(group.networks) == 1:
                rules.append(verdict._replace(tests=tuple(sorted((test, *verdict.tests)))))
            else:
                below = self._add_node(group.networks, form, verdict, rest)
                rules.append(XRule((test,), below, is_goto=True))
        if rest:
            rules.append(XRule((), rest, is_goto=True))
        return name

    def _tests_of(self, rule: Rule, sets: Mapping[str, model.NamedSet]) -> "_Alternatives":
        """For each condition its alternatives, each a group of tests."""
        simple = list(_protocol_of(rule))
        found: list[Sequence[tuple[Condition, ...]]] = []
        for match in rule.matches:
            alternatives = _translate(match, self._family, sets)
            if len(alternatives) == 1:
                simple += alternatives[0]
            else:
                found.append(alternatives)
        return [(tuple(simple),), *found]


_Alternatives = Sequence[Sequence[tuple[Condition, ...]]]


def _without_twice(tests: Sequence[Condition], family: Family) -> Iterator[Condition]:
    """A rule has room for one source and one destination; a second is compared as a range."""
    taken: set[str] = set()
    for test in tests:
        if test.option not in _RANGES or test.option not in taken:
            taken.add(test.option)
            yield test
            continue
        address, length = _network(test)
        ends = (address, address | (1 << (family.bits - length)) - 1)
        first, last = (_written((end, family.bits), family).partition("/")[0] for end in ends)
        yield Condition("iprange", _RANGES[test.option], f"{first}-{last}", test.is_not)


_RANGES = {"-s": "--src-range", "-d": "--dst-range"}


class _Group(NamedTuple):
    prefix: tuple[int, int]
    networks: Sequence[tuple[int, int]]


def _group(networks: Sequence[tuple[int, int]], bits: int) -> list[_Group]:
    """Cut networks, which ascend and do not overlap, into so many groups of one prefix each.

    Few are groups of their own. The prefix of a group is as long as it can be. First all have one,
    then the group with the most networks is cut in two.
    """
    if len(networks) <= 2 * BRANCHES:
        return [_Group(network, (network,)) for network in networks]
    groups = [_Group(_common(networks, bits), networks)]
    while len(groups) < BRANCHES:
        at = max(range(len(groups)), key=lambda index: len(groups[index].networks))
        largest = groups[at].networks
        if len(largest) == 1:
            break
        _, length = groups[at].prefix
        # The first bit behind the common prefix differs, so both halves hold something.
        shift = bits - length - 1
        cut = next(n for n, (start, _) in enumerate(largest) if start >> shift & 1)
        halves = (largest[:cut], largest[cut:])
        groups[at : at + 1] = [_Group(_common(half, bits), half) for half in halves]
    return groups


def _common(networks: Sequence[tuple[int, int]], bits: int) -> tuple[int, int]:
    """The longest prefix of all."""
    if len(networks) == 1:
        return networks[0]
    first, last = networks[0][0], networks[-1][0]
    length = bits - (first ^ last).bit_length()
    return first >> (bits - length) << (bits - length) if length else 0, length


def _network(test: Condition) -> tuple[int, int]:
    address, _, length = test.value.partition("/")
    return _read_address(address), int(length)


def _read_address(text: str) -> int:
    return int(ipaddress.ip_address(text))


def _is_of(rule: Rule, family: Family) -> bool:
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


def _protocol_of(rule: Rule) -> Iterator[Condition]:
    """The protocol that a rule implies, or needs for its verdict."""
    fields = {match.field for match in rule.matches}
    if Field.L4PROTO in fields:
        return
    if fields.intersection(_OF_UDP):
        yield Condition("", "-p", "udp")
    elif fields.intersection(_OF_TCP) or rule.verdict.action is Action.REJECT:
        # What is rejected with a reset is of TCP: the chains lead nothing else there.
        yield Condition("", "-p", "tcp")


def _translate(
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
        return [(Condition(module, option, _written(network, family), is_not),)]
    if field in _NAMES_OF_PORTS:
        module, option = _NAMES_OF_PORTS[field]
        return [(Condition(module, option, str(value), is_not),)]
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
                yield Condition(module, option, _written((first, match.prefix), family))
                continue
            for network in ranges.to_cidrs(first, last, family.bits):
                yield Condition(module, option, _written(network, family))
        return
    if match.field not in _NAMES_OF_PORTS:
        raise NotExpressible(f"{match.field.value} in a set")
    module, option = _NAMES_OF_PORTS[match.field]
    written = [str(a) if a == b else f"{a}:{b}" for a, b in found.ranges]
    if module == "conntrack" or len(written) == 1:
        yield from (Condition(module, option, each) for each in written)
        return
    part: list[str] = []
    room = _MOST_PORTS
    for each in written:
        size = 2 if ":" in each else 1
        if size > room:
            yield Condition("multiport", f"{option}s", ",".join(part))
            part, room = [], _MOST_PORTS
        part.append(each)
        room -= size
    if part:
        yield Condition("multiport", f"{option}s", ",".join(part))


def _written(network: tuple[int, int], family: Family) -> str:
    address, length = network
    made = ipaddress.IPv4Address if family is Family.V4 else ipaddress.IPv6Address
    return f"{made(address)}/{length}"


def _comment(rule: Rule) -> str:
    """Without what python-iptables reads back as more than it was: it takes it for a shell's."""
    why = "".join(each for each in rule.comment if each not in _QUOTING)
    return f"{MARK}: {why}" if why else MARK


def _target_of(rule: Rule, family: Family) -> XRule:
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


def to_json(table: XTable) -> Any:
    """Give the JSON value of a table, for a worker."""
    return table  # tuples of texts, numbers and tuples


def from_json(value: Any) -> XTable:
    """Read what `to_json` gave."""
    name, chains = value
    return XTable(
        name,
        tuple(
            XChain(chain, tuple(map(_rule_from_json, rules)), is_built_in)
            for chain, rules, is_built_in in chains
        ),
    )


def _rule_from_json(value: Any) -> XRule:
    tests, target, options, is_goto, comment = value
    return XRule(
        tuple(Condition(*each) for each in tests),
        target,
        tuple((option, given) for option, given in options),
        is_goto,
        comment,
    )
