"""Directories of certificate files that are complete before anybody is pointed at them.

Not here: who is pointed at which (`certificatestore`). Everything is reached through an open
directory, and nothing below it through a symbolic link: what somebody plants there is not
followed. After a SIGKILL at any place a generation is whole or nobody is pointed at it.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

KEY, CHAIN, ROOT = "key.pem", "cert-chain.pem", "root-cert.pem"
NAMES = (KEY, CHAIN, ROOT)
MODES = {KEY: 0o600, CHAIN: 0o644, ROOT: 0o644}
# Beside them: the machine that obtained the pair (`machineid`).
_MACHINE = "machine"
MAX_BYTES = 1 << 20
_PREFIX = "gen-"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW


@dataclass(frozen=True)
class Files:
    """The three files, PEM; None where there is none.

    `received`: unix seconds of the chain. `name`: of the generation they were read from, if any.
    `machine`: of the host that obtained them (`machineid`), empty if that is not known. The last
    two play no part in a comparison.
    """

    key: bytes | None = field(default=None, repr=False)
    chain: bytes | None = None
    root: bytes | None = None
    received: float = 0.0
    name: str = field(default="", compare=False)
    machine: str = field(default="", compare=False)

    def content(self) -> tuple[tuple[str, bytes], ...]:
        """The files that exist, by name."""
        pairs = ((KEY, self.key), (CHAIN, self.chain), (ROOT, self.root))
        return tuple((name, data) for name, data in pairs if data is not None)


def is_generation(name: str) -> bool:
    """Whether a name is one of those that `write_generation` gives."""
    number = name.removeprefix(_PREFIX)
    return name.startswith(_PREFIX) and number.isascii() and number.isdigit()


@contextlib.contextmanager
def open_directory(path: str, *, within: int | None = None) -> Iterator[int]:
    """Open a directory; within another one a symbolic link is refused. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if within is not None:
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(name: str, *, within: int, is_link_followed: bool = False) -> tuple[bytes, float]:
    """Return the content of a regular file and when it was written; raises OSError.

    O_NONBLOCK: a FIFO planted in its place must not hang us.
    """
    flags = _READ & ~os.O_NOFOLLOW if is_link_followed else _READ
    with open(os.open(name, flags, dir_fd=within), "rb") as source:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return data, status.st_mtime


def write_file(name: str, data: bytes, mode: int, *, within: int) -> None:
    """Write a new file and sync it; an existing one is an error. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, mode, dir_fd=within), "wb") as out:
        # The mode given to open is cut by the umask.
        os.fchmod(out.fileno(), mode)
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def read_files(within: int) -> Files:
    """Read the three files of a directory; links and other kinds count as absent."""
    found: dict[str, bytes] = {}
    received = 0.0
    for name in NAMES:
        with contextlib.suppress(OSError):
            found[name], written = read_file(name, within=within)
            if name == CHAIN:
                received = written
    return Files(found.get(KEY), found.get(CHAIN), found.get(ROOT), received)


def write_generation(store: int, files: Files) -> str:
    """Write a complete, synced generation and return its name; raises OSError.

    A failure leaves nothing behind.
    """
    last = max(map(_number, list_generations(store)), default=0)
    name = f"{_PREFIX}{last + 1:06d}"
    os.mkdir(name, 0o755, dir_fd=store)
    try:
        with open_directory(name, within=store) as generation:
            os.fchmod(generation, 0o755)
            for each, data in files.content():
                write_file(each, data, MODES[each], within=generation)
            if files.machine:
                write_file(_MACHINE, files.machine.encode(), 0o644, within=generation)
            os.fsync(generation)
        os.fsync(store)
    except OSError:
        remove_generation(store, name)
        raise
    return name


def read_generation(store: int, name: str) -> Files:
    """Read a generation; one that cannot be opened counts as empty."""
    try:
        with open_directory(name, within=store) as generation:
            machine = _read_machine(generation)
            return replace(read_files(generation), name=name, machine=machine)
    except OSError:
        return Files()


def list_generations(store: int) -> tuple[str, ...]:
    """Return the names of what looks like a generation, the last written first; raises OSError."""
    names = [name for name in os.listdir(store) if is_generation(name)]
    return tuple(sorted(names, key=_number, reverse=True))


def sync_generation(store: int, name: str) -> None:
    """Sync a generation whose writer may have been killed before it could.

    Raises OSError, also for a generation that lacks one of the three files.
    """
    with open_directory(name, within=store) as generation:
        for each in NAMES:
            descriptor = os.open(each, _READ, dir_fd=generation)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.fsync(generation)
    os.fsync(store)


def remove_generation(store: int, name: str) -> None:
    """Remove a generation as far as that is possible; what stays is tried again the next time."""
    with contextlib.suppress(OSError), open_directory(name, within=store) as generation:
        for each in os.listdir(generation):
            os.unlink(each, dir_fd=generation)
    with contextlib.suppress(OSError):
        is_directory = stat.S_ISDIR(os.lstat(name, dir_fd=store).st_mode)
        (os.rmdir if is_directory else os.unlink)(name, dir_fd=store)


def remove_generations(store: int, *, kept: frozenset[str]) -> None:
    """Remove every generation but those named."""
    for name in list_generations(store):
        if name not in kept:
            remove_generation(store, name)


def _read_machine(generation: int) -> str:
    try:
        return read_file(_MACHINE, within=generation)[0].decode("ascii", "replace")
    except OSError:
        return ""  # written by a version that did not know of it


def _number(name: str) -> int:
    return int(name.removeprefix(_PREFIX))
