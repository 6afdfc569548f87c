"""The watcher of files: what it tells, and what it does not keep."""

import gc
import os
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import watch
from tests.lab.waiting import eventually

PATIENCE_S = 10.0
RENAMES = 300
# What may be on its way between the threads of the watched directory.
IN_FLIGHT = 20


@pytest.fixture
def changes() -> queue.Queue[None]:
    return queue.Queue()


@pytest.fixture
def watcher(changes: queue.Queue[None]) -> Iterator[watch.FileWatcher]:
    made = watch.FileWatcher(lambda: changes.put(None))
    yield made
    made.stop()


def remembered() -> int:
    """How many of the kernel's events are still held by anybody in this process."""
    gc.collect()  # an event may be in a circle with the thread that made it
    return sum(type(thing).__name__ == "InotifyEvent" for thing in gc.get_objects())


def wait_until_quiet(changes: queue.Queue[None], path: Path) -> None:
    """The watcher is through with everything that came before one more change of the file."""
    while not changes.empty():
        changes.get()
    path.write_text("last")
    changes.get(timeout=PATIENCE_S)


def test_a_file_renamed_into_place_and_out_of_it(
    tmp_path: Path, watcher: watch.FileWatcher, changes: queue.Queue[None]
) -> None:
    path, new, elsewhere = (tmp_path / name for name in ("cluster.env", "new", "else"))
    watcher.follow([str(path)])
    new.write_text("1")
    new.rename(path)
    changes.get(timeout=PATIENCE_S)
    wait_until_quiet(changes, path)
    path.rename(elsewhere)
    changes.get(timeout=PATIENCE_S)


def test_a_file_moved_out_of_the_watched_directory(
    tmp_path: Path, watcher: watch.FileWatcher, changes: queue.Queue[None]
) -> None:
    place = tmp_path / "conf"
    place.mkdir()
    path = place / "cluster.env"
    path.write_text("1")
    watcher.follow([str(path)])
    path.rename(tmp_path / "kept")
    changes.get(timeout=PATIENCE_S)


def test_renames_leave_nothing_behind(
    tmp_path: Path, watcher: watch.FileWatcher, changes: queue.Queue[None]
) -> None:
    path, new = tmp_path / "cluster.env", tmp_path / "new"
    watcher.follow([str(path)])
    before = remembered()
    for number in range(RENAMES):
        # One of its own name, as mktemp(1) gives it, and a neighbour that means nothing to us.
        for target in (path, tmp_path / "neighbour"):
            new.write_text(str(number))
            os.rename(new, tmp_path / f"new.{number}")
            os.rename(tmp_path / f"new.{number}", target)
    wait_until_quiet(changes, path)

    def is_let_go() -> bool:
        # What is read at once is kept until the next reading: up to a thousand, if it was late.
        path.write_text("once more")
        return remembered() <= before + IN_FLIGHT

    eventually(is_let_go, "what was seen is let go")
