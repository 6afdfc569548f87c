"""The watcher of files: what it tells, and what it does not keep."""

import gc
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import mounts, sights, watch
from tests.lab.waiting import eventually

PATIENCE_S = 10.0
RENAMES = 300
# What may be on its way between the threads of the watched directory, and not looked at yet.
IN_FLIGHT = 100


@pytest.fixture
def changes() -> queue.Queue[None]:
    return queue.Queue()


@pytest.fixture
def watcher(changes: queue.Queue[None]) -> Iterator[watch.FileWatcher]:
    made = watch.FileWatcher(lambda: changes.put(None), sights.Sights(mounts.Mounts()))
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


def rename_often(path: Path, neighbour: Path) -> None:
    for number in range(RENAMES):
        # One of its own name, as mktemp(1) gives it, and a neighbour that means nothing to us.
        for target in (path, neighbour):
            new = path.with_name(f"new.{number}")
            new.write_text(str(number))
            new.rename(target)


def test_what_watchdog_remembers_of_renames_is_bounded(
    tmp_path: Path, watcher: watch.FileWatcher, changes: queue.Queue[None]
) -> None:
    path, neighbour = tmp_path / "cluster.env", tmp_path / "neighbour"
    watcher.follow([str(path)])
    before = remembered()
    rename_often(path, neighbour)
    wait_until_quiet(changes, path)
    assert remembered() - before > 2 * watch.MAX_MOVES, "without our doing it remembers them all"

    def is_let_go() -> bool:
        """As the agent does: whatever changed, it follows again."""
        path.write_text("once more")
        changes.get(timeout=PATIENCE_S)
        watcher.follow([str(path)])
        return remembered() <= before + IN_FLIGHT

    for _ in range(3):
        eventually(is_let_go, "what was seen is let go")
        rename_often(path, neighbour)
    eventually(is_let_go, "it is let go every time")


def test_neighbours_that_are_renamed_all_the_time_are_bounded_too(
    tmp_path: Path, watcher: watch.FileWatcher, changes: queue.Queue[None]
) -> None:
    path, neighbour = tmp_path / "cluster.env", tmp_path / "neighbour"
    watcher.follow([str(path)])
    rename_often(neighbour, neighbour)
    changes.get(timeout=PATIENCE_S)


def test_a_directory_that_is_watched_anew_is_read_again(
    tmp_path: Path, watcher: watch.FileWatcher, changes: queue.Queue[None]
) -> None:
    path = tmp_path / "cluster.env"
    watcher.follow([str(path)])
    rename_often(path, path)
    wait_until_quiet(changes, path)
    assert watcher.follow([str(path)])
    assert not watcher.follow([str(path)])
