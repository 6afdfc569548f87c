"""Can a path be trusted with commands and binaries (design invariant 5)?

Only a path on which nobody but root can change anything can.
"""

import errno
import os
import stat

from ..config import model

# The longest chain of symbolic links that the kernel follows (path_resolution(7)).
MAX_SYMLINKS = 40


def probe_trust(path: str) -> model.Trust:
    """Say whether only root can change what `path` leads to, or which part of it is weak.

    Every component up to the first weak one is looked at, through symbolic links: what lies behind
    that one is theirs, and may be a mount that never answers. A directory that others may write
    to is accepted only if it is sticky: then they cannot replace an entry that belongs to root
    (inode(7)). Raises OSError, ELOOP for a loop of links.
    """
    pending = [part for part in os.path.abspath(path).split("/") if part]
    resolved = "/"
    links = 0
    while True:
        status = os.lstat(resolved)
        if weakness := _weakness(resolved, status):
            return model.Trust(is_root_only=False, detail=weakness)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(resolved)
            base = "/" if target.startswith("/") else os.path.dirname(resolved)
            pending = [part for part in target.split("/") if part not in ("", ".")] + pending
            resolved = base
            continue
        if not pending:
            return model.Trust(is_root_only=True)
        part = pending.pop(0)
        resolved = os.path.dirname(resolved) if part == ".." else os.path.join(resolved, part)


def _weakness(path: str, status: os.stat_result) -> str:
    mode = stat.S_IMODE(status.st_mode)
    is_shared = bool(mode & 0o022) and not stat.S_ISLNK(status.st_mode)
    is_sticky_directory = stat.S_ISDIR(status.st_mode) and bool(mode & stat.S_ISVTX)
    if status.st_uid == 0 and not (is_shared and not is_sticky_directory):
        return ""
    return f"{path} belongs to {user_name(status.st_uid)} with mode {mode:04o}"


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
