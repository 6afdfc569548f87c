"""The whole suite, and again what failed in it: `python -m tests.suite PYTEST-ARGUMENTS`.

The suite runs twice as many tests at once as there are processors, and some of them kill and time
processes. If a few fail, the files that they are in are run again, with nothing beside them. A
test that passes there has lost a race, in itself or in the product: it is named in the last lines,
to be mended, and refuses no change. Nothing is run again if more than FEW have failed, if something
has happened that may never happen (`tests.lab.facts`), or if a process of the tests has died. A
test that is skipped in the second run has failed. As a plugin of pytest this writes down how tests
ended.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import facts

FEW = 4
ENDS = "HOSTAGENT_ENDS"  # the file, in the environment of a run
# What may be run again, what may not, what is good, and what says nothing.
FAILED, FINAL, PASSED, SKIPPED = "failed", "final", "passed", "skipped"
# What pytest-xdist adds to the name of a test: its group (`conftest.group_of`).
_GROUP = re.compile(r"(?<=[\w\]])@[^\[\]:/]+$")
_HAPPENED = "happened"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Note what may never happen; the note comes from a process of pytest-xdist with the report."""
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(facts.Happened):
        report.user_properties.append((_HAPPENED, True))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write down how each test ended."""
    if ENDS not in os.environ or hasattr(terminalreporter.config, "workerinput"):
        return
    lines: dict[str, str] = {}
    for kind in ("passed", "skipped", "xfailed", "failed", "error"):
        for each in terminalreporter.getreports(kind):
            name = _GROUP.sub("", each.nodeid)
            if lines.get(name) != FINAL:  # of its call, and the end of a fixture fails as well
                lines[name] = _end_of(each, kind)
    Path(os.environ[ENDS]).write_text("".join(f"{end} {name}\n" for name, end in lines.items()))


def _end_of(report: Any, kind: str) -> str:
    if kind in ("passed", "skipped", "xfailed"):
        return PASSED if kind == "passed" else SKIPPED
    # A process that died has no report of its own; a module that cannot be read is no test.
    is_test = "::" in report.nodeid and getattr(report, "when", "???") != "???"
    has_happened = (_HAPPENED, True) in getattr(report, "user_properties", ())
    return FAILED if is_test and not has_happened else FINAL


def _run(arguments: list[str]) -> tuple[int, dict[str, list[str]]]:
    """The exit status of pytest, and names of tests by their end."""
    ends: dict[str, list[str]] = {FAILED: [], FINAL: [], PASSED: [], SKIPPED: []}
    with tempfile.NamedTemporaryFile("r") as written:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.suite", *arguments]
        environment = os.environ | {ENDS: written.name}
        status = subprocess.run(command, env=environment, check=False).returncode
        for line in written.read().splitlines():
            end, _, name = line.partition(" ")
            ends[end].append(name)
    return status, ends


def main(arguments: list[str]) -> int:
    """Give the exit status of pytest, of the last run of it."""
    status, first = _run(arguments)
    names = first[FAILED]
    if status != pytest.ExitCode.TESTS_FAILED or first[FINAL] or not 0 < len(names) <= FEW:
        return status
    files = sorted({name.partition("::")[0] for name in names})
    print(f"{len(names)} failed; again, with nothing beside them: {' '.join(files)}", flush=True)
    status, second = _run(files)
    if unseen := sorted({*names} - {*second[PASSED], *second[FAILED], *second[FINAL]}):
        print("failed, and not run the second time:", *unseen, sep="\n  ")
        return status or int(pytest.ExitCode.TESTS_FAILED)
    if not status:
        print("failed beside others and passed alone, a race to be mended:", *names, sep="\n  ")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
