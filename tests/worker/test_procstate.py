"""Who is kept from running, and whose children there are."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from istio_hostagent.host import procstate
from istio_hostagent.host.procstate import Hold
from tests.lab.waiting import eventually

# Starts a child from its main thread and one from another thread, which lives on, as in Go.
PARENT = """
import subprocess, threading
def start():
    print(subprocess.Popen(["/usr/bin/sleep", "60"]).pid, flush=True)
def start_and_stay():
    start()
    threading.Event().wait()
start()
threading.Thread(target=start_and_stay).start()
"""


@pytest.fixture
def parent() -> Iterator[tuple[int, list[int]]]:
    """A process and its two children."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        children = [int(process.stdout.readline()) for _ in range(2)]
        yield process.pid, children
        for pid in (process.pid, *children):
            os.kill(pid, signal.SIGKILL)


def test_the_children_of_every_thread_are_found(parent: tuple[int, list[int]]) -> None:
    pid, children = parent
    assert sorted(procstate.find_children(pid)) == sorted(children)


def test_the_one_that_a_signal_stopped_is_found_among_them(
    parent: tuple[int, list[int]],
) -> None:
    _, children = parent
    assert procstate.find_held(children) == (0, Hold.NONE)
    os.kill(children[1], signal.SIGSTOP)
    eventually(
        lambda: procstate.find_held(children) == (children[1], Hold.STOPPED), "it is stopped"
    )


def test_one_that_is_gone_has_no_children_and_is_not_held() -> None:
    with subprocess.Popen(["/usr/bin/true"]) as process:
        process.wait()
    assert procstate.find_children(process.pid) == ()
    assert procstate.find_held([process.pid]) == (0, Hold.NONE)
