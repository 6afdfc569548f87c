"""Plans and differences: functions of what is wanted and what is there."""

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config import packed
from istio_hostagent.config.model import Redirection, Transparent
from istio_hostagent.redirect import drift, exchange, expressions, model, plan, policy, ranges
from tests.fakes.kernel import FakeKernel
from tests.unit.samples import CASES, FACTS, STANDARD, cidrs

DESIRED = policy.build_ruleset(STANDARD, FACTS)
names = st.sampled_from(sorted(CASES))
# With routing, too.
KINDS = CASES | {"transparent": Redirection(inbound=STANDARD.inbound, transparent=Transparent())}
kinds = st.sampled_from(sorted(KINDS))


def installed(ruleset: model.Ruleset, owner: model.Owner = model.Owner.NOBODY) -> model.Observed:
    tables = (
        expressions.compile_table(t, owner if t.may_be_owned else model.Owner.NOBODY)
        for t in ruleset.tables
    )
    return model.Observed(
        tuple(sorted(tables, key=lambda table: table.name)),
        ruleset.loopback_addresses,
        routing=ruleset.routing,
    )


@given(names)
def test_equal_needs_no_plan(name: str) -> None:
    ruleset = policy.build_ruleset(CASES[name], FACTS)
    planned = plan.make_plan(ruleset, installed(ruleset), owned=False)
    assert not planned
    assert list(plan.describe(planned)) == []


@given(names, names, st.booleans())
def test_applying_a_plan_leads_from_anything_to_what_is_wanted(
    before: str, after: str, owned: bool
) -> None:
    kernel = FakeKernel(is_owner=owned)
    for name in (before, after):
        desired = policy.build_ruleset(CASES[name], FACTS)
        kernel.apply(plan.make_plan(desired, kernel.observe(), owned=owned))
        assert drift.find_drift(desired, kernel.observe()) == ()
        assert not plan.make_plan(desired, kernel.observe(), owned=owned)


@given(st.sampled_from(["", *sorted(KINDS)]), kinds)
def test_one_comes_back_from_anything_to_exactly_what_was_there(before: str, after: str) -> None:
    """Also by way of a file."""
    kernel = FakeKernel()
    there = model.Observed()
    for name in (before, after):
        there = exchange.from_json(json.loads(json.dumps(exchange.to_json(kernel.observe()))))
        assert plan.find_unreturnable(there) == ""
        if name:
            desired = policy.build_ruleset(KINDS[name], FACTS)
            kernel.apply(plan.make_plan(desired, kernel.observe(), owned=False))
    kernel.apply(plan.make_return(there, kernel.observe()))
    assert kernel.observe() == there
    assert not plan.make_return(there, kernel.observe())


def foreign_rule(table: model.TableState, *expressions: model.Expr) -> model.TableState:
    chain = table.chains[0]
    rule = model.RuleState(expressions)
    return table._replace(chains=(chain._replace(rules=(rule, *chain.rules)), *table.chains[1:]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t._replace(owner=model.Owner.OTHER), "belongs to another process"),
        (lambda t: t._replace(is_dormant=True), "is dormant"),
        (
            lambda t: t._replace(sets=(t.sets[0]._replace(kind="ether_addr"), *t.sets[1:])),
            "type ether_addr",
        ),
        (
            lambda t: t._replace(sets=(t.sets[0]._replace(name="__set0"), *t.sets[1:])),
            "set __set0",
        ),
        (
            lambda t: t._replace(timeouts=(model.Timeout("quota", (), 2),)),
            "quota: object of type 2",
        ),
        (lambda t: foreign_rule(t, model.Expr("?limit", ())), "chain ISTIO_ANSWER: [ ?limit"),
        (
            lambda t: foreign_rule(t, model.Expr("meta", (("?9", b""),))),
            "chain ISTIO_ANSWER: [ meta",
        ),
    ],
)
def test_what_could_not_be_made_again_is_named(
    change: Callable[[model.TableState], model.TableState], words: str
) -> None:
    there = installed(DESIRED)
    changed = [
        change(table) if table.name == model.MAIN_TABLE else table for table in there.tables
    ]
    assert words in plan.find_unreturnable(there._replace(tables=tuple(changed)))


def test_a_route_that_somebody_has_changed_could_not_be_made_again() -> None:
    changed = model.Routing("changed route", 4, 0, 133)
    there = model.Observed(routing=(changed,))
    assert plan.find_unreturnable(there) == f"changed route: {changed}"


def test_nothing_wanted_removes_everything() -> None:
    kernel = FakeKernel()
    kernel.apply(plan.make_plan(DESIRED, kernel.observe(), owned=False))
    assert kernel.observe() == installed(DESIRED)
    kernel.apply(plan.make_plan(model.Ruleset(), kernel.observe(), owned=False))
    assert kernel.observe() == model.Observed()


