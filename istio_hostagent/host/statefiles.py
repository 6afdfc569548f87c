"""The files of one directory that only we write, by name: each whole or not at all.

Not here: what a file means, and what becomes of one that cannot be written.
"""

import contextlib
import errno
import os
from collections.abc import Collection

from . import files

# So much room is kept at least, and twice what was written last.
_LEAST_ROOM = 1 << 16


class StateFiles:
    """The directory need not exist before something is written."""

    def __init__(self, directory: str, reserved: Collection[str] = ()) -> None:
        """Name the directory, and the files that are to be written on a full disk, too.

        For each of these room is kept from one time to the next, as long as there is some.
        """
        self.directory = directory
        self._reserved = reserved

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return os.path.exists(self._path(name))

    def read(self, name: str, most: int) -> bytes:
        """Return at most so many bytes of it; raises OSError."""
        return files.read_bounded(self._path(name), most)

    def write(self, name: str, data: bytes, *, mode: int) -> None:
        """Write it, whole or not at all, surviving a power cut; raises OSError."""
        path = self._path(name)
        room = f"{path}.room"
        try:
            files.write_atomically(path, data, mode=mode)
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if name not in self._reserved or not is_full:
                raise
            with contextlib.suppress(OSError):
                files.remove(f"{path}.new")  # as far as that came
            try:
                files.write_reserved(path, room, data, mode=mode)
            except OSError:
                raise error from None
        if name in self._reserved:
            files.reserve(room, max(_LEAST_ROOM, 2 * len(data)))

    def remove(self, name: str) -> bool:
        """Remove it, and say whether it was there; raises OSError."""
        return files.remove(self._path(name))

    def make_own(self, name: str, owner: tuple[int, int]) -> None:
        """Make a directory for this uid and gid alone, if it is not there; raises OSError."""
        files.make_directory(self._path(name), mode=0o700, owner=owner)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)
