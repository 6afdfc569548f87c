"""The names of the mesh on disk: kept for a start while istiod is away, and for this mesh alone."""

from pathlib import Path
from typing import Any

import pytest

from istio_hostagent.host import eventpoll, keptnames


class Poll(eventpoll.EventPoll):
    """Timers that ring when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def after(self, seconds: float, act: Any) -> None:
        self.waiting.append(act)

    def ring(self) -> None:
        waiting, self.waiting = self.waiting, []
        for act in waiting:
            act()


@pytest.fixture
def said() -> list[str]:
    return []


def open_kept(path: Path, said: list[str], whose: str = "one") -> tuple[keptnames.KeptNames, Poll]:
    poll = Poll()
    return keptnames.KeptNames(str(path), whose, poll, said.append), poll


def test_the_last_table_is_there_for_the_next_start(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "table"
    kept, poll = open_kept(path, said)
    assert kept.read() is None
    kept.take(b"first")
    assert open_kept(path, said)[0].read() == b"first"
    # Of many in a short time the last one counts.
    kept.take(b"second")
    kept.take(b"third")
    assert open_kept(path, said)[0].read() == b"first"
    poll.ring()
    assert open_kept(path, said)[0].read() == b"third"
    poll.ring()
    assert poll.waiting == []
    assert said == []


def test_names_of_another_cluster_are_not_taken(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "table"
    open_kept(path, said)[0].take(b"first")
    assert open_kept(path, said, "two")[0].read() is None
    assert open_kept(path, said)[0].read() == b"first"


def test_a_disk_that_takes_nothing_is_named_once(tmp_path: Path, said: list[str]) -> None:
    kept, poll = open_kept(tmp_path / "missing" / "table", said)
    kept.take(b"first")
    poll.ring()
    kept.take(b"second")
    poll.ring()
    assert said == ["the names of the mesh are not kept for a restart: No such file or directory"]
