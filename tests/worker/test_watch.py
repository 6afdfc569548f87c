"""The watcher of files: what it tells, what it costs, and what it says when it cannot."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import mailbox, mounts, sights, watch

PATIENCE_S = 60.0
RENAMES = 300


@pytest.fixture
def inbox() -> mailbox.Mailbox[str]:
    return mailbox.Mailbox()


@pytest.fixture
def watcher(inbox: mailbox.Mailbox[str]) -> Iterator[watch.FileWatcher]:
    made = watch.FileWatcher(inbox, lambda: "changed", sights.Sights(mounts.Mounts()))
    yield made
    made.stop()


def is_told(inbox: mailbox.Mailbox[str]) -> bool:
    """Whether a change is told; and everything that came with it is taken."""
    is_told = bool(inbox.wait(PATIENCE_S))
    while inbox.wait(0.0):
        pass
    return is_told


def test_a_file_renamed_into_place_and_out_of_it(
    tmp_path: Path, watcher: watch.FileWatcher, inbox: mailbox.Mailbox[str]
) -> None:
    path, new, elsewhere = (tmp_path / name for name in ("cluster.env", "new", "else"))
    watcher.follow([str(path)])
    new.write_text("1")
    new.rename(path)
    assert is_told(inbox)
    path.rename(elsewhere)
    assert is_told(inbox)


def test_a_file_moved_out_of_the_watched_directory(
    tmp_path: Path, watcher: watch.FileWatcher, inbox: mailbox.Mailbox[str]
) -> None:
    place = tmp_path / "conf"
    place.mkdir()
    path = place / "cluster.env"
    path.write_text("1")
    watcher.follow([str(path)])
    path.rename(tmp_path / "kept")
    assert is_told(inbox)


def test_neighbours_that_change_all_the_time_are_told_to_nobody(
    tmp_path: Path, watcher: watch.FileWatcher, inbox: mailbox.Mailbox[str]
) -> None:
    path, neighbour = tmp_path / "cluster.env", tmp_path / "neighbour"
    watcher.follow([str(path)])
    for number in range(RENAMES):
        new = path.with_name(f"new.{number}")
        new.write_text(str(number))
        new.rename(neighbour)
    assert inbox.wait(0.0) == []
    path.write_text("last")
    assert is_told(inbox)


def test_all_directories_are_watched_by_one_instance_without_a_thread(
    tmp_path: Path, watcher: watch.FileWatcher
) -> None:
    def instances() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum("inotify" in os.readlink(link) for link in links if link.is_symlink())

    before, threads = instances(), len(os.listdir("/proc/self/task"))
    places = [tmp_path / str(number) for number in range(10)]
    for place in places:
        place.mkdir()
    watcher.follow([str(place / "file") for place in places])
    assert instances() - before == 1
    assert len(os.listdir("/proc/self/task")) <= threads


def swapped(place: Path, new: Path) -> None:
    place.rename(place.with_name("old"))
    new.rename(place)


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "the file gets another mode": lambda place, _: (place / "token").chmod(0o640),
    "the file gets another owner": lambda place, _: os.chown(place / "token", 65534, -1),
    "its directory is opened": lambda place, _: place.chmod(0o711),
    "a directory further up is opened": lambda place, _: place.parent.chmod(0o711),
    "its directory is replaced": lambda place, new: swapped(place, new),
    "a directory further up is replaced": lambda place, new: swapped(place.parent, new),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_may_let_another_user_read_a_file_is_told_at_once(
    change: Callable[[Path, Path], object],
    tmp_path: Path,
    watcher: watch.FileWatcher,
    inbox: mailbox.Mailbox[str],
) -> None:
    place, new = tmp_path / "secrets" / "tokens", tmp_path / "new"
    for each in (place, new):
        each.mkdir(parents=True)
        each.chmod(0o700)
    token = place / "token"
    token.write_text("token")
    token.chmod(0o600)
    watcher.follow([str(token)])
    watcher.mark()
    change(place, new)
    assert is_told(inbox)


def test_a_directory_that_is_replaced_is_followed_and_read_again(
    tmp_path: Path, watcher: watch.FileWatcher, inbox: mailbox.Mailbox[str]
) -> None:
    place, new = tmp_path / "conf", tmp_path / "new"
    place.mkdir()
    path = place / "sidecar.env"
    assert watcher.follow([str(path)])
    for turn in range(3):
        new.mkdir()
        (new / path.name).write_text(str(turn))
        place.rename(tmp_path / f"conf.{turn}")
        new.rename(place)
        assert is_told(inbox)
        assert watcher.follow([str(path)]), "to be read again"
        assert not watcher.follow([str(path)])
        path.write_text("more")
        assert is_told(inbox)


def test_a_directory_that_appears_later_is_followed(
    tmp_path: Path, watcher: watch.FileWatcher, inbox: mailbox.Mailbox[str]
) -> None:
    path = tmp_path / "a" / "b" / "cluster.env"
    watcher.follow([str(path)])
    path.parent.parent.mkdir()
    assert is_told(inbox)
    assert watcher.follow([str(path)])
    path.parent.mkdir()
    assert is_told(inbox)
    assert watcher.follow([str(path)])
    path.write_text("1")
    assert is_told(inbox)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to set a limit")
def test_a_limit_that_is_reached_is_named_with_what_raises_it(
    tmp_path: Path,
) -> None:
    # The limits of a user namespace are its own, so that this machine keeps its.
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from istio_hostagent.host import mailbox, mounts, sights, watch
path = sys.argv[2]
watcher = watch.FileWatcher(mailbox.Mailbox(), str, sights.Sights(mounts.Mounts()))
for limit in ("max_inotify_instances", "max_inotify_watches"):
    with open(f"/proc/sys/user/{limit}", "w") as file:
        file.write("0")
    watcher.follow([path])
    print(watcher.last_error)
    with open(f"/proc/sys/user/{limit}", "w") as file:
        file.write("100")
watcher.follow([path])
print(watcher.last_error or "watched")
"""
    path = tmp_path / "file"
    root = str(Path(watch.__file__).parents[2])
    done = subprocess.run(
        [
            *["unshare", "--user", "--map-root-user", "/usr/bin/python3", "-c"],
            script,
            root,
            str(path),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    instances, watches, after = done.stdout.splitlines()
    assert "sysctl -w fs.inotify.max_user_instances=" in instances
    assert "sysctl -w fs.inotify.max_user_watches=" in watches
    assert str(tmp_path) in watches
    assert after == "watched"
