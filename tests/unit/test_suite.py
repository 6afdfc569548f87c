"""What failed in the suite is run again, alone: `tests.suite`, with suites of a few lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
ONCE = """
import pathlib, pytest
from tests.lab import facts
SEEN = pathlib.Path(__file__).with_suffix(".seen")
@pytest.mark.xdist_group("a-1.0 with, lists")
@pytest.mark.parametrize("x", ["b c@d-e"])
def test_once(x):
    assert SEEN.exists() or SEEN.touch()
"""
PASSING = "def test_passing(): pass\n"
FAILING = "def test_{0}(): assert False\n"
BROKEN = "import nothing_of_that_name\n"
# Each passes, or says nothing, the second time.
HAPPENING = """
@pytest.fixture
def ending():
    yield
    assert SEEN.with_suffix(".ended").exists() or SEEN.with_suffix(".ended").touch()
def test_happening(ending):
    seen = SEEN.with_suffix(".happened")
    is_first = not seen.exists()
    seen.touch()
    facts.never(is_first, "a plain request was answered")
"""
DYING = """
import os
def test_dying():
    SEEN.with_suffix(".died").exists() or SEEN.with_suffix(".died").touch() or os._exit(1)
"""
SKIPPING = """
def test_skipping():
    if SEEN.with_suffix(".failed").exists():
        pytest.skip("not here")
    assert SEEN.with_suffix(".failed").touch()
"""
# The one before it leaves something behind, each time.
SPOILT = """
spoilt = []
def test_a(): spoilt.append(1)
def test_b(): assert not spoilt
"""


def run(directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "pytest.ini").touch()
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "tests.suite", *arguments, "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTEST_DEBUG_TEMPROOT"] = str(directory)  # and not that of this run
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


def test_one_that_passes_alone_is_named_and_refuses_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, ONCE + PASSING, "-n", "1", "--dist", "loadgroup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout  # nothing of the first run is hidden
    assert done.stdout.splitlines()[-1].strip() == "test_it.py::test_once[b c@d-e]"
    assert done.stdout.splitlines()[-2].endswith("to be mended:")


@pytest.mark.parametrize(
    ("text", "status", "runs"),
    [
        pytest.param(PASSING, 0, 1, id="nothing failed"),
        pytest.param(FAILING.format("a"), 1, 2, id="one that fails alone too"),
        pytest.param(ONCE + FAILING.format("a"), 1, 2, id="one of two fails again"),
        pytest.param(SPOILT, 1, 2, id="one that another one spoils"),
        pytest.param(ONCE + SKIPPING, 1, 2, id="one that skips the second time"),
        pytest.param(ONCE + HAPPENING, 1, 1, id="what may never happen"),
        pytest.param(
            ONCE + "".join(FAILING.format(each) for each in "abcd"), 1, 1, id="more than a few"
        ),
        pytest.param(BROKEN, 2, 1, id="what cannot be read"),
        pytest.param("", 5, 1, id="no tests"),
    ],
)
def test_everything_else_is_what_pytest_says(
    tmp_path: Path, text: str, status: int, runs: int
) -> None:
    done = run(tmp_path, text)
    assert done.returncode == status, done.stdout
    assert "to be mended" not in done.stdout
    assert len(re.findall(r" in \d+\.\d+s", done.stdout)) == runs


@pytest.mark.parametrize(
    "text", [HAPPENING, DYING], ids=["what may never happen", "a dead process"]
)
def test_some_failures_are_final_in_parallel_as_well(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, ONCE + text, "-n", "1")
    assert done.returncode == 1, done.stdout
    assert "nothing beside" not in done.stdout
