"""Commands and files for a host: by ssh and scp, or by what ISTIO_RUN and ISTIO_CP name.

As setupMeshEx.sh calls them: `$ISTIO_CP FILE... HOST:` and `$ISTIO_RUN HOST --command "COMMAND"`,
the form of `gcloud compute ssh`; a program called ssh gets its command as plain words. They are
the user's own, with the user's keys and configuration; nothing secret is on a command line.
"""

import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import HostAgentError, WrongUsage
from . import programs

# What ssh ends with when it could not connect (ssh(1)).
_NOT_CONNECTED = 255
_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.+-]*@)?[A-Za-z0-9_\[:][\w.:\[\]%-]*", re.ASCII)
_PAUSE_S = 2.0


class HostNotReached(HostAgentError):
    """A host could not be reached, or did not let us in; the message has ssh's own words."""

    code = "host-not-reached"
    exit_status = 75


class HostNotSetUp(HostAgentError):
    """A command on a host failed; the message has its last words."""

    code = "host-not-set-up"
    exit_status = 75


class Tools(NamedTuple):
    """The two programs with their options, and how commands are handed over."""

    copy: tuple[str, ...]
    run: tuple[str, ...]
    tries: int = 3

    @property
    def is_plain(self) -> bool:
        """Whether a command is the last word, as with ssh."""
        return os.path.basename(self.run[0]) == "ssh"


def tools(
    environment: Mapping[str, str], *, is_google: bool, asks_nothing: bool, tries: int
) -> Tools:
    """Return what the environment says; raises WrongUsage for what is no command line.

    `asks_nothing`: ssh must not ask for a password, since several run at once.
    """
    # One that falls silent midway ends after a minute.
    silence = ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    options = ["-o", "ConnectTimeout=15", *silence]
    options += ["-o", "BatchMode=yes"] if asks_nothing else []
    google = _split("GCP_OPTS", environment.get("GCP_OPTS", ""))
    copy, run = ["scp", "-q", *options], ["ssh", *options]
    if is_google:
        copy = ["gcloud", "compute", "scp", "--recurse", *google]
        run = ["gcloud", "compute", "ssh", *google]
    copy = _split("ISTIO_CP", environment.get("ISTIO_CP", "")) or copy
    run = _split("ISTIO_RUN", environment.get("ISTIO_RUN", "")) or run
    return Tools(tuple(copy), tuple(run), tries)


def _split(variable: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise WrongUsage(f"{variable} is no command line: {error}") from error


def check_host(text: str) -> str:
    """Return a host as ssh takes it; raises ValueError for what could be an option or command."""
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is no host as NAME, ADDRESS or USER@NAME")
    return text


def run(
    tools: Tools,
    host: str,
    command: str,
    environment: Mapping[str, str],
    *,
    timeout_s: float | None = None,
) -> str:
    """Run a shell's command on a host and return what it printed.

    Raises HostNotReached and HostNotSetUp.
    """
    words = [command] if tools.is_plain else ["--command", command]
    return _perform(tools, host, [*tools.run, host, *words], environment, timeout_s)


def copy(
    tools: Tools,
    host: str,
    files: Sequence[str],
    directory: str,
    environment: Mapping[str, str],
) -> None:
    """Copy files into a directory of a host, below where one logs in. Raises as `run` does."""
    target = f"{_for_scp(host)}:{directory}/"
    _perform(tools, host, [*tools.copy, *files, target], environment, None)


def _perform(
    tools: Tools,
    host: str,
    words: list[str],
    environment: Mapping[str, str],
    timeout_s: float | None,
) -> str:
    left = tools.tries
    while True:
        left -= 1
        try:
            done = programs.run(words, environment, timeout_s=timeout_s)
        except programs.NotStarted as error:
            raise HostNotReached(str(error)) from error
        except programs.TookTooLong as error:
            raise HostNotReached(f"{host}: {error}") from error
        if done.status == 0:
            return done.output.decode(errors="replace")
        said = last_words(done.errors)
        if done.status != _NOT_CONNECTED:
            words_of = said or f"{words[0]} ended with status {done.status}"
            raise HostNotSetUp(words_of)
        # A key that is refused stays refused.
        if left <= 0 or "denied" in said.lower() or "verification failed" in said.lower():
            raise HostNotReached(said or f"{words[0]} did not connect")
        time.sleep(_PAUSE_S)


def last_words(errors: bytes) -> str:
    """Return the last line that a program said, without what ssh adds behind it."""
    lines = [line.strip() for line in errors.decode(errors="replace").splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Connection to ", "debug"))]
    return kept[-1].removeprefix("ssh: ") if kept else ""


def _for_scp(host: str) -> str:
    user, at, name = host.rpartition("@")
    is_six = name.count(":") > 1 and not name.startswith("[")
    return f"{user}{at}[{name}]" if is_six else host
