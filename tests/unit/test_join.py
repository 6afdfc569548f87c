"""The order of joining and staying: design invariants 1, 2 and 3 as decisions."""

import itertools
from dataclasses import replace

from istio_hostagent.agent.join import Check, Rules, Situation, Step, next_steps
from istio_hostagent.supervise.child import State

NOTHING = Situation(
    has_config=False,
    is_joined=False,
    is_attempting=False,
    is_attempt_due=True,
    is_attempt_over=False,
    has_binary=False,
    bootstrap=Check.UNKNOWN,
    is_validating=False,
    has_certificate=False,
    is_asking=False,
    is_certificate_due=True,
    rules=Rules.OUT,
    is_apply_due=True,
    is_proving=False,
    is_proof_due=True,
    is_proof_stale=False,
    is_proof_broken=False,
    proxy=State.IDLE,
    is_outdated=False,
)
COMPLETE = replace(
    NOTHING,
    has_config=True,
    has_binary=True,
    bootstrap=Check.GOOD,
    has_certificate=True,
    is_certificate_due=False,
)


def every_situation() -> "itertools.product[tuple[object, ...]]":
    booleans = [name for name in Situation.__dataclass_fields__ if name[:3] in ("is_", "has")]
    return itertools.product(
        *[[(name, value) for value in (False, True)] for name in booleans],
        [("bootstrap", value) for value in Check],
        [("rules", value) for value in Rules],
        [("proxy", value) for value in (State.IDLE, State.STARTING, State.READY, State.BACKOFF)],
    )


def test_nothing_happens_without_a_configuration() -> None:
    assert next_steps(NOTHING) == ()


def test_a_host_without_proxy_binary_asks_no_ca_and_changes_nothing() -> None:
    assert next_steps(replace(NOTHING, has_config=True)) == ()


def test_bootstrap_and_certificate_come_before_any_rule() -> None:
    now = replace(NOTHING, has_config=True, has_binary=True)
    assert set(next_steps(now)) == {Step.VALIDATE, Step.OBTAIN}


def test_the_whole_way_in() -> None:
    assert next_steps(COMPLETE) == (Step.APPLY,)
    installed = replace(COMPLETE, rules=Rules.IN)
    assert next_steps(installed) == (Step.PROVE,)
    proven = replace(COMPLETE, rules=Rules.PROVEN)
    assert next_steps(proven) == (Step.START,)
    starting = replace(proven, proxy=State.STARTING)
    assert next_steps(starting) == ()
    ready = replace(proven, proxy=State.READY)
    assert next_steps(ready) == (Step.MARK,)
    joined = replace(ready, is_joined=True)
    assert next_steps(joined) == ()
    assert joined.is_in_mesh


def test_rules_come_out_again_when_the_proxy_is_not_ready_in_time() -> None:
    late = replace(
        COMPLETE,
        is_attempting=True,
        rules=Rules.PROVEN,
        proxy=State.STARTING,
        is_attempt_over=True,
    )
    assert next_steps(late) == (Step.WITHDRAW,)


def test_rules_come_out_again_when_packets_refute_them_on_a_host_that_is_not_joined() -> None:
    refuted = replace(COMPLETE, is_attempting=True, rules=Rules.IN, is_proof_broken=True)
    assert next_steps(refuted) == (Step.WITHDRAW,)


def test_an_attempt_that_is_not_complete_any_more_is_taken_back() -> None:
    changed = replace(COMPLETE, is_attempting=True, has_certificate=False)
    assert next_steps(changed) == (Step.WITHDRAW,)
    withdrawn = replace(NOTHING, is_attempting=True)
    assert next_steps(withdrawn) == (Step.WITHDRAW,)


def test_a_joined_host_gets_its_rules_before_anything_else() -> None:
    booted = replace(NOTHING, has_config=True, is_joined=True, has_binary=True)
    assert next_steps(booted)[0] is Step.APPLY


def test_an_outdated_proxy_is_replaced_once_the_rules_are_proven() -> None:
    changed = replace(
        COMPLETE, is_joined=True, rules=Rules.IN, proxy=State.READY, is_outdated=True
    )
    assert next_steps(changed) == (Step.PROVE,)
    proven = replace(changed, rules=Rules.PROVEN)
    assert not proven.is_in_mesh
    assert next_steps(proven) == (Step.START,)


def test_an_attempt_waits_until_the_proxy_of_the_one_before_is_gone() -> None:
    assert next_steps(replace(COMPLETE, proxy=State.STOPPING)) == ()
    assert next_steps(replace(COMPLETE, proxy=State.REPLACING)) == ()


def test_a_joined_host_whose_proxy_binary_is_gone_keeps_its_rules() -> None:
    now = replace(COMPLETE, is_joined=True, has_binary=False, rules=Rules.PROVEN)
    assert Step.WITHDRAW not in next_steps(now)
    assert Step.START not in next_steps(now)


def test_no_situation_at_all_breaks_a_promise() -> None:
    for values in every_situation():
        now = Situation(**dict(values))  # type: ignore[arg-type] # built from its own fields
        steps = next_steps(now)
        if Step.START in steps:
            assert now.rules is Rules.PROVEN
            assert now.has_certificate
            assert now.bootstrap is Check.GOOD
        if Step.APPLY in steps:
            assert now.is_joined or now.is_complete
        if now.is_joined:
            assert Step.WITHDRAW not in steps
