"""The programs that an administrator's command runs: plugins of kubectl, ssh and scp.

The only door to processes in this room. They are the user's own and run as the user, with the
user's environment and terminal; no shell is involved.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Finished(NamedTuple):
    """How a program ended (negative: by this signal) and what it wrote."""

    status: int
    output: bytes
    errors: bytes


class NotStarted(Exception):
    """There is no such program, or it may not be run; the text says which and why."""


class TookTooLong(Exception):
    """It was ended after its limit."""


def find(name: str, environment: Mapping[str, str]) -> str:
    """Return the path of a program; raises NotStarted."""
    found = shutil.which(name, path=environment.get("PATH", os.defpath))
    if found is None:
        if "/" in name and os.path.exists(name):
            raise NotStarted(f"{name} is not executable")
        where = "" if "/" in name else " in PATH"
        raise NotStarted(f"there is no {name}{where}")
    return found


def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    data: bytes | None = b"",
    timeout_s: float | None = None,
    shows_errors: bool = False,
) -> Finished:
    """Run a program and wait for its end. Raises NotStarted and TookTooLong.

    `data` is its standard input, None the caller's own; `shows_errors`: what it says goes to the
    caller's standard error and is not kept.
    """
    path = find(argv[0], environment)
    try:
        done = subprocess.run(  # noqa: S603 # an argument list, of the user's own programs
            [path, *argv[1:]],
            env=dict(environment),
            # None with no input is the caller's own.
            input=data,
            stdout=subprocess.PIPE,
            stderr=None if shows_errors else subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TookTooLong(f"{argv[0]} did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise NotStarted(f"{path} cannot be run: {os.strerror(error.errno or 0)}") from error
    return Finished(done.returncode, done.stdout or b"", done.stderr or b"")
