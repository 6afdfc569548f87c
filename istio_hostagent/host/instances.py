"""Which agent this process is, or asks: the host's own, or one beside others with a name.

ISTIO_HOSTAGENT_INSTANCE in the environment names it (design invariant 10); no file can, since the
name says where the files lie. An agent with a name has no packet rules. One that is not root's is
its user's: everything that it starts runs as that user, and files of that user's are trusted as
root's are.
"""

import os
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import NotPermitted, WrongUsage, describe

KEY = "ISTIO_HOSTAGENT_INSTANCE"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_OWN = "istio-hostagent"
# Of the state directory of the host's own agent: those of all others lie below it.
STATES = "instances"


class Places(NamedTuple):
    """The agent's own directories (systemd.exec(5): CONFIGURATION_, STATE_, RUNTIME_DIRECTORY)."""

    config_dir: str
    state_dir: str
    runtime_dir: str


def check_name(name: str) -> None:
    """Raise WrongUsage for a name that cannot be part of file names."""
    if not is_name(name):
        raise WrongUsage(f"{KEY}: {name!r} is not 1 to 32 of a-z, 0-9 and - inside")


def own() -> str:
    """The name of the agent that this process is about; empty: the host's own."""
    return os.environ.get(KEY, "")


def is_users() -> bool:
    """Whether that is the agent of an ordinary user, who is the one of this process."""
    return bool(own()) and os.geteuid() != 0


def owners() -> frozenset[int]:
    """Those whose files are trusted."""
    return frozenset((0, os.geteuid())) if is_users() else frozenset((0,))


def find_places(environment: Mapping[str, str]) -> Places:
    """Take systemd's variables, or the paths that its unit would have.

    For an ordinary user those of the XDG Base Directory Specification. With a name, a directory of
    that name below each; of states apart from what the host's own agent keeps there.
    """
    bases = _find_bases(environment)
    name = own()
    if not name:
        return bases
    return Places(
        config_dir=os.path.join(bases.config_dir, name),
        state_dir=os.path.join(bases.state_dir, STATES, name),
        runtime_dir=os.path.join(bases.runtime_dir, name),
    )


def find_earlier_state(environment: Mapping[str, str]) -> str:
    """Where a version before this one may have left the state of this agent, or nothing."""
    path = os.path.join(_find_bases(environment).state_dir, own())
    return path if own() and os.path.isdir(path) else ""


def is_name(name: str) -> bool:
    """Whether an agent may be called so."""
    return bool(_NAME.fullmatch(name))


def control_directory() -> str:
    """Where an ordinary user's sockets and locks lie; made, and nobody else's.

    Raises NotPermitted.
    """
    path = _find_bases(os.environ).runtime_dir
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise NotPermitted(f"{path}: {describe(error)}", hint="set RUNTIME_DIRECTORY") from error
    is_own = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o022
    if not (is_own and stat.S_ISDIR(status.st_mode)):
        raise NotPermitted(f"others can change {path}", hint="set RUNTIME_DIRECTORY")
    return path


def _find_bases(environment: Mapping[str, str]) -> Places:
    config, state, runtime = "/etc", "/var/lib", "/run"
    own_runtime = ""
    if is_users():
        home = environment.get("HOME") or "/"
        config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
        state = environment.get("XDG_STATE_HOME") or f"{home}/.local/state"
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        own_runtime = "" if runtime else f"/tmp/{_OWN}-{os.geteuid()}"  # noqa: S108 # checked
    return Places(
        config_dir=environment.get("CONFIGURATION_DIRECTORY") or f"{config}/{_OWN}",
        state_dir=environment.get("STATE_DIRECTORY") or f"{state}/{_OWN}",
        runtime_dir=environment.get("RUNTIME_DIRECTORY") or own_runtime or f"{runtime}/{_OWN}",
    )
