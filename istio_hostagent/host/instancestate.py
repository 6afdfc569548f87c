"""The states of agents with a name: they lie below one directory of the host's own agent's state.

Versions before this one kept each beside what is the host's own; that is moved by the first start,
or verb, that works on it alone. Not here: where the directories are (`instances`).
"""

import contextlib
import os
from collections.abc import Mapping

from ..config import model
from . import certificatefiles, files, generations, instances

# One of these is in every state directory whose agent has run.
_SIGNS = ("accepted.json", "refused.json", "joined", "joining", "address", "certs")
# What the host's own agent and the package keep there may be called like an agent.
_HOSTS = frozenset(
    (
        *("certs", "outputs", "enabled", model.MOUNTED, model.CERTIFICATE, instances.STATES),
        *("joined", "joining", "address", "told", "registered", "catalogue", "names"),
    )
)
_DATA, _STAGED = "..data", "..staged"


def settle(environment: Mapping[str, str]) -> str:
    """Move what an earlier version has left for this agent; gives from where, or nothing.

    For whoever holds the agent's lock. Killed on the way it is begun anew. Raises OSError.
    """
    earlier = instances.find_earlier_state(environment)
    state = instances.find_places(environment).state_dir
    if not earlier or not is_earlier(earlier) or os.path.lexists(state):
        return ""
    for name in (model.CERTIFICATE, model.MOUNTED):
        _move_store(earlier, state, name)
    files.make_directory(os.path.dirname(state))
    os.rename(earlier, state)
    for directory in (earlier, state):
        files.sync_directory(os.path.dirname(directory))
    return earlier


def is_earlier(path: str) -> bool:
    """Whether it is the state of an agent with a name, left by a version before this one."""
    name = os.path.basename(path)
    if not instances.is_name(name) or name in _HOSTS:
        return False
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    return any(os.path.lexists(os.path.join(path, sign)) for sign in _SIGNS)


def find_others(state_dir: str) -> tuple[str, ...]:
    """Give what of the host's own state directory is of agents with a name, by relative path."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found += [each for each in os.listdir(state_dir) if is_earlier(f"{state_dir}/{each}")]
    below = os.path.join(state_dir, instances.STATES)
    with contextlib.suppress(FileNotFoundError):
        found += [
            f"{instances.STATES}/{each}"
            for each in os.listdir(below)
            if os.path.isdir(os.path.join(below, each))
        ]
    return tuple(sorted(found))


def _move_store(earlier: str, state: str, name: str) -> None:
    """Let the links from and to a certificate of the agent's own lead to where they will be."""
    before = certificatefiles.find_store(earlier, f"{earlier}/{name}")
    after = certificatefiles.find_store(earlier, f"{state}/{name}")
    if os.path.isdir(before):
        _lead(f"{after}{certificatefiles.OUTPUT}", f"{state}/{name}")
        os.rename(before, after)
    files.remove(f"{before}{certificatefiles.OUTPUT}")
    current = os.path.join(os.path.dirname(after), certificatefiles.CURRENT)
    if os.path.islink(current) and os.readlink(current) == f"{earlier}/{name}":
        _lead(current, f"{state}/{name}")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        # It is istio-proxy's, who may have turned it into a link.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        output = os.open(f"{earlier}/{name}", flags)
        try:
            generation = os.path.basename(os.readlink(_DATA, dir_fd=output))
            if generations.is_generation(generation):
                store = certificatefiles.find_store(state, f"{state}/{name}")
                _lead(_DATA, f"{store}/{generation}", within=output)
        finally:
            os.close(output)


def _lead(link: str, target: str, *, within: int | None = None) -> None:
    """Replace a link."""
    staged = os.path.join(os.path.dirname(link), _STAGED)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged, dir_fd=within)
    os.symlink(target, staged, dir_fd=within)
    os.rename(staged, link, src_dir_fd=within, dst_dir_fd=within)
