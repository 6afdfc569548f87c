"""The files of one directory that only we write, by name: each whole or not at all.

Not here: what a file means, and what becomes of one that cannot be written.
"""

import os

from . import files


class StateFiles:
    """The directory need not exist before something is written."""

    def __init__(self, directory: str) -> None:
        """Name the directory."""
        self.directory = directory

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return os.path.exists(self._path(name))

    def read(self, name: str, most: int) -> bytes:
        """Return at most so many bytes of it; raises OSError."""
        return files.read_bounded(self._path(name), most)

    def write(self, name: str, data: bytes, *, mode: int) -> None:
        """Write it, whole or not at all, surviving a power cut; raises OSError."""
        files.write_atomically(self._path(name), data, mode=mode)

    def remove(self, name: str) -> bool:
        """Remove it, and say whether it was there; raises OSError."""
        return files.remove(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)
