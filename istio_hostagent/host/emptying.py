"""Empty a directory of ours: what is in it goes, the directory stays.

It is root's; what lies deeper may be istio-proxy's, and no link there is followed.
"""

import os
import shutil
import stat
from collections.abc import Collection


def remove_of(path: str, uid: int) -> bool:
    """Remove a file of a user's, wherever it lies, and nothing that is not this user's.

    Whoever names the path, or turns a directory on the way while this looks, can have no file of
    anybody else removed: it is looked at and removed in one directory that is held open.
    """
    place, name = os.path.split(path)
    try:
        directory = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.lstat(name, dir_fd=directory)
        if status.st_uid != uid or not stat.S_ISREG(status.st_mode):
            return False
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


def is_there(path: str) -> bool:
    """Whether anything has this name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def is_directory(path: str) -> bool:
    """Whether it is a directory, or leads to one."""
    return os.path.isdir(path)


def find_noted(directory: str, suffix: str) -> tuple[str, ...]:
    """Where the links in it lead whose names end so; none where it is not there."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return ()
    paths = (os.path.join(directory, name) for name in names if name.endswith(suffix))
    return tuple(os.readlink(path) for path in paths if os.path.islink(path))


def empty(directory: str, kept: Collection[str] = ()) -> tuple[str, ...]:
    """Remove everything in it but what is `kept`, and give the names; raises OSError."""
    try:
        names = sorted(set(os.listdir(directory)) - set(kept))
    except FileNotFoundError:
        return ()
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    return tuple(names)
