"""Every single change of our rules in the kernel is found, by our decoder and by another one.

One mutation at a time, of each kind, of each rule, set, chain, timeout, route and routing rule of
configurations that use everything. It goes into the kernel as a whole table; what is read back
must differ from what is desired. The other decoder looks at every tenth.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from istio_hostagent.host import nftables, routing, secondread
from istio_hostagent.redirect import drift, expressions, model, policy
from tests.golden.test_rules import CASES, FACTS, redirection_of
from tests.netns.rig import Rig

CONFIGURATIONS = ("standard", "names", "owners", "interfaces", "classic", "tproxy")
EVERY = 10


class Mutation(NamedTuple):
    """What was done, and the tables that come of it."""

    kind: str
    where: str
    table: model.TableState


def desired_of(name: str) -> model.Ruleset:
    return policy.build_ruleset(redirection_of(CASES / f"{name}.env"), FACTS)


def mutations(desired: model.Ruleset) -> Iterator[Mutation]:
    for table in desired.tables:
        state = expressions.compile_table(table, model.Owner.NOBODY)
        for number, chain in enumerate(state.chains):

            def with_chain(
                changed: model.ChainState,
                state: model.TableState = state,
                number: int = number,
            ) -> model.TableState:
                chains = (*state.chains[:number], changed, *state.chains[number + 1 :])
                return state._replace(chains=chains)

            where = f"{table.name} {chain.name}"
            for kind, rules in _of_rules(chain.rules):
                yield Mutation(kind, where, with_chain(chain._replace(rules=rules)))
            if chain.hook is not None:
                for kind, hook in _of_hook(chain.hook):
                    yield Mutation(kind, where, with_chain(chain._replace(hook=hook)))
        for number, each in enumerate(state.sets):
            for kind, changed in _of_set(each):
                sets = (*state.sets[:number], changed, *state.sets[number + 1 :])
                where = f"{table.name} {each.name}"
                yield Mutation(kind, where, state._replace(sets=sets))
        for number, timeout in enumerate(state.timeouts):
            other = timeout._replace(seconds=(("close", 7), ("syn_sent", 1)))
            timeouts = (*state.timeouts[:number], other, *state.timeouts[number + 1 :])
            yield Mutation("timeout changed", table.name, state._replace(timeouts=timeouts))


Rules = tuple[model.RuleState, ...]


def _of_rules(rules: Rules) -> Iterator[tuple[str, Rules]]:
    for at, rule in enumerate(rules):
        before, after = rules[:at], rules[at + 1 :]
        yield "rule deleted", (*before, *after)
        yield "rule duplicated", (*before, rule, rule, *after)
        if after and after[0] != rule:
            yield "rules swapped", (*before, after[0], rule, *after[1:])
        for kind, changed in _of_rule(rule):
            yield kind, (*before, changed, *after)
    yield "rule added", (*rules, model.RuleState(_verdict(expressions.ACCEPT)))
    yield "rule added in front", (model.RuleState(_verdict(expressions.RETURN)), *rules)


def _verdict(code: int) -> tuple[model.Expr, ...]:
    return (model.Expr("immediate", (("dreg", 0), ("verdict", code))),)


def _of_rule(rule: model.RuleState) -> Iterator[tuple[str, model.RuleState]]:
    for at, expression in enumerate(rule.expressions):
        values = dict(expression.attributes)
        changed = None
        if expression.name == "cmp":
            data = bytes(values["data"])  # type: ignore[arg-type] # bytes in every cmp
            flipped = data[:-1] + bytes((data[-1] ^ 1,))
            changed = {**values, "data": flipped}
            inverted = {**values, "op": 1 - int(values["op"])}
            yield "condition inverted", _with(rule, at, inverted)
        elif expression.name == "immediate" and "verdict" in values:
            is_drop = values["verdict"] == expressions.DROP
            changed = {"dreg": 0, "verdict": expressions.ACCEPT if is_drop else expressions.DROP}
        elif expression.name == "immediate":
            data = bytes(values["data"])  # type: ignore[arg-type]
            changed = {**values, "data": data[:-1] + bytes((data[-1] ^ 1,))}
        elif expression.name == "lookup":
            changed = {**values, "flags": expressions.LOOKUP_INVERTED}
        if changed is not None:
            yield f"{expression.name} changed", _with(rule, at, changed)


def _with(rule: model.RuleState, at: int, values: dict[str, int | str | bytes]) -> model.RuleState:
    expression = rule.expressions[at]._replace(attributes=tuple(values.items()))
    made = (*rule.expressions[:at], expression, *rule.expressions[at + 1 :])
    return rule._replace(expressions=made)


def _of_hook(hook: model.Hook) -> Iterator[tuple[str, model.Hook]]:
    yield "priority changed", hook._replace(priority=hook.priority + 1)
    yield "policy changed", hook._replace(policy=1 - hook.policy)


def _of_set(each: model.NamedSet) -> Iterator[tuple[str, model.NamedSet]]:
    found = list(each.ranges)
    kind = model.SetKind(each.kind)

    def of(ranges: list[tuple[int, int]]) -> model.NamedSet:
        return model.make_set(each.name, kind, ranges)

    for at, (first, last) in enumerate(found):
        yield "element deleted", of([*found[:at], *found[at + 1 :]])
        if last > first:
            yield "element shortened", of([*found[:at], (first, last - 1), *found[at + 1 :]])
    limit = 1 << (8 * each.ranges.width)
    taken = {value + by for pair in found for value in pair for by in (-1, 0, 1)}
    gaps = (last + 2 for _, last in found)
    gap = next(g for g in gaps if g < limit and g not in taken and not _is_in(g, found))
    yield "element added", of(sorted([*found, (gap, gap)]))


def _is_in(value: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= value <= last for first, last in ranges)


@pytest.fixture
def kernel(rig: Rig) -> Iterator[nftables.NftKernel]:
    with rig.kernel() as made:
        yield made
        rig.apply(made, model.Ruleset())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_change_of_a_rule_set_chain_or_timeout_is_found(
    rig: Rig, kernel: nftables.NftKernel, name: str
) -> None:
    desired = desired_of(name)
    rig.apply(kernel, desired)
    found: dict[str, int] = {}
    missed: list[str] = []

    def try_all() -> None:
        for number, (kind, where, table) in enumerate(mutations(desired)):
            observed = kernel.observe()
            kernel.apply(model.Plan(write=(table,), observed=observed))
            seen = kernel.observe()
            found[kind] = found.get(kind, 0) + 1
            if not drift.find_drift(desired, seen):
                missed.append(f"{kind} in {where}")
            if number % EVERY == 0:
                others = secondread.observe((model.PASSTHROUGH_ADDRESS,))
                if not drift.find_drift(desired, others):
                    missed.append(f"{kind} in {where} by the other decoder")
            (as_was,) = (t for t in desired.tables if t.name == table.name)
            state = expressions.compile_table(as_was, model.Owner.NOBODY)
            kernel.apply(model.Plan(write=(state,), observed=seen))

    rig.host.inside(try_all)
    assert missed == []
    assert drift.find_drift(desired, rig.observe(kernel)) == ()
    assert len(found) >= 8, found
    print(f"{name}: {sum(found.values())} mutations, all found: {found}")


Change = Callable[[Rig], object]
OF_ROUTING: dict[str, Change] = {
    "rule deleted": lambda rig: rig.host.ip("rule", "del", "fwmark", "32", "lookup", "133"),
    "rule of IPv6 deleted": lambda rig: rig.host.ip("-6", "rule", "del", "priority", "137"),
    "route deleted": lambda rig: rig.host.ip("route", "flush", "table", "133"),
    "route of IPv6 deleted": lambda rig: rig.host.ip("-6", "route", "flush", "table", "133"),
    "address deleted": lambda rig: rig.host.ip("-6", "address", "del", "::6/128", "dev", "lo"),
    "rule of another priority": lambda rig: (
        rig.host.ip("rule", "del", "priority", "137"),
        rig.host.ip(
            *("rule", "add", "fwmark", "32", "lookup", "133"),
            *("priority", "9000", "protocol", "137"),
        ),
    ),
    "rule of another mask": lambda rig: (
        rig.host.ip("rule", "del", "priority", "137"),
        rig.host.ip(
            *("rule", "add", "fwmark", "32/0xff", "lookup", "133"),
            *("priority", "137", "protocol", "137"),
        ),
    ),
    "rule added": lambda rig: rig.host.ip(
        *("rule", "add", "fwmark", "33", "lookup", "134"),
        *("priority", "137", "protocol", "137"),
    ),
}


@pytest.mark.parametrize("kind", OF_ROUTING)
def test_every_change_of_routes_is_found(rig: Rig, kernel: nftables.NftKernel, kind: str) -> None:
    desired = desired_of("tproxy")
    rig.apply(kernel, desired)
    assert rig.host.inside(routing.observe) == desired.routing
    OF_ROUTING[kind](rig)
    assert drift.find_drift(desired, rig.observe(kernel))
    others = rig.host.inside(lambda: secondread.observe((model.PASSTHROUGH_ADDRESS,)))
    assert drift.find_drift(desired, others)
    # And it is mended.
    rig.apply(kernel, desired)
    assert drift.find_drift(desired, rig.observe(kernel)) == ()
