"""Can a path be trusted with commands and binaries (design invariant 5)?

Only a path on which nobody but root can change anything can. Where the agent is an ordinary
user's, that user counts as root does.
"""

import os
import stat

from ..config import model
from . import instances, ownership


def probe_trust(path: str) -> model.Trust:
    """Say whether only root can change what `path` leads to, or which part of it is weak.

    Raises OSError, ELOOP for a loop of links.
    """
    weak = ownership.find_weak(path, instances.owners())
    if weak is None:
        return model.Trust(is_root_only=True)
    return model.Trust(
        is_root_only=False, detail=describe(weak[0], weak[1].st_uid, weak[1].st_mode)
    )


def is_way_roots(directory: str) -> bool:
    """Whether only root can replace a directory, or what leads there; it may be anybody's itself.

    One that is not there is root's to make. Raises OSError.
    """
    try:
        return ownership.find_weak(directory, instances.owners(), is_end_free=True) is None
    except FileNotFoundError:
        return probe_trust(os.path.dirname(directory)).is_root_only


def resolve(path: str) -> str:
    """Give a path with the links resolved that only root can change; no other is followed."""
    return ownership.resolve(path, instances.owners())


def describe(path: str, uid: int, mode: int) -> str:
    """Say whose a component of a path is, and who may change it."""
    return f"{path} belongs to {user_name(uid)} with mode {stat.S_IMODE(mode):04o}"


def user_name(uid: int) -> str:
    """Return the name that this host itself gives a user, else its number.

    Not getpwuid(3): for a number without a name it asks directories that may not answer.
    """
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, number, *_rest = [*line.split(":"), "", ""]
                if number == str(uid):
                    return name
    except OSError:
        pass
    return str(uid)
