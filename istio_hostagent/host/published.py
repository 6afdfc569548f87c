"""What everybody on this machine may know of the agent: one small file that anybody can read.

The agent writes it, whole or not at all, whenever something in it changes and at least once in
`REFRESH_S`; nobody else can write where it lies, and the agent reads nothing of it. It carries the
process that has written it and when: a reader calls nothing good whose writer is gone or silent.
Next to nothing is imported, so that the smallest reader can use it.
"""

import contextlib
import json
import os
import time
from typing import Any, NamedTuple

from . import control, files, procstate

KIND = "status"
REFRESH_S = 50.0
# An agent that has written nothing for so long does not do its work: it wakes once a minute.
STALE_S = 150.0
_PAUSE_S = 0.5
_MOST = 1 << 16
_MODE = 0o644


class Published:
    """The file of one network namespace, for its agent."""

    def __init__(self, path: str) -> None:
        """Write nothing yet."""
        self._path = path
        pid = os.getpid()
        self._writer = {"pid": pid, "birth": procstate.find_birth(pid)}

    def write(self, state: dict[str, Any]) -> None:
        """Replace it; raises OSError. Nothing is synced: it does not outlive the machine."""
        writer = self._writer | {"monotonic": time.monotonic()}
        data = json.dumps(state | {"writer": writer}).encode()
        temporary = f"{self._path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, _MODE)
        try:
            os.fchmod(descriptor, _MODE)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.replace(temporary, self._path)

    def remove(self) -> None:
        """The agent ends, and says so by this; raises OSError."""
        files.remove(self._path)


class Found(NamedTuple):
    """What a reader has found. `problem`: why nothing of `state` counts any more, or empty.

    `state` is there all the same where one was found: a certificate ends without an agent, too.
    """

    state: dict[str, Any] | None
    problem: str
    age_s: float = 0.0


def find_path() -> str:
    """Where it lies for this network namespace."""
    return control.path_of(KIND)


def read(path: str = "") -> Found:
    """Read the file at a path; of this network namespace if none is named."""
    try:
        found: Any = json.loads(files.read_bounded(path or find_path(), _MOST))
        writer = found["writer"]
        pid, birth, at = int(writer["pid"]), int(writer["birth"]), float(writer["monotonic"])
    except FileNotFoundError:
        return Found(None, "no agent runs in this network namespace")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Found(None, f"what the agent has said cannot be read: {error}")
    age_s = time.monotonic() - at
    problem = ""
    if not _lives(pid, birth):
        problem = f"the agent has ended without a word (pid {pid})"
    elif not 0 <= age_s < STALE_S:
        problem = f"the agent has said nothing for {age_s:.0f} s (pid {pid})"
    return Found(found, problem, age_s)


def fingerprint() -> object:
    """What differs whenever the file has been written, or its writer has gone; for who waits."""
    path = find_path()
    return files.fingerprint(path), read().problem


def wait_for_change(before: object) -> object:
    """Return `fingerprint` once it is another one; asks the disk and not the agent."""
    while (now := fingerprint()) == before:
        time.sleep(_PAUSE_S)
    return now


def _lives(pid: int, birth: int) -> bool:
    now = procstate.find_birth(pid)
    if now:
        return now == birth
    # Where /proc hides the processes of others (hidepid) only this tells (kill(2)).
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
