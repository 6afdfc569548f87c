"""How the benchmark judges and prints: figures, verdicts, the table, the exit status."""

import pytest

from tests.bench import (
    budgets,
    connections,
    escapes,
    hang,
    installs,
    joining,
    networks,
    rows,
    secretserver,
    steady,
    storm,
    table,
    together,
    verbs,
)
from tests.bench.budgets import Budget, above, at_most, times
from tests.bench.rows import Missing, Row, Samples, make_result

QUICK = Budget("quick thing", "ms", at_most(10.0))
HALF = Budget("half of it", "ms", times(0.5, "peer"))


def test_a_figure_is_the_median_and_not_moved_by_one_slow_round() -> None:
    assert Samples((9.0, 1.0, 500.0)).median == 9.0
    assert Samples((4.0, 1.0, 2.0, 100.0)).median == 3.0
    assert Samples((7.0,)).median == 7.0


def test_a_percentile_is_a_sample_that_was_seen() -> None:
    samples = Samples(tuple(float(number) for number in range(200, 0, -1)))
    assert samples.percentile(99.0) == 198.0
    assert samples.percentile(100.0) == 200.0
    # With 51 samples 99 % of them are all of them.
    assert Samples((*[1.0] * 50, 30.0)).percentile(99.0) == 30.0


def test_no_samples_are_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        make_result([])


def test_a_budget_is_met_up_to_its_limit() -> None:
    assert Row(QUICK, make_result([10.0])).verdict == "met"
    assert Row(QUICK, make_result([10.01])).verdict == "NOT met"
    assert Row(Budget("for comparison", "ms"), make_result([1.0])).verdict == ""
    assert Row(QUICK, Missing("no Envoy")).verdict == "not measured: no Envoy"


def test_a_ratio_is_held_against_its_peer_and_no_other() -> None:
    def verdict(budget: Budget, ours: float) -> str:
        return Row(budget, make_result([ours], {"slow": [99.0], "peer": [8.0, 4.0, 1.0]})).verdict

    assert verdict(HALF, 2.0) == "met"
    assert verdict(HALF, 2.01) == "NOT met"
    more = Budget("a little more", "MB", above(12.0, "peer"))
    assert verdict(more, 16.0) == "met"
    assert verdict(more, 16.01) == "NOT met"


def test_a_ratio_without_its_peer_is_not_judged() -> None:
    assert Row(HALF, make_result([1.0], {"peer": Missing("not built")})).verdict == "not judged"
    assert Row(HALF, make_result([1.0], {"other": [9.0]})).verdict == "not judged"


def test_a_budget_of_a_percentile_is_held_against_that_and_not_the_median() -> None:
    slow_at_times = make_result([*[5.0] * 50, 30.0])
    assert Row(QUICK, slow_at_times).verdict == "met"
    assert Row(Budget("the same", "ms", at_most(10.0), 99.0), slow_at_times).verdict == "NOT met"


def test_a_ratio_is_that_of_the_medians_of_the_same_run() -> None:
    row = Row(HALF, make_result([1.0, 2.0, 90.0], {"peer": [8.0, 4.0, 1.0]}))
    assert row.ratio(row.peer) == 0.5
    assert row.ratio(Samples((0.0,))) is None


def test_the_exit_status_blames_what_is_unknown_and_not_what_is_slow() -> None:
    slow = Row(QUICK, make_result([99.0]))
    assert rows.exit_status([slow]) == 0
    assert rows.exit_status([slow, Row(QUICK, Missing("no Envoy"))]) == 1
    assert rows.exit_status([Row(HALF, make_result([1.0], {"peer": Missing("not built")}))]) == 1


def test_what_belongs_elsewhere_is_printed_and_nobodys_fault() -> None:
    elsewhere = Budget("a machine's boot", "s", at_most(1.0), elsewhere="needs a machine")
    judged = rows.make_rows({"boot": elsewhere}, {})
    assert "not measured here: needs a machine" in table.render(judged)
    assert rows.exit_status(judged) == 0


def test_a_row_that_no_measurement_gave_is_not_left_out() -> None:
    judged = rows.make_rows({"quick": QUICK, "half": HALF}, {"quick": make_result([1.0])})
    assert [row.verdict for row in judged] == ["met", "not measured: no measurement gave it"]


def test_the_table_shows_budget_figure_peer_ratio_and_reason() -> None:
    peers = {"peer": [12.0], "slow one": [48.0]}
    measured = Row(HALF, make_result([5.0, 6.0, 7.5], peers, ["a note"]))
    rendered = table.render([measured, Row(QUICK, Missing("no Envoy"))])
    assert [" ".join(line.split()) for line in rendered.splitlines()[2:]] == [
        "half of it [1] <= 0.50 x 6.00 ms 5.00 - 7.50 0.50 x met",
        "peer: peer 12.0 ms 12.0 - 12.0",
        "beside: slow one 48.0 ms 48.0 - 48.0 0.12 x",
        "quick thing <= 10 not measured: no Envoy",
        "[1] a note",
        "budgets: 1 met, 0 not met; rows: 1 not measured or not judged, 0 not measured here",
    ]


def test_a_peer_that_is_not_there_is_named_with_the_reason() -> None:
    row = Row(HALF, make_result([5.0], {"peer": Missing("not built")}))
    lines = table.render([row]).splitlines()
    assert lines[2].endswith("not judged")
    assert lines[3].split()[:2] == ["peer:", "peer"]
    assert lines[3].endswith("not measured: not built")


def test_one_reason_for_several_rows_is_told_once() -> None:
    rendered = table.render([Row(QUICK, Missing("no Envoy")), Row(QUICK, Missing("no Envoy"))])
    assert rendered.count("no Envoy") == 1
    assert rendered.splitlines()[3].endswith("not measured, as above")


@pytest.mark.parametrize("key", ["rss", "rss-large"])
def test_the_memory_budget_is_that_of_the_release(key: str) -> None:
    def limit(release: str) -> float:
        found = budgets.find_budget(key, release).limit
        assert found is not None
        return found.value(0.0)

    assert [limit(release) for release in ("12", "13", "")] == [20.0, 22.0, 20.0]


def test_every_row_is_measured_by_one_part_or_belongs_elsewhere() -> None:
    parts = (
        connections,
        escapes,
        hang,
        joining,
        networks,
        secretserver,
        steady,
        storm,
        together,
        verbs,
    )
    measured = [key for part in parts for key in part.KEYS]
    measured += installs.STANDARD_KEYS
    assert len(measured) == len(set(measured))
    elsewhere = {key for key, budget in budgets.BUDGETS.items() if budget.elsewhere}
    assert set(measured) == set(budgets.BUDGETS) - elsewhere
