"""Single decisions by name; that none is wrong anywhere is shown by tests/lifecycle."""

import pytest

from istio_hostagent.identity import rotation as rotations
from istio_hostagent.lifecycle import decide
from istio_hostagent.lifecycle import life as lives
from istio_hostagent.lifecycle import serving as servings
from istio_hostagent.lifecycle.life import Disk, Life
from istio_hostagent.lifecycle.phase import Phase
from istio_hostagent.lifecycle.redirection import Redirection, Rules
from istio_hostagent.lifecycle.situation import Now, Situation
from istio_hostagent.lifecycle.steps import LEAVE_TRIES, Step
from istio_hostagent.supervise import child as children
from istio_hostagent.supervise import validation as validations
from tests.lifecycle.world import EMPTY, OFFERS, A, B

NOW = Now(1000.0, 50_000.0)
LATER = Now(1031.0, 50_031.0)
HELD = rotations.Rotation(
    is_configured=True,
    held=rotations.Report("spiffe://a", "1", 0.0, 90_000.0, 0.0),
    has_looked=True,
    next_at=60_000.0,
)
READY = children.Child(state=children.State.READY, ready_at=900.0, patience_at=930.0)
WHOLE = Situation(
    redirection=Redirection(desired="A", rules=Rules.PROVEN),
    rotation=HELD,
    child=READY,
    validation=validations.passed(),
    has_program=True,
)
OUT = WHOLE._replace(redirection=Redirection(desired="A", is_removed=True))
DISK = Disk(is_joined=True, has_guard=True, guard="A", accepted=A)


def begun(disk: Disk, offer: lives.Offer) -> Life:
    """A start, and the files read."""
    return lives.offered(lives.begin(disk), offer)


JOINED = begun(DISK, OFFERS["A"])._replace(in_force=A, told=A, told_identity=A, has_released=True)


def step(life: Life, now_is: Situation, now: Now = NOW) -> Step | None:
    return decide.advance(life, now_is, now)[1]


def after(life: Life, now_is: Situation, now: Now = NOW) -> Life:
    return decide.advance(life, now_is, now)[0]


def test_a_whole_host_waits() -> None:
    assert step(JOINED, WHOLE) is None
    assert JOINED.is_in_mesh(WHOLE, NOW)


def test_nothing_happens_without_a_configuration() -> None:
    assert step(begun(Disk(), EMPTY), Situation(has_program=True)) is None


def test_bootstrap_and_certificate_come_before_any_rule() -> None:
    life = begun(Disk(), OFFERS["A"])._replace(in_force=A, told=A, told_identity=A)
    now_is = Situation(has_program=True, rotation=rotations.configured())
    assert step(life, now_is) is Step.VALIDATE
    now_is = now_is._replace(validation=validations.passed())
    assert step(life, now_is) is Step.OBTAIN
    now_is = now_is._replace(rotation=HELD)
    assert step(life, now_is) is Step.MARK_ATTEMPT


def test_a_host_without_any_proxy_asks_no_ca_and_changes_nothing() -> None:
    life = begun(Disk(), OFFERS["A"])._replace(in_force=A, told=A, told_identity=A)
    assert step(life, Situation(rotation=rotations.configured())) is None


def test_a_joined_host_gets_its_rules_before_anything_else() -> None:
    booted = begun(DISK, OFFERS["A"])
    now_is = Situation(has_program=True)
    life = after(booted, now_is)
    told = life._replace(told=A, told_identity=A)
    assert step(told, now_is._replace(rotation=rotations.configured())) is Step.APPLY


def test_a_joined_host_whose_program_is_gone_keeps_its_rules() -> None:
    assert step(JOINED, WHOLE._replace(has_program=False, child=children.Child())) is None


@pytest.mark.parametrize(
    ("now_is", "now"),
    [
        (WHOLE._replace(child=READY._replace(state=children.State.STARTING, ready_at=None)), NOW),
        (WHOLE._replace(rotation=rotations.configured(), child=children.Child()), NOW),
        (
            WHOLE._replace(
                redirection=Redirection(rules=Rules.IN, is_disproved=True, last_error="no"),
                child=children.Child(),
            ),
            NOW,
        ),
    ],
    ids=["not-ready-in-time", "certificate-lost", "disproved"],
)
def test_an_attempt_that_fails_is_taken_back(now_is: Situation, now: Now) -> None:
    disk = Disk(is_attempting=True)
    life = begun(disk, OFFERS["A"])._replace(
        phase=Phase.JOINING,
        in_force=A,
        told=A,
        told_identity=A,
        may_have_rules=True,
    )
    life, first = decide.advance(life, now_is, now)
    assert life.phase is Phase.OUT
    assert first is Step.WITHDRAW
    assert life.attempt.retry_at == now.monotonic + lives.FIRST_ATTEMPT_PAUSE_S


