"""Key, chain and roots of one directory, read as a set, and a sign when there may be others.

The directory is that of OUTPUT_CERTS, or a link to it, and need not be there yet. Where it has a
`..data` that is swapped (`credentials`), what is read is of one generation. Files that somebody
renews one after another are read once nothing has changed for QUIET_S; what does not fit together
all the same is refused by the proxy, which keeps what it has.
Not here: what is in the files. Neither dataclasses nor typing, which load 1.4 and 1.0 MB.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from . import inotify, inotifyevents

KEY, CHAIN, ROOT = "key.pem", "cert-chain.pem", "root-cert.pem"
_DATA = "..data"
NAMES = frozenset((KEY, CHAIN, ROOT, _DATA))
MAX_BYTES = 256 << 10
# As long as pilot-agent waits for a writer that renews one file after another.
QUIET_S = 0.1
_ATTEMPTS = 5
_MAX_LINKS = 8
# O_NONBLOCK: a FIFO in a file's place must not hang us.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MASK = (
    inotify.CLOSE_WRITE
    | inotify.MOVED_TO
    | inotify.CREATE
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
)
_PEM = {
    KEY: b"PRIVATE KEY-----",
    CHAIN: b"BEGIN CERTIFICATE-----",
    ROOT: b"BEGIN CERTIFICATE-----",
}


class Files:
    """The three texts, PEM; without a representation that could be printed."""

    __slots__ = ("chain", "key", "root")

    def __init__(self, key: bytes, chain: bytes, root: bytes) -> None:
        """Hold them."""
        self.key, self.chain, self.root = key, chain, root


class SecretFiles:
    """The files of one directory."""

    def __init__(self, directory: str) -> None:
        """Begin to watch; raises OSError where that is not possible."""
        self._directory = os.path.abspath(directory)
        self._inotify = inotify.Inotify()
        self._watched: dict[int, frozenset[str]] = {}  # the names that matter, by watch
        self._watch()

    @property
    def descriptor(self) -> int:
        """Readable when something has happened: then ask `has_changed`."""
        return self._inotify.descriptor

    @property
    def is_swapped(self) -> bool:
        """Whether the files change together, by a `..data`."""
        return os.path.islink(os.path.join(self._directory, _DATA))

    def has_changed(self) -> bool:
        """Whether, of all that has happened, anything may have changed the files."""
        is_ours = any(map(self._matters, self._inotify.read()))
        if is_ours:
            self._watch()
        return is_ours

    def _matters(self, event: inotifyevents.Event) -> bool:
        if event.mask & inotify.OVERFLOW:
            return True
        names = self._watched.get(event.watch)
        # Without a name it is about the directory itself.
        return names is not None and (not event.name or event.name in names)

    def read(self) -> Files:
        """Return what lies there now, of one generation.

        Raises OSError where a file is missing, cannot be read, or is no PEM text of its kind.
        """
        with _opened(self._directory) as output, contextlib.ExitStack() as stack:
            try:
                # A generation stays as it is: whatever is swapped meanwhile, this is one.
                data = stack.enter_context(_opened(_DATA, output))
            except OSError:
                data = output
            key, chain, root = (
                _read(name, data if _is_link(name, output) else output)
                for name in (KEY, CHAIN, ROOT)
            )
        return Files(key, chain, root)

    def _watch(self) -> None:
        """Watch each directory in which a name decides what is read, and no other one."""
        places: dict[str, frozenset[str]] | None = None
        for _ in range(_ATTEMPTS):
            # What has changed before its directory was watched: that is not told.
            before, places = places, _places(self._directory)
            if places == before:
                return
            self._watch_all(places)

    def _watch_all(self, places: dict[str, frozenset[str]]) -> None:
        before, self._watched = self._watched, {}
        for directory, names in places.items():
            # One that has just gone is seen from the one above.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                watch = self._inotify.watch(directory, _MASK)
                self._watched[watch] = self._watched.get(watch, frozenset()) | names
        for watch in before.keys() - self._watched.keys():
            self._inotify.forget(watch)


def _places(path: str) -> dict[str, frozenset[str]]:
    """The directories to watch and which names matter there: links on the way, and the end."""
    hops = []
    for _ in range(_MAX_LINKS):
        hops.append(os.path.split(path))
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), target))
    while not os.path.isdir(path) and path != "/":
        hops.append(os.path.split(path))
        path = os.path.dirname(path)
    found: dict[str, frozenset[str]] = {}
    for directory, name in hops:
        found[directory] = found.get(directory, frozenset()) | {name}
    if path != "/":
        found[path] = found.get(path, frozenset()) | NAMES
    return found


@contextlib.contextmanager
def _opened(path: str, within: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_link(name: str, directory: int) -> bool:
    """Whether a name leads to the file of that name behind what is swapped."""
    try:
        return os.readlink(name, dir_fd=directory) == f"{_DATA}/{name}"
    except OSError:
        return False


def _read(name: str, directory: int) -> bytes:
    with open(os.open(name, _READ, dir_fd=directory), "rb") as source:
        data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    if _PEM[name] not in data:
        raise OSError(errno.EINVAL, "not the PEM text that belongs there", name)
    return data
