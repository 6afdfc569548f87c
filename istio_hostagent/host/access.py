"""Why this process may not read a file, and who has to change what.

For workers that run as istio-proxy: only they can say what is closed to that user. Not here:
opening the file.
"""

import errno
import os
import shlex

from ..errors import find_remedy
from . import trust


def explain(path: str, error: OSError) -> str:
    """Say in one clause why `path` cannot be read, and what mends that."""
    number = error.errno or 0
    user = trust.user_name(os.geteuid())
    real = os.path.realpath(path)
    if number == errno.EACCES:
        return _explain_denied(path, real, user)
    if number == errno.ENOENT:
        return _explain_missing(path, real)
    remedy = find_remedy(None, os.strerror(number))
    return f"cannot be read by {user}: {os.strerror(number)}{f' ({remedy})' if remedy else ''}"


def find_closed(path: str) -> str:
    """The first directory on the way that this process may not pass; empty: there is none."""
    return next((each for each in _above(path) if not _may_pass(each)), "")


def _explain_denied(path: str, real: str, user: str) -> str:
    for directory in _above(real):
        if not os.access(directory, os.X_OK):
            owner, quoted = _describe(directory), shlex.quote(directory)
            return (
                f"cannot be reached by {user}: {owner}"
                f" (setfacl -m u:{user}:x {quoted}, or chmod o+x {quoted})"
            )
    if not os.access(real, os.R_OK):
        return f"cannot be read by {user}: {_describe(real)} (chown {user} {shlex.quote(path)})"
    return (
        f"cannot be read by {user} although owner and mode allow it"
        " (journalctl -k tells of AppArmor and SELinux)"
    )


def _explain_missing(path: str, real: str) -> str:
    if os.path.lexists(path):
        return f"is a link to {real}, which does not exist"
    missing = next((each for each in _above(real) if not os.path.lexists(each)), "")
    return f"does not exist, nor does its directory {missing}" if missing else "does not exist"


def _may_pass(directory: str) -> bool:
    return os.access(directory, os.X_OK) or not os.path.lexists(directory)


def _above(path: str) -> list[str]:
    """Every directory on the way, from the root on."""
    found: list[str] = []
    while (path := os.path.dirname(path)) not in found:
        found.append(path)
    return found[::-1]


def _describe(path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError:
        return f"{path} is closed to it"
    return trust.describe(path, status.st_uid, status.st_mode)
