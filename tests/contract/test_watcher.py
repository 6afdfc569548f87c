"""What is promised of watched files: by inotify, and in memory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from istio_hostagent.host import mailbox, mounts, ports, sights, watch
from tests.fakes.files import Disk
from tests.fakes.watcher import FakeWatcher

PATIENCE_S = 60.0


class Watched(NamedTuple):
    watcher: ports.Watcher
    inbox: mailbox.Mailbox[str]
    write: Callable[[str, bytes], object]
    remove: Callable[[str], object]
    directory: str


class WatcherContract:
    def test_a_file_that_appears_changes_or_goes_is_told(self, watched: Watched) -> None:
        path = f"{watched.directory}/file"
        watched.watcher.follow([path])
        watched.write(path, b"1")
        assert watched.inbox.wait(PATIENCE_S)
        _drain(watched.inbox)
        watched.write(path, b"22")
        assert watched.inbox.wait(PATIENCE_S)
        _drain(watched.inbox)
        watched.remove(path)
        assert watched.inbox.wait(PATIENCE_S)

    def test_what_changed_since_the_mark_is_stale(self, watched: Watched) -> None:
        path = f"{watched.directory}/file"
        watched.write(path, b"1")
        watched.watcher.follow([path])
        watched.watcher.mark()
        assert not watched.watcher.is_stale()
        watched.write(path, b"22")
        assert watched.watcher.is_stale()
        watched.watcher.mark()
        assert not watched.watcher.is_stale()
        watched.remove(path)
        assert watched.watcher.is_stale()

    def test_following_more_keeps_the_mark_of_before(self, watched: Watched) -> None:
        one, two = f"{watched.directory}/one", f"{watched.directory}/two"
        watched.write(one, b"1")
        watched.watcher.follow([one])
        watched.watcher.mark()
        watched.write(one, b"22")
        watched.watcher.follow([one, two])
        assert watched.watcher.is_stale()

    def test_only_what_is_new_may_have_been_missed(self, watched: Watched) -> None:
        path = f"{watched.directory}/file"
        watched.write(path, b"1")
        assert watched.watcher.follow([path])
        assert not watched.watcher.follow([path, f"{watched.directory}/other"])
        assert watched.watcher.last_error == ""

    def test_what_is_stopped_tells_nothing_more(self, watched: Watched) -> None:
        path = f"{watched.directory}/file"
        watched.watcher.follow([path])
        watched.watcher.stop()
        watched.write(path, b"1")
        assert watched.inbox.wait(0.0) == []


def _drain(inbox: mailbox.Mailbox[str]) -> None:
    """Take what else one change was told as."""
    while inbox.wait(0.2):
        pass


class TestFileWatcher(WatcherContract):
    @pytest.fixture
    def watched(self, tmp_path: Path) -> Iterator[Watched]:
        inbox: mailbox.Mailbox[str] = mailbox.Mailbox()

        def write(path: str, data: bytes) -> None:
            Path(path).write_bytes(data)

        made = watch.FileWatcher(inbox, lambda: "changed", sights.Sights(mounts.Mounts()))
        yield Watched(made, inbox, write, os.unlink, str(tmp_path))
        made.stop()


class TestFakeWatcher(WatcherContract):
    @pytest.fixture
    def watched(self) -> Watched:
        disk, inbox = Disk(), mailbox.Mailbox[str]()
        made = FakeWatcher(disk, lambda: inbox.post("changed"))

        def write(path: str, data: bytes) -> None:
            disk.write(path, data)
            made.changed(path)

        def remove(path: str) -> None:
            disk.remove(path)
            made.changed(path)

        return Watched(made, inbox, write, remove, "/etc")
