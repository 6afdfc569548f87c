"""When a proxy counts as hung: by silence alone, in rounds, and never by elapsed time."""

from collections.abc import Mapping

from istio_hostagent.supervise import liveness
from istio_hostagent.supervise.liveness import Answer, Door, Watch

READINESS = Door("envoy", 15021, "/healthz/ready")
ADMIN = Door("envoy", 15000, "/ready")
AGENT = Door("pilot-agent", 15020, "/healthz/ready")
SERVING = {READINESS: Answer.READY, ADMIN: Answer.READY}
SILENT = {READINESS: Answer.SILENT, ADMIN: Answer.SILENT}


def after(*rounds: Mapping[Door, Answer]) -> Watch:
    watch = Watch()
    for answers in rounds:
        watch = liveness.observe(watch, answers)
    return watch


def test_three_silent_rounds_in_a_row_are_a_hang_and_two_are_not() -> None:
    assert after(SERVING, SILENT, SILENT).hung == ()
    assert after(SERVING, SILENT, SILENT).is_suspicious
    assert after(SERVING, SILENT, SILENT, SILENT).hung == ("envoy",)


def test_one_answer_at_any_door_ends_the_row() -> None:
    busy = {READINESS: Answer.SILENT, ADMIN: Answer.UNREADY}
    assert after(SERVING, SILENT, SILENT, busy, SILENT, SILENT).hung == ()


def test_saying_no_for_ever_is_no_hang() -> None:
    assert after(SERVING, *[{READINESS: Answer.UNREADY, ADMIN: Answer.SILENT}] * 1000).hung == ()


def test_what_never_answered_is_not_counted() -> None:
    refused = dict.fromkeys(SERVING, Answer.REFUSED)
    assert after(*[refused] * 100).hung == ()
    assert after(*[SILENT] * 100).hung == ()


def test_what_answered_once_and_refuses_now_is_counted() -> None:
    refused = dict.fromkeys(SERVING, Answer.REFUSED)
    assert after(SERVING, *[refused] * 3).hung == ("envoy",)


def test_a_hung_envoy_is_seen_below_a_pilot_agent_that_answers() -> None:
    serving = SERVING | {AGENT: Answer.READY}
    assert after(serving, *[SILENT | {AGENT: Answer.UNREADY}] * 3).hung == ("envoy",)
    assert after(serving, *[SERVING | {AGENT: Answer.SILENT}] * 3).hung == ("pilot-agent",)


def test_counting_starts_anew_when_a_round_says_nothing() -> None:
    watch = liveness.forget_silences(after(SERVING, SILENT, SILENT))
    assert not watch.is_suspicious
    assert liveness.observe(watch, SILENT).hung == ()


def test_a_hang_is_known_and_replaced_within_fifteen_seconds() -> None:
    # It begins right after an answer; the first silent round is a steady one.
    seen_s = 2 * liveness.STEADY_S + (liveness.SILENCES - 1) * liveness.SUSPICIOUS_S
    assert seen_s < 14


def test_asking_becomes_seldom_while_nothing_changes() -> None:
    assert liveness.poll_pause_s(0) == liveness.FIRST_PAUSE_S
    assert liveness.poll_pause_s(3600) == liveness.LONGEST_PAUSE_S


OUT, IN = 15001, 15006
OPEN = {OUT: True, IN: True}


def looked(*rounds: Mapping[int, bool | None]) -> Watch:
    watch = Watch()
    for listening in rounds:
        watch = liveness.look(watch, listening)
    return watch


def test_a_port_that_was_open_and_is_closed_three_times_in_a_row_is_lost() -> None:
    closed = {OUT: False, IN: True}
    assert looked(OPEN, closed, closed).lost == ()
    assert looked(OPEN, closed, closed).is_suspicious
    assert looked(OPEN, closed, closed, closed).lost == (OUT,)


def test_a_port_that_is_open_again_or_cannot_be_told_ends_the_row() -> None:
    closed = {OUT: False, IN: False}
    assert looked(OPEN, closed, closed, OPEN, closed, closed).lost == ()
    assert looked(OPEN, closed, closed, {OUT: None, IN: None}, closed).lost == ()


def test_a_port_that_never_was_open_is_waited_for() -> None:
    assert looked(*[{OUT: False, IN: False}] * 1000).lost == ()
    assert not looked({OUT: False, IN: False}).is_suspicious


def test_a_round_that_says_nothing_counts_no_closed_port() -> None:
    closed = {OUT: False, IN: False}
    watch = liveness.forget_silences(looked(OPEN, closed, closed))
    assert liveness.look(watch, closed).lost == ()
    # A round of questions takes nothing away from what was seen of the ports.
    watch = liveness.observe(looked(OPEN, closed), SERVING)
    assert liveness.look(liveness.look(watch, closed), closed).lost == (OUT, IN)
