"""Certificate files for other programs, written by root: one file, or three that switch together.

    FILE                                  replaced by one rename
    DIR/key.pem -> ..data/key.pem         (and the two others)
    DIR/..data  -> ..set-000007           swapped by one rename
    DIR/..set-000006                      the set before, for readers that hold it open

Everything on the way belongs to root alone, or nothing is written: nobody else can aim root
elsewhere. The modes are those asked for from the first byte on, and owners come before content.
Whoever is killed between any two lines leaves the set before or the new one. Not here: what the
files hold.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Mapping

from ..errors import NotPermitted, find_remedy
from . import files, ownership, trust

_DATA, _STAGED, _PREFIX = "..data", "..staged", "..set-"
_NEW = ".new"
_PUBLIC_MODE = 0o644
KEY = "key.pem"
# What the bytes of an output that is one file go by, on their way to root.
CONTENT = "content"


def require_roots(directory: str) -> None:
    """Nobody but root can change what leads to a directory; raises NotPermitted, OSError."""
    # A test may be anybody; what is asked then is that nobody else can.
    weak = ownership.find_weak(directory, frozenset((0, os.geteuid())))
    if weak is not None:
        what = trust.describe(weak[0], weak[1].st_uid, weak[1].st_mode)
        raise NotPermitted(
            f"root writes only where nobody else can: {what}",
            hint="name a directory of root's in ISTIO_HOSTAGENT_OUTPUTS",
        )


def write_file(path: str, data: bytes, *, mode: int, owner: tuple[int, int]) -> None:
    """Replace a file, whole or not at all, surviving a power cut; raises NotPermitted, OSError."""
    directory, name = os.path.split(path)
    require_roots(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=descriptor).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        _write_new(name + _NEW, data, mode, owner, within=descriptor)
        os.rename(name + _NEW, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_set(
    directory: str, content: Mapping[str, bytes], *, mode: int, owner: tuple[int, int]
) -> None:
    """Replace all files of a directory at once; `mode` is the key's. Raises as `write_file`.

    The directory is made if need be. Files there that have these names and are not of such a set
    are an error: they are somebody's.
    """
    require_roots(os.path.dirname(directory))
    files.make_directory(directory)
    require_roots(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_own(descriptor, directory, content)
        numbers = [_number(name) for name in os.listdir(descriptor) if name.startswith(_PREFIX)]
        made = f"{_PREFIX}{max(numbers, default=0) + 1:06d}"
        before = _read_link(descriptor, _DATA)
        os.mkdir(made, 0o755, dir_fd=descriptor)
        inner = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        try:
            os.fchmod(inner, 0o755)
            for name, data in content.items():
                each_mode = mode if name == KEY else _PUBLIC_MODE
                _write_new(name, data, each_mode, owner, within=inner)
            os.fsync(inner)
        finally:
            os.close(inner)
        _place_link(descriptor, _DATA, made)
        os.fsync(descriptor)
        for name in content:
            if _read_link(descriptor, name) is None:
                _place_link(descriptor, name, f"{_DATA}/{name}")
        os.fsync(descriptor)
        _remove_sets(descriptor, kept={made, before})
    finally:
        os.close(descriptor)


def remove(path: str, found: list[list[int]] | None) -> bool:
    """Remove a file or a set that still is as `fingerprint` gave it; raises as `write_file`.

    False where it is not: then it is somebody's. Of a set its directory goes too, if nothing else
    is in it. One that a killed remover has begun to take away is recognised.
    """
    directory = os.path.dirname(path)
    require_roots(directory)
    try:
        is_set = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True
    # A file has one entry, a set more.
    if found is None or is_set != (len(found) > 1):
        return False
    seen = fingerprint(path)
    if not is_set:
        if seen == found:
            os.unlink(path)
            _sync(directory)
        return seen == found
    require_roots(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if seen != found and _is_there(descriptor, _DATA):
            return False
        # All at once for readers; what is left leads nowhere and has names of ours alone.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_DATA, dir_fd=descriptor)
        os.fsync(descriptor)
        for each in os.listdir(descriptor):
            if _read_link(descriptor, each) == f"{_DATA}/{each}":
                os.unlink(each, dir_fd=descriptor)
        _remove_sets(descriptor, kept=set())
        is_empty = not os.listdir(descriptor)
    finally:
        os.close(descriptor)
    if is_empty:
        os.rmdir(path)
    _sync(directory)
    return True


def fingerprint(path: str) -> list[list[int]] | None:
    """What changes when a file, or a set, is touched by anybody; None where there is none.

    Nothing is opened, so that it may be a file that only its owner can read.
    """
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return [_describe(status)]
        data = os.path.join(path, _DATA)
        found = [_describe(os.lstat(data))]
        for name in sorted(os.listdir(data)):
            found.append(_describe(os.lstat(os.path.join(data, name))))
            found.append(_describe(os.lstat(os.path.join(path, name))))
    except OSError:
        return None
    return found


def describe(path: str, error: OSError, done: str = "written") -> str:
    """Say why it could not be written, or removed, and what mends that."""
    remedy = find_remedy(None, os.strerror(error.errno or 0))
    if error.errno == errno.EROFS:
        remedy = "the service may not write there: see ProtectSystem= of istio-hostagent.service"
    text = f"{path} cannot be {done}: {error.strerror or error}"
    return f"{text} ({remedy})" if remedy else text


def _describe(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_ctime_ns, status.st_size]


def _write_new(name: str, data: bytes, mode: int, owner: tuple[int, int], *, within: int) -> None:
    if "/" in name:  # it would lead out of the directory, whose way there was looked at
        raise NotPermitted(f"{name} is no name of a file in a directory")
    # One that a killed writer has left may be its owner's already, and could not be opened.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=within)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=within)
    with open(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        # Nobody can open it before it is complete: until here it is root's, with mode 0600. Who
        # has no CAP_FOWNER can change the mode only of what is still its own.
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, *owner)
        os.fsync(descriptor)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_there(descriptor: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=descriptor)
    except FileNotFoundError:
        return False
    return True


def _require_own(descriptor: int, directory: str, names: Mapping[str, bytes]) -> None:
    for name in names:
        if _is_there(descriptor, name) and _read_link(descriptor, name) != f"{_DATA}/{name}":
            raise NotPermitted(
                f"{directory}/{name} is there and was not written by this agent",
                hint="move it away, or name another directory in ISTIO_HOSTAGENT_OUTPUTS",
            )


def _place_link(descriptor: int, name: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_STAGED, dir_fd=descriptor)
    os.symlink(target, _STAGED, dir_fd=descriptor)
    os.rename(_STAGED, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)


def _read_link(descriptor: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=descriptor)
    except OSError:
        return None


def _remove_sets(descriptor: int, *, kept: set[str | None]) -> None:
    """What cannot be removed now is tried again the next time."""
    for name in os.listdir(descriptor):
        if not name.startswith(_PREFIX) or name in kept:
            continue
        with contextlib.suppress(OSError):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            try:
                for each in os.listdir(inner):
                    os.unlink(each, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=descriptor)


def _number(name: str) -> int:
    text = name.removeprefix(_PREFIX)
    return int(text) if text.isascii() and text.isdigit() else 0
