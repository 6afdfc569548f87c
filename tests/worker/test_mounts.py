"""Which paths may never answer, and what is seen of them all the same."""

import os
import threading
from pathlib import Path

import pytest

from istio_hostagent.agent import lookout
from istio_hostagent.host import clock, files, mounts, processes, sights
from tests.lab import hanging, layers
from tests.lab.room import Room

NOBODY = processes.User(65534, 65534)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory whose entries lead behind a mount, by its own path: links are not ours to meet."""
    layers.require("netns", hanging.missing())
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(0o755)
    (tmp_path / "mount point").mkdir()
    return tmp_path


def test_what_leads_behind_a_mount_is_known_without_asking_it(place: Path) -> None:
    points = mounts.Mounts()
    mount = place / "mount point"
    (place / "absolute").symlink_to(mount / "token")
    (place / "relative").symlink_to("sub/../mount point/token")
    (place / "sub").mkdir()
    (place / "loop").symlink_to("loop")
    (place / "here").symlink_to("sub")
    assert not points.may_hang(str(mount / "token"))
    with hanging.HangingMount(mount):
        for path in ("mount point", "mount point/a/b", "absolute", "relative", "relative/c"):
            assert points.may_hang(str(place / path)), path
        for path in ("", "none/mount point", "loop", "here/none", "sub/../sub"):
            assert not points.may_hang(str(place / path)), path
        assert not points.may_hang(str(place / "absolute"), follows_link=False)
        assert points.may_hang(str(place / "sub" / ".." / "absolute"))
    assert not points.may_hang(str(mount / "token"))


def test_what_lies_behind_a_mount_is_seen_by_a_worker(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "TIMEOUT_S", 20.0)
    source, mount = place / "source", place / "mount point"
    source.mkdir()
    program = source / "envoy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path, absent = str(mount / "envoy"), str(mount / "none")
    room = Room()
    seen = sights.Sights(mounts.Mounts())
    look = lookout.Lookout(
        room.inbox, room.work, seen, NOBODY, clock.SystemClock(), is_urgent=lambda: False
    )
    with hanging.HangingMount(mount, shows=source) as hung:
        assert seen.fingerprint(path) is None
        assert not seen.is_known(path)
        assert not seen.is_program(absent)
        look.look_at_new()
        room.until(lambda: room.changes == 1, "the first sight")
        assert seen.is_known(path)
        assert seen.is_program(path)
        assert not seen.is_program(absent)
        assert seen.fingerprint(absent) is None
        assert seen.fingerprint(path) == files.fingerprint(str(program))
        look.look_at_new()
        assert not room.work.is_running("looker"), "nothing is new"

        program.write_text("#!/bin/sh\nexit 1\n")
        look.look()
        room.until(lambda: room.changes == 2, "another sight")
        assert seen.fingerprint(path) == files.fingerprint(str(program))

        hung.hang()
        known = seen.fingerprint(path)
        look.look()
        room.until(lambda: room.work.stuck != (), "given up")
        assert seen.fingerprint(path) == known, "what was seen last"
        look.look()
    room.until(lambda: room.work.stuck == (), "it ended with the mount")


def test_a_directory_that_is_istio_proxys_is_not_asked_behind_a_mount(place: Path) -> None:
    mount = place / "mount point"
    (place / "link").symlink_to(mount)
    seen = sights.Sights(mounts.Mounts())
    found: list[object] = []

    def look(directory: Path) -> None:
        seen.keep_out(str(directory))
        path = str(directory / "key.pem")
        found.append((seen.is_entry(path), seen.is_known(path), seen.fingerprint(path)))

    with hanging.HangingMount(mount):
        for directory in (mount, mount / "certs", place / "link" / "certs"):
            looking = threading.Thread(target=look, args=(directory,), daemon=True)
            looking.start()
            looking.join(60)
            assert not looking.is_alive(), f"waits for {directory}"
    assert found == [(False, False, None)] * 3


def test_a_directory_stays_istio_proxys_when_root_leads_the_way_there_later(
    place: Path,
) -> None:
    theirs = place / "theirs"
    (theirs / "certs").mkdir(parents=True)
    (theirs / "certs" / "key.pem").symlink_to("/etc/hostname")
    os.chown(theirs, NOBODY.uid, NOBODY.gid)
    seen = sights.Sights(mounts.Mounts())
    path = str(place / "way" / "certs" / "key.pem")
    seen.keep_out(os.path.dirname(path))
    assert seen.fingerprint(path) is None, "nothing is there"
    (place / "way").symlink_to(theirs)
    assert seen.fingerprint(path) is None, "no link of theirs is followed"
    assert seen.remote() == (path,), "a worker is to look"


def test_ordinary_file_systems_never_hang() -> None:
    points = mounts.Mounts()
    for path in ("/", "/etc/hostname", "/proc/self/status", "/sys/kernel", "/dev/null", "/run"):
        assert not points.may_hang(path), path
    assert not points.may_hang(os.getcwd())
