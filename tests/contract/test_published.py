"""What is promised of the file that everybody may read: on a disk, and in memory."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from istio_hostagent.host import ports, published
from tests.fakes.published import FakePublished

STATE = {"version": 1, "in_mesh": True, "summary": "in the mesh"}


class Line(NamedTuple):
    file: ports.Published
    read: Callable[[], dict[str, Any] | None]
    fill: Callable[[], None]  # from now on there is no room


class PublishedContract:
    def test_what_is_written_is_read(self, line: Line) -> None:
        assert line.read() is None
        line.file.write(STATE)
        line.file.write(STATE | {"in_mesh": False})
        assert line.read() == STATE | {"in_mesh": False}

    def test_what_is_removed_is_gone(self, line: Line) -> None:
        line.file.write(STATE)
        line.file.remove()
        assert line.read() is None
        line.file.remove()

    def test_without_room_what_was_there_stays(self, line: Line) -> None:
        line.file.write(STATE)
        line.fill()
        with pytest.raises(OSError, match=r"."):
            line.file.write(STATE | {"in_mesh": False})
        assert line.read() == STATE


class TestFake(PublishedContract):
    @pytest.fixture
    def line(self) -> Line:
        fake = FakePublished()

        def fill() -> None:
            fake.is_full = True

        return Line(fake, lambda: fake.state, fill)


class TestReal(PublishedContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "1.status"

    @pytest.fixture
    def line(self, path: Path) -> Line:
        def read() -> dict[str, Any] | None:
            found = published.read(str(path))
            if found.state is None:
                return None
            return {name: value for name, value in found.state.items() if name != "writer"}

        def fill() -> None:
            path.with_name(f"{path.name}.new").mkdir()

        return Line(published.Published(str(path)), read, fill)

    def test_everybody_may_read_it_whatever_the_mask(self, line: Line, path: Path) -> None:
        before = os.umask(0o077)
        try:
            line.file.write(STATE)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert published.read(str(path)).problem == ""

    def test_what_a_writer_said_that_is_gone_is_nothing_to_go_by(self, path: Path) -> None:
        script = (
            "import sys; from istio_hostagent.host import published;"
            "published.Published(sys.argv[1]).write({'in_mesh': True})"
        )
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
        found = published.read(str(path))
        assert found.state is not None
        assert "has ended without a word" in found.problem

    def test_neither_is_the_number_of_a_process_that_another_has_now(
        self, line: Line, path: Path
    ) -> None:
        line.file.write(STATE)
        text = json.loads(path.read_text())
        text["writer"]["birth"] -= 1
        path.write_text(json.dumps(text))
        assert "has ended without a word" in published.read(str(path)).problem

    @pytest.mark.parametrize("seconds", [published.STALE_S + 1, -3600.0], ids=["old", "ahead"])
    def test_neither_is_a_silent_one(self, line: Line, path: Path, seconds: float) -> None:
        line.file.write(STATE)
        text = json.loads(path.read_text())
        text["writer"]["monotonic"] -= seconds
        path.write_text(json.dumps(text))
        assert "has said nothing for" in published.read(str(path)).problem

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"writer": 1}', '{"writer": {"pid": "x"}}'])
    def test_what_is_no_state_is_said_to_be_unreadable(self, path: Path, text: str) -> None:
        path.write_text(text)
        found = published.read(str(path))
        assert found.state is None
        assert "cannot be read" in found.problem

    def test_what_is_not_there_says_that_no_agent_runs(self, path: Path) -> None:
        assert published.read(str(path)).problem == "no agent runs in this network namespace"
