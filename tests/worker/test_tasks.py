"""Processes that are started for a result: what becomes of those that give none."""

import os
from pathlib import Path

import pytest

from istio_hostagent.agent import reading
from istio_hostagent.errors import Problem
from istio_hostagent.host import files, processes
from istio_hostagent.host import layers as envfiles
from istio_hostagent.host.answers import looker
from tests.lab import hanging, layers
from tests.lab.alive import is_running
from tests.lab.room import Room

NOBODY = processes.User(65534, 65534)
ME = processes.User(os.geteuid(), os.getegid())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory where everybody can look, and in it one to mount on."""
    layers.require("netns", hanging.missing())
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o005 != 0o005:
            directory.chmod(0o755)
    (tmp_path / "mount").mkdir()
    return tmp_path


def sight(path: Path) -> looker.Sight:
    """What the worker has to see of a directory."""
    seen = files.fingerprint(str(path))
    return looker.Sight(seen, seen, is_program=False)


def ask(room: Room, path: Path, timeout_s: float) -> list[object]:
    """Start a worker that looks at a path; its answer appears in the list."""
    found: list[object] = []
    request = (str(path),)
    room.work.start_worker("looker", request, user=NOBODY, timeout_s=timeout_s, done=found.append)
    return found


def test_one_that_cannot_be_ended_is_named_and_no_other_is_started(place: Path) -> None:
    room = Room()
    with hanging.HangingMount(place / "mount") as mount:
        first = ask(room, mount.directory / "a", 20.0)
        room.until(lambda: first != [], "given up")
        assert "did not end in time" in str(first[0])
        second = ask(room, place, 20.0)
        assert room.work.is_running("looker")
        room.until(lambda: second != [], "refused")
        (stuck,) = room.work.stuck
        assert stuck.startswith("looker still runs after SIGKILL: pid ")
        assert stuck.endswith(", state D")
        assert stuck.partition("pid ")[2] in str(second[0])
        assert not room.work.is_running("looker")
    room.until(lambda: room.work.stuck == (), "it ended with the mount")
    third = ask(room, place, 20.0)
    room.until(lambda: third != [], "as before")
    assert third == [(sight(place),)]


def test_one_that_is_abandoned_makes_room_for_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STUCK_S", 30.0)  # one that is killed ends when it is its turn
    room = Room()
    answers = []
    for _ in range(3):
        answers.append(ask(room, place, 20.0))
        room.work.abandon("looker")
    last = ask(room, place, 20.0)
    room.until(lambda: last != [], "its answer")
    assert last == [(sight(place),)]
    assert answers == [[], [], []]
    assert room.work.stuck == ()


class TestReading:
    @pytest.fixture(autouse=True)
    def patience(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if "comes_to_nothing" not in request.node.name:
            monkeypatch.setattr(reading, "TIMEOUT_S", 30.0)

    @pytest.fixture
    def path(self, place: Path) -> Path:
        """A file that is not root's to trust."""
        place.chmod(0o777)
        return place / "sidecar.env"

    def test_who_asks_meanwhile_gets_what_was_written_before_he_asked(self, path: Path) -> None:
        room = Room()
        made = reading.Reading(room.work, envfiles, [str(path)], NOBODY, name="reader")
        texts: list[bytes | None] = []
        starts: list[None] = []

        def taken(found: envfiles.Found | Problem) -> None:
            assert isinstance(found, envfiles.Found)
            texts.append(found.layers[0].data)

        path.write_text("A=1\n")
        made.ask(lambda _found: starts.append(None))
        path.write_text("A=2\n")
        for _ in range(3):
            made.ask(taken)
        assert starts == []
        room.until(lambda: texts != [], "the second reading")
        assert texts == [b"A=2\n"]
        room.until(lambda: not room.work.is_running("reader"), "no third one")
        assert texts == [b"A=2\n"]
        assert starts == [None]

    def test_a_file_that_is_not_there_is_an_answer(self, path: Path) -> None:
        room = Room()
        found: list[envfiles.Found | Problem] = []
        reading.Reading(room.work, envfiles, [str(path)], NOBODY, name="reader").ask(found.append)
        room.until(lambda: found != [], "the answer")
        assert isinstance(found[0], envfiles.Found)
        assert [layer.data for layer in found[0].layers] == [None]
        assert found[0].problems == ()

    def test_one_that_comes_to_nothing_is_one_problem(self, path: Path, place: Path) -> None:
        room = Room()
        found: list[envfiles.Found | Problem] = []
        path.symlink_to(place / "mount" / "sidecar.env")
        with hanging.HangingMount(place / "mount"):
            one = reading.Reading(room.work, envfiles, [str(path)], NOBODY, name="reader")
            one.ask(found.append)
            room.until(lambda: found != [], "the problem")
            assert isinstance(found[0], Problem)
            assert found[0].file == str(path)
            assert "did not end in time" in found[0].message


def run(room: Room, script: str, timeout_s: float) -> list[object]:
    """Start a shell for its output; its status and output appear in the list."""
    found: list[object] = []
    argv = ("/bin/sh", "-c", script)
    room.work.start_program("hook", argv, user=ME, timeout_s=timeout_s, done=found.append)
    return found


def test_a_program_that_is_given_up_takes_with_it_what_it_has_started(tmp_path: Path) -> None:
    room = Room()
    pids = tmp_path / "pids"
    found = run(room, f"sleep 1000 & echo $! > {pids}.new; mv {pids}.new {pids}; wait", 15.0)
    room.until(lambda: found != [], "given up")
    assert found == [(None, b"")]
    room.until(lambda: not is_running(int(pids.read_text())), "ended with it")


@pytest.mark.parametrize("how", ["abandoned", "cancelled"])
def test_a_program_that_is_not_wanted_takes_with_it_what_it_has_started(
    tmp_path: Path, how: str
) -> None:
    room = Room()
    pids = tmp_path / "pids"
    run(room, f"sleep 1000 & echo $! > {pids}.new; mv {pids}.new {pids}; wait", 100.0)
    room.until(pids.exists, "at work")
    if how == "abandoned":
        room.work.abandon("hook")
    else:
        room.work.cancel()
    room.until(lambda: not is_running(int(pids.read_text())), "ended with it")


def test_a_program_that_has_ended_leaves_nothing_running(tmp_path: Path) -> None:
    room = Room()
    pids = tmp_path / "pids"
    found = run(room, f"sleep 1000 >/dev/null & echo $! > {pids}; echo said; exit 3", 100.0)
    room.until(lambda: found != [], "ended")
    assert found == [(3, b"said\n")]
    room.until(lambda: not is_running(int(pids.read_text())), "ended with it")