def test_what_has_worked_comes_into_force_before_any_file_is_read() -> None:
    assert after(lives.begin(DISK), Situation(has_program=True)).in_force == A


def test_a_host_that_is_out_waits_for_its_files_unless_they_cannot_be_read() -> None:
    life = lives.begin(Disk(accepted=A))
    assert after(life, Situation(has_program=True)).in_force is None
    assert after(lives.unreadable(life), Situation(has_program=True)).in_force == A
    assert after(lives.offered(life, OFFERS["B"]), Situation(has_program=True)).in_force == B


@pytest.mark.parametrize("is_readable", [True, False])
def test_what_did_not_hold_stays_refused_over_a_restart(*, is_readable: bool) -> None:
    start = lives.begin(DISK._replace(refused=B.texts))
    life = start if is_readable else lives.unreadable(start)
    assert lives.offered(life, OFFERS["B"]).desired == A
    assert lives.offered(life, OFFERS["B"], is_asked=True).desired == B
    corrected = lives.offered(lives.offered(life, OFFERS["B"]), OFFERS["A"])
    assert lives.offered(corrected, OFFERS["B"]).desired == B


def changed(now_is: Situation = WHOLE, now: Now = NOW) -> Life:
    """A joined host whose files now make B, validated."""
    life = lives.offered(JOINED, OFFERS["B"])
    life, first = decide.advance(life, now_is, now)
    assert first is Step.CHECK_CANDIDATE
    return decide.checked(decide.checking(life), validations.passed())


def test_a_changed_configuration_first_gets_its_certificate() -> None:
    life, first = decide.advance(changed(), WHOLE, NOW)
    assert life.phase is Phase.TRYING
    assert first is Step.CONFIGURE_IDENTITY
    life = decide.performed(life, first, WHOLE, NOW)
    asking = WHOLE._replace(rotation=rotations.configured())
    # Rules and proxy stay as they are until then.
    assert step(life, asking) is Step.OBTAIN
    assert after(life, asking).told is A
    assert step(life, WHOLE) is Step.CONFIGURE


def test_a_refused_bootstrap_changes_nothing_and_stays_refused() -> None:
    life = lives.offered(JOINED, OFFERS["B"])
    life = decide.checked(after(life, WHOLE), validations.refused("do not like it"))
    life, first = decide.advance(life, WHOLE, NOW)
    assert life.phase is Phase.JOINED
    assert life.in_force is A
    assert life.refusal is not None
    assert life.refusal.retry_at is None
    assert first is Step.SAVE_REFUSED
    assert lives.offered(life, OFFERS["B"]).refusal is not None
    assert lives.offered(life, OFFERS["B"], is_asked=True).refusal is None
    assert lives.offered(life, OFFERS["A"]).refusal is None


def test_a_passing_cause_is_tried_again_by_itself_ever_more_seldom() -> None:
    now, pauses = NOW, []
    life = JOINED
    for _ in range(9):
        life = lives.refuse(life, B, "no certificate", now, is_final=False)
        assert life.refusal is not None
        assert life.refusal.retry_at is not None
        pauses.append(life.refusal.retry_at - now.monotonic)
        assert lives.deadline(life, WHOLE, now) == life.refusal.retry_at
        now = Now(life.refusal.retry_at, now.wall)
        life = life._replace(offer=OFFERS["B"])
        assert after(life, WHOLE, now).refusal is None
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_what_is_on_trial_has_its_time_and_then_gives_way_for_a_passing_cause() -> None:
    life = decide.performed(after(changed(), WHOLE), Step.CONFIGURE_IDENTITY, WHOLE, NOW)
    last_error = rotations.Failure("authority-unavailable", "CA is away")
    away = WHOLE._replace(
        rotation=rotations.configured()._replace(last_error=last_error, next_at=9e9)
    )
    assert after(life, away).phase is Phase.TRYING
    life = after(life, away, LATER)
    assert life.phase is Phase.GOING_BACK
    assert life.in_force is A
    assert life.refusal is not None
    assert life.refusal.retry_at is not None
    assert "CA is away" in life.refusal.reason


def test_a_killed_proxy_is_no_verdict_and_one_that_exits_is() -> None:
    life = after(changed(), WHOLE)
    life = life._replace(
        told=B, told_identity=B, rollout=life.rollout._replace(is_identity_first=False)
    )
    ended = children.Child(
        state=children.State.BACKOFF, failures=3, patience_at=1030.0, last_error="envoy ended"
    )
    for has_exited in (False, True):
        now_is = WHOLE._replace(child=ended._replace(has_exited=has_exited))
        refusal = after(life, now_is).refusal
        assert refusal is not None
        assert (refusal.retry_at is None) == has_exited


def test_what_is_due_follows_from_the_values() -> None:
    assert lives.deadline(JOINED, WHOLE, NOW) == NOW.monotonic + 10_000  # the renewal
    soon = WHOLE.redirection._replace(apply_at=1001.0)
    assert lives.deadline(JOINED, WHOLE._replace(redirection=soon), NOW) == 1001.0
    timed = READY._replace(timer_at=1000.5)
    assert lives.deadline(JOINED, WHOLE._replace(child=timed), NOW) == 1000.5