def test_an_equal_table_is_left_alone_when_the_other_one_differs() -> None:
    here = installed(DESIRED)
    guardless = model.Observed(
        tuple(t for t in here.tables if t.name != model.GUARD_TABLE), here.loopback_addresses
    )
    planned = plan.make_plan(DESIRED, guardless, owned=False)
    assert [table.name for table in planned.write] == [model.GUARD_TABLE]


def test_a_table_without_its_owner_is_taken_over() -> None:
    planned = plan.make_plan(DESIRED, installed(DESIRED), owned=True)
    assert [(t.name, t.owner) for t in planned.write] == [(model.MAIN_TABLE, model.Owner.WE)]
    assert "+owner we" in plan.describe(planned)


def test_a_table_of_the_running_agent_is_fine_for_a_single_look() -> None:
    assert not plan.make_plan(DESIRED, installed(DESIRED, model.Owner.OTHER), owned=False)


def test_the_lines_show_both_sides() -> None:
    other = policy.build_ruleset(
        Redirection(outbound=cidrs("10.96.0.0/12"), inbound=STANDARD.inbound), FACTS
    )
    lines = list(plan.describe(plan.make_plan(DESIRED, installed(other), owned=False)))
    assert " set outbound_v4" in lines
    assert "+  172.20.0.0/16" in lines
    assert not any("10.96.0.0/12" in line for line in lines)
    assert any(line.startswith("+  ip6 daddr @outbound_v6") for line in lines)


def test_a_large_set_does_not_fill_the_screen() -> None:
    many = policy.build_ruleset(
        Redirection(outbound=cidrs(*(f"10.{i}.0.0/24" for i in range(250)))), FACTS
    )
    lines = list(plan.describe(plan.make_plan(many, model.Observed(), owned=False)))
    assert "+  and 230 more" in lines


@given(kinds, kinds, st.booleans())
def test_programs_are_told_what_people_are_told(before: str, after: str, owned: bool) -> None:
    there = installed(policy.build_ruleset(KINDS[before], FACTS))
    planned = plan.make_plan(policy.build_ruleset(KINDS[after], FACTS), there, owned=owned)
    lines = [line for line in plan.describe(planned) if line[0] in "-+"]
    told = []
    for change in plan.list_changes(planned):
        sign = "+" if change.change == "add" else "-"
        if change.kind == "address":
            told.append(f"{sign}address {change.name} on lo")
        elif change.kind in ("rule", "route"):
            told.append(f"{sign}{change.name}")
        elif change.kind != "table":
            told += [f"-  {line}" for line in change.removed.first]
            told += [f"+  {line}" for line in change.added.first]
    shown = [line for line in lines if "owner" not in line and " more" not in line]
    # The elements of a large set are cut off sooner for people.
    assert set(shown) <= set(told)
    assert len(told) == len(shown) or any(" more" in line for line in lines)


def test_a_program_sees_both_states_of_each_part() -> None:
    other = policy.build_ruleset(
        Redirection(outbound=cidrs("10.96.0.0/12"), inbound=STANDARD.inbound), FACTS
    )
    found = list(plan.list_changes(plan.make_plan(DESIRED, installed(other), owned=False)))
    (changed,) = (
        each for each in found if each.name == "outbound_v4" and each.table == "istio_hostagent"
    )
    assert (changed.kind, changed.change) == ("set", "change")
    assert changed.before.first == ("10.96.0.0/12",)
    assert changed.added.first == ("172.20.0.0/16",)
    assert changed.after.first == ("10.96.0.0/12", "172.20.0.0/16")
    assert changed.removed.total == 0
    (added,) = (
        each for each in found if each.name == "outbound_v6" and each.table == "istio_hostagent"
    )
    assert (added.change, added.before.total) == ("add", 0)
    assert added.after == added.added


def test_a_program_sees_each_part_of_a_table_that_comes_and_goes() -> None:
    for planned, change, other in (
        (plan.make_plan(DESIRED, model.Observed(), owned=False), "add", "removed"),
        (plan.make_plan(model.Ruleset(), installed(DESIRED), owned=False), "remove", "added"),
    ):
        found = [each.to_json() for each in plan.list_changes(planned)]
        assert {each["change"] for each in found} == {change}
        assert {each["kind"] for each in found} == {
            "table",
            "chain",
            "set",
            "ct timeout",
            "address",
        }
        assert not any(each[f"{other}_count"] for each in found if each["kind"] != "table")


