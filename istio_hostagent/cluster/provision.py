"""Setting up hosts: files into a private directory there, and a script that installs them.

Several at once, each told apart by its name. Whatever fails, the directory is removed there if the
host can still be reached; if not, the next run begins by removing it.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from typing import NamedTuple

from ..errors import HostAgentError, describe
from ..expansion import hostscript
from . import remote
from .remote import HostNotSetUp, Tools

Make = Callable[[str], Mapping[str, bytes]]
Tell = Callable[[str, str], None]
_QUICK_S = 120.0
_MEMORY = "/dev/shm"  # noqa: S108 # the directories in it are made for this user alone
_PREFIX = "istio-hostagent-"


class Job(NamedTuple):
    """What is done with each host. `packages`: files of the package, or none."""

    tools: Tools
    environment: Mapping[str, str]
    packages: tuple[str, ...]
    wait_s: int


class Outcome(NamedTuple):
    """What became of a host: whether all is done, and in one line what came of it."""

    host: str
    is_done: bool
    words: str


def set_up(
    hosts: Sequence[str], make: Make, job: Job, *, at_once: int, tell: Tell
) -> list[Outcome]:
    """Set hosts up and return what became of each, in their order.

    `make` returns the files for a host by name; `tell` gets a host and what is being done. Both
    are called by several threads.
    """
    _sweep()
    pool = futures.ThreadPoolExecutor(at_once)
    try:
        started = [pool.submit(_one, host, make, job, tell) for host in hosts]
        return [each.result() for each in started]
    finally:
        # Whoever is told to end finishes what is under way and begins no other host.
        pool.shutdown(cancel_futures=True)


def _one(host: str, make: Make, job: Job, tell: Tell) -> Outcome:
    try:
        files = make(host)
        tell(host, "connecting")
        clean = f"umask 077; rm -rf {hostscript.DIRECTORY} && mkdir {hostscript.DIRECTORY}"
        remote.run(job.tools, host, clean, job.environment, timeout_s=_QUICK_S)
        words = ""
        try:
            words = _install(host, files, job, tell)
        finally:
            if not words:
                _remove_there(host, job)
        return Outcome(host, True, words)
    except HostAgentError as error:
        return Outcome(host, False, error.text)


def _install(host: str, files: Mapping[str, bytes], job: Job, tell: Tell) -> str:
    tell(host, "copying files")
    with _directory() as place:
        everything = {**files, hostscript.NAME: hostscript.TEXT.encode()}
        paths = [_write(place, name, data) for name, data in everything.items()]
        remote.copy(
            job.tools, host, [*paths, *job.packages], hostscript.DIRECTORY, job.environment
        )
    script = f"sh {hostscript.DIRECTORY}/{hostscript.NAME} {job.wait_s}"
    command = f'if [ "$(id -u)" = 0 ]; then {script}; else sudo -n {script}; fi'
    tell(host, "installing")
    output = remote.run(job.tools, host, command, job.environment)
    lines = [line for line in output.splitlines() if line]
    steps = [line for line in lines if line.startswith(hostscript.STEP)]
    if not steps or steps[-1] != f"{hostscript.STEP}done":
        raise HostNotSetUp("the script on the host did not come to its end")
    said = [line for line in lines if not line.startswith(hostscript.STEP)]
    return said[-1] if said else "set up"


def _remove_there(host: str, job: Job) -> None:
    """Leave no secret behind, as far as the host can be reached."""
    once = job.tools._replace(tries=1)
    command = f"rm -rf {shlex.quote(hostscript.DIRECTORY)}"
    with suppress(HostAgentError):
        remote.run(once, host, command, job.environment, timeout_s=_QUICK_S)


def _directory() -> tempfile.TemporaryDirectory[str]:
    """A directory for this user alone, in memory if there is such a place."""
    usable = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    try:
        return tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=usable)
    except OSError as error:
        place = usable or tempfile.gettempdir()
        raise HostNotSetUp(
            f"no directory can be made in {place} here: {describe(error)}"
        ) from error


def _sweep() -> None:
    """Remove what a run that was killed has left in memory."""
    with suppress(OSError):
        for entry in os.scandir(_MEMORY):
            number = entry.name.removeprefix(_PREFIX).partition("-")[0]
            is_ours = entry.name.startswith(_PREFIX) and number.isdigit()
            if not is_ours or os.path.exists(f"/proc/{number}"):
                continue
            if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                shutil.rmtree(entry.path, ignore_errors=True)


def _write(directory: str, name: str, data: bytes) -> str:
    path = os.path.join(directory, name)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(data)
    except OSError as error:
        raise HostNotSetUp(f"{path} cannot be written here: {describe(error)}") from error
    return path
