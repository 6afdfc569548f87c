"""The checks catch mistakes: rows of the tables are dropped or lead elsewhere, and something fails.

A mutant counts as caught if the exploration, its checks or the table's own tests fail. `make soak`
tries all mutants, `make test` a few.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from istio_hostagent.lifecycle import phase
from istio_hostagent.supervise import child
from tests.lab import soak
from tests.unit import test_child, test_phase

from . import test_graph
from .explore import explore

pytestmark = pytest.mark.soak
SEED = 7
WANTED = 0.95


def mutants() -> list[tuple[str, dict[Any, Any], Any, Any]]:
    """(name, table, key, the row instead; None: no row)."""
    found: list[tuple[str, dict[Any, Any], Any, Any]] = []
    pick = random.Random(SEED)
    for key, target in phase.TRANSITIONS.items():
        other = pick.choice([each for each in phase.Phase if each is not target])
        found.append((f"{key} dropped", phase.TRANSITIONS, key, None))
        found.append((f"{key} to {other}", phase.TRANSITIONS, key, other))
    for pair, step in child.TRANSITIONS.items():
        state = pick.choice([each for each in child.State if each is not step.state])
        found.append((f"{pair} dropped", child.TRANSITIONS, pair, None))
        found.append(
            (f"{pair} to {state}", child.TRANSITIONS, pair, child.Step(state, step.action))
        )
    pick.shuffle(found)
    return found


def complaints() -> Iterator[None]:
    """Run every check; the first that fails raises."""
    test_child.test_every_pair_has_a_decision()
    for pair in child.TRANSITIONS:
        test_child.test_a_process_is_spawned_exactly_where_there_is_none(pair)
        test_child.test_what_an_event_says_is_where_it_leads(pair)
    for state in child.State:
        test_child.test_stop_ends_in_idle_and_stays_there(state)
    for state in (child.State.STARTING, child.State.READY):
        test_child.test_process_that_says_no_is_not_ended(state)
        test_child.test_process_that_hangs_is_killed_and_started_again(state)
    test_child.test_crash_waits_before_the_next_start()
    test_child.test_process_that_ignores_sigterm_is_killed()
    test_child.test_start_during_a_stop_starts_again_after_it()
    test_phase.test_a_turn_leads_to_one_phase_wherever_it_is_taken()
    test_phase.test_a_turn_is_taken_only_where_it_means_something()
    yield
    graph = explore(test_graph.starts(is_owner=False), test_graph.check, faults=1)
    for test in (
        test_graph.test_no_state_breaks_an_invariant,
        test_graph.test_the_agent_never_waits_for_nothing,
        test_graph.test_from_everywhere_a_host_with_good_files_comes_into_the_mesh,
        test_graph.test_every_phase_and_every_step_is_reached,
    ):
        test(graph)
        yield


def is_caught() -> bool:
    try:
        for _ in complaints():
            pass
    except (AssertionError, KeyError):
        return True
    return False


def test_mutants_of_the_tables_are_caught(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    tried = mutants()[: soak.times(3, 10_000)]
    missed = []
    for name, table, key, row in tried:
        with monkeypatch.context() as patch:
            if row is None:
                patch.delitem(table, key)
            else:
                patch.setitem(table, key, row)
            if not is_caught():
                missed.append(name)
    record_property(
        soak.FIGURE,
        f"mutants: {len(tried) - len(missed)} of {len(tried)} caught; missed: {missed}",
    )
    assert len(missed) <= (1 - WANTED) * len(tried)