def test_leaving_takes_out_first_the_rules_and_then_their_marks() -> None:
    life, steps = decide.leave(JOINED._replace(may_have_rules=True), NOW), []
    now_is = WHOLE
    for _ in range(10):
        life, found = decide.advance(life, now_is, NOW)
        if found is None:
            break
        steps.append(found)
        now_is = OUT if found is Step.WITHDRAW else now_is
        life = decide.performed(life, found, now_is, NOW)
    assert steps == [Step.WITHDRAW, Step.UNMARK_JOINED, Step.REMOVE_GUARD]


def test_a_disk_that_was_full_before_does_not_keep_the_marks_of_who_leaves() -> None:
    disk = DISK._replace(last_error="disk full", retry_at=NOW.monotonic + 5)
    life = decide.leave(JOINED._replace(disk=disk, may_have_rules=True), NOW)
    life = decide.performed(life, Step.WITHDRAW, OUT, NOW)
    assert step(life, OUT) is Step.UNMARK_JOINED


def test_what_the_service_manager_owns_is_left_to_it() -> None:
    life = decide.leave(JOINED._replace(may_have_rules=True), NOW)
    assert step(life, WHOLE._replace(is_owner=True)) is None


def test_rules_that_cannot_be_taken_out_leave_a_mark() -> None:
    life = decide.leave(JOINED._replace(may_have_rules=True), NOW)
    steps = []
    for _ in range(20):
        life, found = decide.advance(life, WHOLE, NOW)
        if found is None:
            break
        steps.append(found)
        life = decide.performed(life, found, WHOLE, NOW)
    assert steps == [Step.WITHDRAW] * LEAVE_TRIES + [Step.MARK_ATTEMPT, Step.UNMARK_JOINED]


# -- two Envoys side by side ----------------------------------------------------------------------

DRAINING = READY._replace(other=children.Other.DRAINING)
UNDECIDED = children.taken_on(NOW.monotonic, has_other=True)


@pytest.mark.parametrize("other", children.Other, ids=str)
def test_no_third_proxy_is_started_while_connections_are_drained(other: children.Other) -> None:
    now_is = WHOLE._replace(child=READY._replace(other=other), is_outdated=True)
    is_free = other in (children.Other.NONE, children.Other.SERVING)
    assert (step(JOINED, now_is) is Step.START) == is_free


def test_what_has_worked_and_what_has_no_port_wait_for_nobody() -> None:
    now_is = WHOLE._replace(child=DRAINING, is_outdated=True)
    assert step(JOINED, now_is) is None
    assert step(JOINED._replace(phase=Phase.GOING_BACK), now_is) is Step.START
    assert step(JOINED, now_is._replace(is_elsewhere=True)) is Step.START
    # Who serves is asked first, which takes a moment.
    asked = now_is._replace(child=UNDECIDED, is_elsewhere=True)
    assert step(JOINED, asked) is not Step.START


def test_a_changed_configuration_waits_for_the_one_that_drains_if_it_needs_another() -> None:
    life = lives.offered(JOINED, OFFERS["B"])
    life = after(life, WHOLE)
    life = decide.checked(life, validations.passed())
    waits = WHOLE._replace(child=DRAINING, must_wait=True)
    assert after(life, waits, LATER).phase is Phase.JOINED
    assert after(life, WHOLE._replace(child=DRAINING)).phase is Phase.TRYING
    assert after(life, WHOLE).phase is Phase.TRYING


def test_another_file_of_the_program_keeps_no_host_out_of_the_mesh() -> None:
    bad = validations.refused("it does not work")
    now_is = WHOLE._replace(is_outdated=True, validation=bad)
    assert not JOINED.is_in_mesh(now_is, NOW)
    assert JOINED.is_in_mesh(now_is._replace(is_upgrade=True), NOW)
    assert step(JOINED, now_is._replace(is_upgrade=True)) is None
    # While it takes over the one before serves.
    starting = children.Child(children.State.STARTING, other=children.Other.SERVING)
    takes_over = WHOLE._replace(child=starting, is_upgrade=True)
    assert JOINED.is_in_mesh(takes_over, NOW)
    assert not JOINED.is_in_mesh(takes_over._replace(is_upgrade=False), NOW)


def test_a_proxy_that_shows_another_certificate_is_not_replaced_by_a_third() -> None:
    shows = servings.Serving(
        subject=servings.Subject(1, "1", is_ready=True), tries=servings.RELOADS, mend_at=0.0
    )
    assert step(JOINED, WHOLE._replace(serving=shows)) is Step.REPLACE_PROXY
    assert step(JOINED, WHOLE._replace(serving=shows, child=DRAINING)) is None
