"""Who can change what a path leads to, by the owners and modes on the way there.

Next to nothing is imported, so that the smallest worker can use it. Not here: what follows from it
(`trust`).
"""

import errno
import os
import stat

# The longest chain of symbolic links that the kernel follows (path_resolution(7)).
MAX_SYMLINKS = 40


def find_weak(
    path: str,
    owners: frozenset[int],
    *,
    is_end_free: bool = False,
    is_sticky_trusted: bool = True,
) -> tuple[str, os.stat_result] | None:
    """Give the first component that others than `owners` can change, with its status, or None.

    Every component up to that one is looked at, through symbolic links: what lies behind it is
    theirs, and may be a mount that never answers. A directory that others may write to is accepted
    only if it is sticky: then they cannot replace an entry that belongs to an owner (inode(7)).
    `is_end_free`: a directory or socket in which the path ends may be anybody's, if only owners
    can replace it. `is_sticky_trusted`: False where an owner may be whoever came first.
    Raises OSError, ELOOP for a loop of links.
    """
    pending = [part for part in os.path.abspath(path).split("/") if part]
    resolved = "/"
    links = 0
    while True:
        status = os.lstat(resolved)
        is_end = not pending and (stat.S_ISDIR(status.st_mode) or stat.S_ISSOCK(status.st_mode))
        is_weak = _is_weak(status, owners, is_sticky_trusted=is_sticky_trusted)
        if is_weak and not (is_end_free and is_end):
            return resolved, status
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
            return None
        part = pending.pop(0)
        resolved = os.path.dirname(resolved) if part == ".." else os.path.join(resolved, part)


def resolve(path: str, owners: frozenset[int]) -> str:
    """Give a path with the links resolved that only owners can change; the rest stays as it is.

    So two names of one place are told to be one, and nobody else's link is followed. What is not
    there stays as it is, too.
    """
    pending = [part for part in os.path.abspath(path).split("/") if part]
    resolved = "/"
    links = 0
    while pending:
        part = pending.pop(0)
        if part in ("", "."):
            continue
        here = os.path.dirname(resolved) if part == ".." else os.path.join(resolved, part)
        try:
            status = os.lstat(here)
        except OSError:
            return os.path.join(here, *pending)
        if _is_weak(status, owners) or links > MAX_SYMLINKS:
            return os.path.join(here, *pending)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            target = os.readlink(here)
            pending = target.split("/") + pending
            resolved = "/" if target.startswith("/") else os.path.dirname(here)
        else:
            resolved = here
    return resolved


def _is_weak(
    status: os.stat_result, owners: frozenset[int], *, is_sticky_trusted: bool = True
) -> bool:
    is_shared = bool(status.st_mode & 0o022) and not stat.S_ISLNK(status.st_mode)
    is_sticky = stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)
    return status.st_uid not in owners or (is_shared and not (is_sticky and is_sticky_trusted))
