"""The same rules for legacy tables (x_tables): which chains of which table they become.

Not here: what the rules say (`policy`), what becomes of one condition (`xtconditions`), how they
get into the kernel (`host.xtlibrary`). The policy is written down once, in the terms of nf_tables;
here each part gets what is equal to it:

- A base chain becomes rules at the head of a built-in chain. Filters before any translation are
  in `mangle` and `raw`. Only the table filter can reject, which comes behind the translation: what
  is rejected by its destination is told there by what was asked for.
- A set of ports becomes one rule for every 15 of them (multiport). A set of networks becomes one
  rule for each while they are few; else chains that lead to each by its leading bits
  (`xtnetworks`), so that a connection meets some dozens of rules and not ten thousand.
- x_tables cannot return from two chains at once. Where a rule with many networks returns, the rest
  of its chain goes into a chain of its own, which all that is not found goes on to.
- KEEP is NETMAP to all addresses: every address is mapped to itself, and that is final.
- TPROXY drops what no socket takes, so that nothing has to refuse it behind; and what a socket has
  already is not given to TPROXY, which would drop it unless that socket is a transparent one.
- Timeout policies have no equivalent (CT --timeout names an object of another program) and are
  left out, and so is what looks into the text of ICMP. The manual says what follows from that.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from . import model, xtconditions, xtnetworks
from .model import Action, Field, Rule
from .xtables import (
    MARK,
    SET_CHAIN,
    TABLES,
    Condition,
    Family,
    NotExpressible,
    XChain,
    XRule,
    XTable,
)

# How many networks a rule is written out for.
MOST_INLINE = 16
_HOOKS = {0: "PREROUTING", 1: "INPUT", 3: "OUTPUT"}
# NF_IP_PRI_RAW and NF_IP_PRI_FILTER
_RAW_PRIORITY, _FILTER_PRIORITY = -300, 0


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
        if not any(xtconditions.is_of(rule, self._family) for rule in rules):
            return
        head = self._heads.setdefault(where, [])
        # In a built-in chain a return would end it for everybody.
        if all(rule.verdict.action is Action.JUMP for rule in rules):
            for rule in rules:
                if xtconditions.is_of(rule, self._family):
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
            if is_chain and xtconditions.is_of(rule, self._family) and target not in self._chains:
                self._add_chain(target, chains[target].rules, sets)
                self._add_targets(chains[target].rules, chains, sets)

    def _add_chain(
        self, name: str, rules: Iterable[Rule], sets: Mapping[str, model.NamedSet]
    ) -> None:
        current = self._chains[name] = []
        parts = itertools.count(2)
        for rule in _that_decide(rules):
            if not xtconditions.is_of(rule, self._family):
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
            verdict = xtconditions.target_of(rule, self._family)._replace(tests=protocol)
            others = [each for each in alternatives if each is not large]
            if rule.verdict.action not in (Action.RETURN, Action.GOTO):
                root = self._add_tree([each[0] for each in large], verdict, "")
                current += self._product(
                    others, XRule((), root, comment=xtconditions.comment_of(rule))
                )
                continue
            rest = f"{name}_{next(parts)}"
            root = self._add_tree([each[0] for each in large], verdict, rest)
            found = XRule((), root, is_goto=True, comment=xtconditions.comment_of(rule))
            current += self._product(others, found)
            current.append(XRule((), rest, is_goto=True, comment=MARK))
            current = self._chains[rest] = []

    def _inline(self, rule: Rule, alternatives: xtconditions.Alternatives) -> Iterator[XRule]:
        made = xtconditions.target_of(rule, self._family)
        return self._product(alternatives, made._replace(comment=xtconditions.comment_of(rule)))

    def _product(self, alternatives: xtconditions.Alternatives, made: XRule) -> Iterator[XRule]:
        for chosen in itertools.product(*alternatives):
            tests = sorted({test for each in chosen for test in each})
            yield made._replace(
                tests=tuple(sorted(xtconditions.without_twice(tests, self._family)))
            )

    def _add_tree(self, tests: Sequence[Condition], verdict: XRule, rest: str) -> str:
        """Chains that lead to one of many networks by its leading bits; gives the first one.

        What is not found goes on to the chain `rest`, or back to where it came from.
        """
        form = tests[0]
        networks = sorted(map(xtconditions.network_of, tests))
        return self._add_node(networks, form, verdict, rest)

    def _add_node(
        self, networks: Sequence[xtnetworks.Network], form: Condition, verdict: XRule, rest: str
    ) -> str:
        self._sets += 1
        name = f"{SET_CHAIN}{self._sets}"
        rules = self._chains[name] = []
        for group in xtnetworks.group(networks, self._family.bits):
            test = form._replace(value=xtconditions.written(group.prefix, self._family))
            if len(group.networks) == 1:
                rules.append(verdict._replace(tests=tuple(sorted((test, *verdict.tests)))))
            else:
                below = self._add_node(group.networks, form, verdict, rest)
                rules.append(XRule((test,), below, is_goto=True))
        if rest:
            rules.append(XRule((), rest, is_goto=True))
        return name

    def _tests_of(
        self, rule: Rule, sets: Mapping[str, model.NamedSet]
    ) -> xtconditions.Alternatives:
        """For each condition its alternatives, each a group of tests."""
        simple = list(xtconditions.protocol_of(rule))
        found: list[Sequence[tuple[Condition, ...]]] = []
        for match in rule.matches:
            alternatives = xtconditions.translate(match, self._family, sets)
            if len(alternatives) == 1:
                simple += alternatives[0]
            else:
                found.append(alternatives)
        return [(tuple(simple),), *found]
