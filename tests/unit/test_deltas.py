"""Sets whose content changes a little stay, and only elements come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config.model import Redirection
from istio_hostagent.config.packed import pack
from istio_hostagent.host import transactions
from istio_hostagent.host.nfnetlink import elements
from istio_hostagent.redirect import deltas, drift, expressions, model, plan, policy
from tests.fakes.kernel import FakeKernel
from tests.unit.samples import FACTS, cidrs

# Two sets of values for each table, and one of intervals.
HASHED = [f"10.{i // 128}.{i % 128 * 2}.0/24" for i in range(1100)]
WIDE = [f"172.{16 + i // 64}.{i % 64 * 4}.0/23" for i in range(200)]
SINGLE = [f"192.168.{i // 100}.{i % 100 * 2}/32" for i in range(300)]
FEW = ["10.96.0.0/12", "172.20.0.0/16"]


def ruleset(*networks: str, **others: object) -> model.Ruleset:
    redirection = Redirection(outbound=cidrs(*networks))._replace(**others)  # type: ignore[arg-type]
    return policy.build_ruleset(redirection, FACTS)


def changes(before: model.Ruleset, after: model.Ruleset) -> tuple[list[str], FakeKernel]:
    """The transactions, in words without names of chains, from the one to the other."""
    kernel = FakeKernel()
    kernel.apply(plan.make_plan(before, kernel.observe(), owned=False))
    observed = kernel.observe()
    planned = plan.make_plan(after, observed, owned=False)
    there = {table.name: table for table in observed.tables}
    for table in planned.write:
        assert transactions.is_changeable(table, there[table.name])
    parts = [
        *transactions.prepare(planned.write, there),
        *transactions.switch(planned.write, planned.delete, there),
    ]
    kernel.apply(planned)
    assert drift.find_drift(after, kernel.observe()) == ()
    assert not plan.make_plan(after, kernel.observe(), owned=False)
    return [part.step for part in parts], kernel


@pytest.mark.parametrize(
    ("networks", "more"),
    [
        (HASHED, "10.200.0.0/24"),
        (HASHED, "10.0.1.0/24"),  # between two others, both of which it touches
        (HASHED + WIDE, "172.30.0.0/23"),
        (SINGLE, "192.168.200.7/32"),
    ],
    ids=["hash", "hash-neighbour", "intervals", "addresses"],
)
def test_one_network_more_or_less_is_one_element(networks: list[str], more: str) -> None:
    one, other = ruleset(*networks), ruleset(*networks, more)
    added, _ = changes(one, other)
    assert [step.partition(".")[0].split()[:2] for step in added] == [["fill", "set"]] * 2
    removed, _ = changes(other, one)
    assert [step.split()[:4] for step in removed] == [["take", "elements", "out", "of"]] * 2


def test_the_message_holds_that_element_alone() -> None:
    """Without its name an element of an IPv4 network takes 20 bytes, 24 with an end."""
    named = model.make_set("some", model.SetKind.IPV4_VALUES, ((1, 1),))
    for found in (elements.new_elements("t", named, 0), elements.delete_elements("t", named)):
        (part,) = found
        assert len(part.body) < 60


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FEW, [*FEW, "192.168.0.0/16"]),  # few: another set costs nothing
        (SINGLE, [*SINGLE, "192.168.0.3/32"]),  # two ranges and what is between become one
        (HASHED[:1024], HASHED[:1023]),  # not by hash any more
        (SINGLE, SINGLE[:200]),  # much at once
    ],
    ids=["few", "wider", "other-rules", "much"],
)
def test_everything_else_is_another_set(before: list[str], after: list[str]) -> None:
    steps, _ = changes(ruleset(*before), ruleset(*after))
    assert any(step.startswith("create set istio_hostagent") for step in steps)
    assert not any(step.startswith("take elements") for step in steps)


def test_people_read_a_network_with_its_length() -> None:
    kernel = FakeKernel()
    one, other = ruleset(*HASHED), ruleset(*HASHED, "10.200.0.0/24")
    kernel.apply(plan.make_plan(one, kernel.observe(), owned=False))
    planned = plan.make_plan(other, kernel.observe(), owned=False)
    assert "+  10.200.0.0/24" in plan.describe(planned)
    (change, _) = plan.list_changes(planned)
    assert change.added.first == ("10.200.0.0/24",)
    (found, _) = drift.find_drift(other, kernel.observe())
    assert str(found).endswith("missing: 10.200.0.0/24")


def test_where_rules_change_no_set_does() -> None:
    """Rules are switched a moment before elements."""
    steps, _ = changes(
        ruleset(*HASHED), ruleset(*HASHED, "10.200.0.0/24", outbound_capture_port=9)
    )
    sets = [step.split(".")[0] for step in steps if step.startswith("create set")]
    assert sets == [
        "create set istio_hostagent outbound_v4_24",
        "create set istio_guard outbound_v4_24",
    ]


def test_what_fits_no_more_is_another_set() -> None:
    networks = list(HASHED)
    desired = ruleset(*networks)
    kernel = FakeKernel()
    made = 0
    for number in range(60):
        networks += [f"11.{number}.{i * 2}.0/24" for i in range(20)]
        desired = ruleset(*networks)
        names = set_names(kernel)
        kernel.apply(plan.make_plan(desired, kernel.observe(), owned=False))
        for table in kernel.observe().tables:
            assert all(not each.room or len(each.ranges) <= each.room for each in table.sets)
        made += set_names(kernel) != names
        assert drift.find_drift(desired, kernel.observe()) == ()
    assert 2 <= made <= 10


def set_names(kernel: FakeKernel) -> list[str]:
    return [each.name for table in kernel.observe().tables for each in table.sets]


def test_a_set_that_was_filled_and_not_switched_to_is_taken_or_goes() -> None:
    one, other = ruleset(*HASHED), ruleset(*HASHED, *WIDE)
    for desired in (one, other):
        states = [expressions.compile_table(each, model.Owner.NOBODY) for each in other.tables]
        here = [expressions.compile_table(each, model.Owner.NOBODY) for each in one.tables]
        both = [
            table._replace(
                sets=tuple(sorted({*table.sets, *state.sets}, key=lambda each: each.name))
            )
            for table, state in zip(here, states, strict=True)
        ]
        kernel = FakeKernel()
        kernel.apply(model.Plan(write=tuple(both), add_addresses=one.loopback_addresses))
        kernel.apply(plan.make_plan(desired, kernel.observe(), owned=False))
        assert drift.find_drift(desired, kernel.observe()) == ()
        for table, state in zip(kernel.observe().tables, desired.tables, strict=True):
            assert len(table.sets) == len(
                next(t for t in desired.tables if t.name == table.name).sets
            )
            assert state.name in {each.name for each in desired.tables}


choices = st.lists(st.integers(0, 299), max_size=20, unique=True)


@given(st.lists(choices, min_size=1, max_size=5))
def test_whatever_comes_and_goes_the_kernel_has_what_is_wanted(steps: list[list[int]]) -> None:
    kernel = FakeKernel()
    for left_out in [[], *steps]:
        desired = ruleset(
            *(each for i, each in enumerate(SINGLE) if i not in left_out), *HASHED[:9]
        )
        before = kernel.observe()
        kernel.apply(plan.make_plan(desired, before, owned=False))
        assert drift.find_drift(desired, kernel.observe()) == ()
        assert not plan.make_plan(desired, kernel.observe(), owned=False)
        if before.tables:
            back = plan.make_return(before, kernel.observe())
            kernel.apply(back)
            assert kernel.observe() == before
            kernel.apply(plan.make_plan(desired, before, owned=False))


def test_a_range_that_becomes_wider_is_not_changed_in_place() -> None:
    found = [(i * 8, i * 8 + 3) for i in range(100)]
    there = model.make_set("some.1", model.SetKind.IPV4, found)
    wider = model.make_set("some.2", model.SetKind.IPV4, [(0, 5), *found[1:]])
    fewer = model.make_set("some.2", model.SetKind.IPV4, found[1:])
    assert deltas.find(there, wider) is None
    assert deltas.find(there, fewer) is not None


@pytest.mark.parametrize(("count", "is_cut"), [(10_000, False), (40_000, True)])
def test_only_very_much_is_prepared_in_several_transactions(count: int, is_cut: bool) -> None:
    content = pack(4, ((i << 9, i << 9) for i in range(count)))
    one = model.NamedSet("some", model.SetKind.IPV4_VALUES.value, content)
    table = model.TableState("table", (one, one._replace(name="other")), ())
    found = list(transactions.portions(transactions.prepare([table], {})))
    assert (len(found) > 5) is is_cut
    assert (len(found) == 1) is not is_cut
    whole = [part for portion in found for part in portion]
    assert whole == list(transactions.prepare([table], {}))
