"""How the benchmark judges and prints: figures, verdicts, the table, the exit status."""

import pytest

from tests.bench import budgets, rows, table
from tests.bench.budgets import Budget
from tests.bench.rows import Missing, Row, Samples, make_result

QUICK = Budget("quick thing", "ms", 10.0)


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


def test_a_budget_of_a_percentile_is_held_against_that_and_not_the_median() -> None:
    slow_at_times = make_result([*[5.0] * 50, 30.0])
    assert Row(QUICK, slow_at_times).verdict == "met"
    assert Row(Budget("the same", "ms", 10.0, 99.0), slow_at_times).verdict == "NOT met"


def test_a_ratio_is_that_of_the_medians_of_the_same_run() -> None:
    row = Row(QUICK, make_result([1.0, 2.0, 90.0], {"peer": [8.0, 4.0, 1.0]}))
    assert isinstance(row.outcome, rows.Result)
    assert row.ratio(row.outcome.peers["peer"]) == 0.5
    assert row.ratio(Samples((0.0,))) is None


def test_the_exit_status_blames_what_is_unknown_and_not_what_is_slow() -> None:
    slow = Row(QUICK, make_result([99.0]))
    assert rows.exit_status([slow]) == 0
    assert rows.exit_status([slow, Row(QUICK, Missing("no Envoy"))]) == 1


def test_the_table_shows_budget_figure_peer_ratio_and_reason() -> None:
    measured = Row(QUICK, make_result([5.0, 6.0, 7.5], {"slow peer": [12.0]}, ["a note"]))
    lines = table.render([measured, Row(QUICK, Missing("no Envoy"))]).splitlines()
    assert "quick thing [1]" in lines[2]
    assert lines[2].split()[3:] == ["<=", "10.0", "6.00", "ms", "5.00", "-", "7.50", "met"]
    assert "slow peer" in lines[3]
    assert lines[3].endswith("0.50 x")
    assert lines[4].endswith("not measured: no Envoy")
    assert lines[5] == "[1] a note"
    assert lines[6] == "budgets: 1 met, 0 not met; 1 rows not measured"


def test_one_reason_for_several_rows_is_told_once() -> None:
    rendered = table.render([Row(QUICK, Missing("no Envoy")), Row(QUICK, Missing("no Envoy"))])
    assert rendered.count("no Envoy") == 1
    assert rendered.splitlines()[3].endswith("not measured, as above")


def test_the_memory_budget_is_that_of_the_release() -> None:
    assert budgets.find_budget("rss", "12").limit == 20.0
    assert budgets.find_budget("rss", "13").limit == 22.0
    assert budgets.find_budget("rss", "").limit == 20.0
    assert budgets.find_budget("apply", "13").limit == 80.0