def test_of_a_large_set_a_program_gets_the_first_elements_and_the_number() -> None:
    many = policy.build_ruleset(
        Redirection(outbound=cidrs(*(f"10.{i // 256}.{i % 256}.0/25" for i in range(1023)))), FACTS
    )
    found = plan.list_changes(plan.make_plan(many, model.Observed(), owned=False))
    (large,) = (
        each for each in found if each.name == "outbound_v4" and each.table == "istio_hostagent"
    )
    assert (len(large.after.first), large.after.total) == (plan.MAX_LISTED, 1023)
    assert large.to_json()["added_count"] == 1023


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param(
            lambda t: t._replace(chains=t.chains[1:]),
            "table inet istio_hostagent chain ISTIO_ANSWER: missing: the chain",
            id="chain",
        ),
        pytest.param(
            lambda t: t._replace(sets=t.sets[1:]),
            "table inet istio_hostagent set inbound_ports.d289b26e: missing: the set",
            id="set",
        ),
        pytest.param(
            lambda t: t._replace(is_dormant=True),
            "table inet istio_hostagent: is dormant, must be active",
            id="dormant",
        ),
        pytest.param(
            lambda t: t._replace(
                sets=(t.sets[0]._replace(ranges=packed.pack(2, [(8081, 8081)])), *t.sets[1:])
            ),
            "table inet istio_hostagent set inbound_ports.d289b26e: missing: 8080, 9000-9100",
            id="element",
        ),
        pytest.param(
            lambda t: t._replace(timeouts=()),
            "table inet istio_hostagent ct timeout forgotten: missing:"
            " policy = { close : 0, syn_sent : 1 }",
            id="timeout",
        ),
        pytest.param(
            lambda t: t._replace(timeouts=(model.Timeout("forgotten", (("close", 9),)),)),
            "table inet istio_hostagent ct timeout forgotten: is policy = { close : 9 },"
            " must be policy = { close : 0, syn_sent : 1 }",
            id="other-timeout",
        ),
        pytest.param(
            lambda t: t._replace(timeouts=(*t.timeouts, model.Timeout("x", (), 1))),
            "table inet istio_hostagent ct timeout x: not ours: [ object of type 1 ]",
            id="foreign-object",
        ),
    ],
)
def test_a_difference_says_what_and_where(change: object, line: str) -> None:
    assert callable(change)
    here = installed(DESIRED)
    tables = tuple(change(t) if t.name == model.MAIN_TABLE else t for t in here.tables)
    found = drift.find_drift(DESIRED, model.Observed(tables, here.loopback_addresses))
    assert line in [str(each) for each in found]


def test_every_single_rule_changed_moved_or_gone_is_a_difference() -> None:
    here = installed(DESIRED)
    seen = 0
    for t_index, table in enumerate(here.tables):
        for c_index, chain in enumerate(table.chains):
            for r_index, rule in enumerate(chain.rules):
                others = [
                    chain.rules[:r_index] + chain.rules[r_index + 1 :],
                    (*chain.rules[:r_index], rule, *chain.rules[r_index:]),
                    (
                        *chain.rules[:r_index],
                        rule._replace(expressions=rule.expressions[1:]),
                        *chain.rules[r_index + 1 :],
                    ),
                ]
                for rules in others:
                    chains = list(table.chains)
                    chains[c_index] = chain._replace(rules=rules)
                    tables = list(here.tables)
                    tables[t_index] = table._replace(chains=tuple(chains))
                    changed = model.Observed(tuple(tables), here.loopback_addresses)
                    assert drift.find_drift(DESIRED, changed), (table.name, chain.name, r_index)
                    assert plan.make_plan(DESIRED, changed, owned=False)
                    seen += 1
    assert seen > 60


def test_tables_and_addresses_nobody_wants_are_differences() -> None:
    found = [str(each) for each in drift.find_drift(model.Ruleset(), installed(DESIRED))]
    assert "table inet istio_guard: not ours: the table" in found
    assert "interface lo: not ours: address ::6/128" in found


@given(names)
def test_what_a_worker_hands_over_is_what_it_saw(name: str) -> None:
    here = installed(policy.build_ruleset(CASES[name], FACTS))
    assert exchange.from_json(exchange.to_json(here)) == here


@pytest.mark.parametrize("wrong", [None, [], {}, {"tables": 3, "loopback_addresses": []}, "x"])
def test_a_wrong_answer_of_a_worker_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="not an observation"):
        exchange.from_json(wrong)


pairs = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=8).map(
    lambda found: [(first, first + length) for first, length in found]
)


@given(pairs, pairs)
def test_ranges_behave_like_sets_of_numbers(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    def members(found: object) -> set[int]:
        assert isinstance(found, tuple | list)
        return {value for first, last in found for value in range(first, last + 1)}

    a, b = ranges.merge(one), ranges.merge(two)
    assert members(a) == members(one)
    assert all(low[1] + 1 < high[0] for low, high in itertools.pairwise(a))
    assert members(ranges.subtract(a, b)) == members(a) - members(b)
    assert members(ranges.intersect(a, b)) == members(a) & members(b)
    assert all(ranges.contains(a, value) is (value in members(a)) for value in range(80))
    assert list(ranges.without(a, b)) == [each for each in a if each not in b]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_blocks_cover_exactly_their_range(one: int, two: int) -> None:
    first, last = min(one, two), max(one, two)
    blocks = ranges.to_cidrs(first, last, 32)
    position = first
    for start, length in blocks:
        assert start == position
        position += 1 << (32 - length)
    assert position == last + 1
