"""The whole suite, and again, alone, what failed in it: `python -m tests.suite PYTEST-ARGUMENTS`.

The suite runs twice as many tests at once as there are processors, and some of them kill and time
processes. One that fails there and passes by itself, TIMES in a row, has a race, in itself or in
the product. It is named in the last lines, to be mended, and refuses no change. More than FEW
failures are more than that: nothing is run again. As a plugin of pytest this writes down what
failed.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

FEW = 4
TIMES = 2
FAILED = "HOSTAGENT_FAILED"  # the file, in the environment of the first run
# What pytest-xdist adds to the name of a test: its group (`conftest.group_of`).
_GROUP = re.compile(r"@[a-z]+-\w+$")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write down which tests failed, or ended in an error."""
    if FAILED in os.environ and not hasattr(terminalreporter.config, "workerinput"):
        reports = [
            each for kind in ("failed", "error") for each in terminalreporter.getreports(kind)
        ]
        names = dict.fromkeys(_GROUP.sub("", each.nodeid) for each in reports)
        Path(os.environ[FAILED]).write_text("".join(f"{name}\n" for name in names))


def main(arguments: list[str]) -> int:
    """Give the exit status of pytest, of the last run of it."""
    command = [sys.executable, "-m", "pytest", "-q"]
    with tempfile.NamedTemporaryFile("r") as failed:
        environment = os.environ | {FAILED: failed.name}
        first = [*command, "-p", __spec__.name, *arguments]
        status = subprocess.run(first, env=environment, check=False).returncode
        names = failed.read().splitlines()
    are_tests = all("::" in name for name in names)  # and not a module that cannot be read
    if status != pytest.ExitCode.TESTS_FAILED or not 0 < len(names) <= FEW or not are_tests:
        return status
    print(f"{len(names)} failed beside others: {TIMES} times more, alone", flush=True)
    for _ in range(TIMES):
        if status := subprocess.run([*command, *names], check=False).returncode:
            return status
    print("failed beside others and passed alone, a race to be mended:", *names, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
