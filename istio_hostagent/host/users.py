"""The user and group that the proxy runs as, and acting as somebody for a moment."""

import contextlib
import os
import pwd
from collections.abc import Iterator

from ..errors import HostUnsupported
from . import instances

DEFAULT_USER = "istio-proxy"
# Istio's fixed uid, used where the user does not exist (istio-iptables does the same).
DEFAULT_ID = 1337


def probe_user(name: str = DEFAULT_USER) -> tuple[int, int]:
    """Return uid and gid of a user; Istio's 1337 for both where it does not exist.

    An agent of an ordinary user runs everything as that user.

    Raises HostUnsupported for a user that is root: its traffic could not be told from others'.
    """
    if instances.is_users():
        return os.geteuid(), os.getegid()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return DEFAULT_ID, DEFAULT_ID
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise HostUnsupported(f"user {name} has uid {entry.pw_uid} and gid {entry.pw_gid}")
    return entry.pw_uid, entry.pw_gid


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Act as this user and group; OSError if that is not permitted. For workers that are root's.

    New sockets belong to them, and what only they may see is seen.
    """
    os.setegid(gid)
    try:
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)
    finally:
        os.setegid(0)
