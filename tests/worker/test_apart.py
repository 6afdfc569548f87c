"""The process that root forks for what must not be parsed as root."""

import contextlib
import ctypes
import os
import select
import signal
from typing import Any

import pytest

from istio_hostagent.errors import ChildFailed
from istio_hostagent.workers import apart
from tests.lab.workers import NOBODY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
PR_GET_DUMPABLE = 3


def run(work: Any) -> Any:
    return apart.run(NOBODY, NOBODY, work, name="the process", max_bytes=1000)


def facts() -> dict[str, Any]:
    with open("/proc/self/status") as status:
        lines = {name: text.strip() for name, _, text in (line.partition(":") for line in status)}
    return {
        "uid": lines["Uid"].split("\t"),
        "groups": lines["Groups"].split(),
        "capabilities": [lines[name] for name in ("CapPrm", "CapEff", "CapAmb")],
        "dumpable": ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        "standard": [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1)],
    }


def test_it_is_another_user_for_good_and_has_nothing_of_roots() -> None:
    before = os.getgroups()
    os.setgroups([4, 27])
    try:
        found = run(facts)
    finally:
        os.setgroups(before)
    assert found["uid"] == [str(NOBODY)] * 4
    assert found["groups"] == []
    assert found["capabilities"] == ["0" * 16] * 3
    assert found["dumpable"] == 0
    assert found["standard"] == [os.devnull] * 2


def test_it_ends_with_whoever_waits_for_it() -> None:
    reading, writing = os.pipe()

    def say_and_stay() -> None:
        os.write(writing, str(os.getpid()).encode())
        signal.pause()

    parent = os.fork()
    if parent == 0:
        os.close(reading)
        run(say_and_stay)
        os._exit(0)
    os.close(writing)
    child = os.pidfd_open(int(os.read(reading, 16)))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        assert select.select([child], [], [], 60.0)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
        os.close(reading)


def test_nothing_of_an_answer_that_does_not_fit_is_in_the_error() -> None:
    with pytest.raises(ChildFailed) as raised:
        run(lambda: "secret" * 200_000)
    assert "secret" not in str(raised.value)


def test_its_error_is_told_by_kind_and_place_and_not_in_its_words() -> None:
    def fail() -> None:
        raise ValueError("secret")

    with pytest.raises(ChildFailed) as raised:
        run(fail)
    assert "ValueError in fail, line " in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda: 1 / 0, "exited with status 1"),
        (lambda: "x" * 2000, "gave a wrong answer"),
    ],
)
def test_one_that_ends_badly_or_says_too_much_is_an_error(work: Any, said: str) -> None:
    with pytest.raises(ChildFailed, match=f"the process {said}"):
        run(work)
