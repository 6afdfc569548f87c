"""Which certificate the proxy shows: when it is asked, and what becomes of one that shows another."""

from istio_hostagent.lifecycle import serving
from istio_hostagent.lifecycle.serving import Serving, Shown, Subject

ABOUT = Subject(start=1, serial="a", is_ready=True)


def answer(value: Serving, *serials: str, now: float) -> Serving:
    return serving.answered(serving.asked(value, now), value.subject, serials, now)


def test_it_is_asked_when_another_proxy_runs_or_another_certificate_is_held() -> None:
    value = serving.look(Serving(), ABOUT, 10.0)
    assert not value.is_ask_due(10.0)
    assert value.is_ask_due(10.0 + serving.READY_PAUSE_S)
    value = answer(value, "a", now=11.0)
    assert (value.shown, value.ask_at) == (Shown.HELD, None)
    assert serving.look(value, ABOUT, 20.0) == value
    for other in (ABOUT._replace(start=2), ABOUT._replace(serial="b")):
        again = serving.look(value, other, 20.0)
        assert again.shown is Shown.UNKNOWN
        assert again.is_ask_due(20.0 + serving.CHANGED_PAUSE_S)


def test_an_answer_about_what_is_not_so_any_more_counts_for_nothing() -> None:
    value = serving.asked(serving.look(Serving(), ABOUT, 0.0), 1.0)
    value = serving.look(value, ABOUT._replace(serial="b"), 1.1)
    value = serving.answered(value, ABOUT, ("a",), 1.2)
    assert value.shown is Shown.UNKNOWN
    assert value.ask_at is not None
    assert value.mend_at is None


def test_what_may_be_just_being_obtained_is_asked_again_while_a_proxy_runs() -> None:
    value = serving.asked(serving.look(Serving(), ABOUT, 0.0), 1.0)
    assert serving.overtaken(value, 1.1).is_ask_due(1.1 + serving.UNKNOWN_PAUSE_S)
    value = serving.overtaken(serving.look(value, None, 1.1), 1.2)
    assert (value.ask_at, value.is_asking) == (None, False)


def test_an_earlier_one_beside_the_one_that_is_held_is_being_drained() -> None:
    value = answer(serving.look(Serving(), ABOUT, 0.0), "9", "a", now=1.0)
    assert value.shown is Shown.HELD


def test_it_is_told_to_load_the_files_before_it_is_replaced_ever_more_seldom() -> None:
    value, now = serving.look(Serving(), ABOUT, 0.0), 1.0
    pauses = []
    for _ in range(20):
        value = answer(value, "b", now=now)
        assert value.shown is Shown.OTHER
        assert value.mend_at is not None
        pauses.append(value.mend_at - now)
        is_reload = value.tries < serving.RELOADS
        assert value.is_reload_due(value.mend_at) is is_reload
        assert value.is_replacing_due(value.mend_at) is not is_reload
        assert not value.is_reload_due(value.mend_at - 0.1)
        assert not value.is_replacing_due(value.mend_at - 0.1)
        now = value.mend_at
        value = serving.mended(value, now)
        if not is_reload:
            start = value.subject.start + 1 if value.subject is not None else 0
            value = serving.look(value, ABOUT._replace(start=start), now)
        assert value.ask_at is not None
        now = value.ask_at
    assert pauses == sorted(pauses)
    assert pauses[:4] == [0.0, 0.0, 0.0, serving.FIRST_REPLACE_S]
    assert pauses[-1] == serving.LONGEST_REPLACE_S
    mended = answer(value, "a", now=now)
    assert (mended.shown, mended.tries, mended.last_error) == (Shown.HELD, 0, "")


def test_nothing_is_asked_or_mended_while_no_proxy_runs_or_nothing_is_held() -> None:
    value = answer(serving.look(Serving(), ABOUT, 0.0), "b", now=1.0)
    assert value.is_reload_due(1.0)
    value = serving.look(value, None, 2.0)
    for tries in (0, serving.RELOADS):
        value = value._replace(tries=tries)
        assert not value.is_ask_due(100.0)
        assert not value.is_reload_due(100.0)
        assert not value.is_replacing_due(100.0)


def test_one_that_is_not_ready_is_not_replaced() -> None:
    value = serving.look(Serving(), ABOUT._replace(is_ready=False), 0.0)
    value = answer(value, "b", now=1.0)._replace(tries=serving.RELOADS)
    assert not value.is_replacing_due(100.0)


def test_one_that_does_not_say_is_asked_again_now_and_then_and_left_alone() -> None:
    value = serving.look(Serving(), ABOUT, 0.0)
    now, asked = 1.0, 0
    for _ in range(100):
        if value.is_ask_due(now):
            asked += 1
            value = serving.unanswered(serving.asked(value, now), "mute", now)
            if asked < serving.UNKNOWN_TRIES:
                assert value.is_ask_due(now + serving.UNKNOWN_PAUSE_S), "soon"
        assert value.mend_at is None
        now += 60.0
        value = serving.look_again(value, now)
    assert value.shown is Shown.UNKNOWN
    assert serving.UNKNOWN_TRIES < asked <= serving.UNKNOWN_TRIES + 2


def test_who_asks_waits_for_no_pause() -> None:
    value = serving.look(Serving(), ABOUT, 0.0)._replace(tries=6, shown=Shown.OTHER)
    value = serving.retry(value, 5.0)
    assert value.is_ask_due(5.0)
    assert answer(value, "b", now=5.0).is_reload_due(5.0)


def test_whether_it_has_shown_what_is_held_outlives_a_renewal_and_no_other_start() -> None:
    value = answer(serving.look(Serving(), ABOUT, 0.0), "a", now=1.0)
    assert value.has_shown
    renewed = serving.look(value, ABOUT._replace(serial="b"), 2.0)
    assert renewed.has_shown
    assert not answer(serving.look(Serving(), ABOUT, 0.0), "b", now=1.0).has_shown
    for other in (ABOUT._replace(start=2), None):
        assert not serving.look(renewed, other, 3.0).has_shown
