"""Reading and writing files.

Every write is whole or not at all: a temporary file in the same directory, synced, renamed, and
the directory synced. Next to nothing is imported, so that the smallest worker can use it.
"""

import errno
import os
import stat

# Environment files larger than this are refused by the parser; one byte more is read to see it.
MAX_BYTES = (4 << 20) + 1
# Read at once. A buffer of a megabyte that is freed makes malloc keep the double of it free for
# ever (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3) grow with it).
_PART_BYTES = 1 << 16

# Inode, time of the last change of content, owner or mode (ns, st_ctime: nobody can set it back),
# and size.
Fingerprint = tuple[int, int, int]


def read_bounded(path: str, most: int = MAX_BYTES) -> bytes:
    """Return at most `most` bytes of a regular file; raises OSError, EISDIR or EINVAL for others.

    O_NONBLOCK: a FIFO planted in place of a file must not hang root.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        parts = []
        left = most
        while left and (part := os.read(descriptor, min(left, _PART_BYTES))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def write_atomically(
    path: str, data: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Replace `path` by `data`, whole or not at all, surviving a power cut; raises OSError.

    Nothing is written into a file that was there before, or through a link.
    """
    directory = os.path.dirname(path)
    temporary = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, mode)
    except FileExistsError:
        os.unlink(temporary)  # of one who was killed, or planted
        descriptor = os.open(temporary, flags, mode)
    try:
        os.fchmod(descriptor, mode)
        if owner is not None:
            os.fchown(descriptor, *owner)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_directory(directory)


def reserve(path: str, size: int) -> bool:
    """Have a file with room for so many bytes, or none; whether it is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < size:
                os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError:
        _discard(path)
        return False
    return True


def _discard(path: str) -> None:
    try:
        remove(path)
    except OSError:
        return


def write_reserved(path: str, reserved: str, data: bytes, *, mode: int = 0o600) -> None:
    """Like `write_atomically` on a full disk, into the room that `reserve` has made.

    Raises OSError with `path` as it was.
    """
    descriptor = os.open(reserved, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), reserved)
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(reserved, path)
    sync_directory(os.path.dirname(path))


def has_content(path: str, data: bytes) -> bool:
    """Whether a file that can be read holds exactly this."""
    try:
        return read_bounded(path, len(data) + 1) == data
    except OSError:
        return False


def fingerprint(path: str, *, follows_links: bool = True) -> Fingerprint | None:
    """What changes when a file is written, replaced or opened to others; None: none is seen."""
    try:
        status = os.stat(path, follow_symlinks=follows_links)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def is_program(path: str) -> bool:
    """Whether this process could execute it."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def sync_directory(path: str) -> None:
    """Make renames and removals in a directory survive a power cut; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> bool:
    """Remove a file if it is there and say whether it was; raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def make_directory(path: str, *, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
    """Make a directory below an existing path, with this mode and owner; raises OSError.

    An existing directory keeps its mode; a symbolic link in its place is refused (ENOTDIR).
    """
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)
        if owner is not None:
            os.lchown(path, *owner)
    except FileExistsError:
        pass  # as it is
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
