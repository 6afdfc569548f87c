"""What failed in the suite is run again, alone: `tests.suite`, with suites of a few lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
ONCE = """
import pathlib
def test_once():
    seen = pathlib.Path(__file__).with_suffix(".seen")
    assert seen.exists() or seen.touch()
"""
PASSING = "def test_passing(): pass\n"
# As one that fails now and then: beside others, and the second time alone.
FLAKY = """
import pathlib
def test_flaky():
    log = pathlib.Path(__file__).with_suffix(".log")
    before = log.read_text() if log.exists() else ""
    log.write_text(before + "x")
    assert before == "x"
"""
FAILING = "def test_{0}(): assert False\n"
BROKEN = "import nothing_of_that_name\n"


def run(directory: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "pytest.ini").touch()
    (directory / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "tests.suite", *arguments, "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_one_that_passes_alone_is_named_and_refuses_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, ONCE + PASSING, "-n", "1")
    assert done.returncode == 0, done.stdout
    assert "1 failed, 1 passed" in done.stdout  # nothing of the first run is hidden
    assert done.stdout.splitlines()[-1].strip() == "test_it.py::test_once"
    assert done.stdout.splitlines()[-2].endswith("to be mended:")


@pytest.mark.parametrize(
    ("text", "status", "runs"),
    [
        pytest.param(PASSING, 0, 1, id="nothing failed"),
        pytest.param(FAILING.format("a"), 1, 2, id="one that fails alone too"),
        pytest.param(FLAKY, 1, 3, id="one that fails alone now and then"),
        pytest.param(ONCE + FAILING.format("a"), 1, 2, id="one of two fails again"),
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
