"""What can be seen of a file now, without ever waiting for a file system.

What lies on one that the kernel answers for is looked at when it is asked for. Of what lies on any
other the answer is what somebody else has seen last: a worker looks, and it is told here. So it is
with what lies in a directory to which istio-proxy writes (`keep_out`): there root looks at the
entries themselves at most, and only if nobody else can replace the directory.
"""

import os
from collections.abc import Sequence

from . import files, mounts, trust
from .answers import looker

# The files of a few configurations; those asked for first are forgotten.
MAX_KNOWN = 64


class Sights:
    """All that the parts of one agent see of files that they do not open."""

    def __init__(self, points: mounts.Mounts) -> None:
        """Know nothing yet."""
        self.mounts = points
        self._seen: dict[str, looker.Sight | None] = {}  # None: nobody has looked yet
        self._kept_out: frozenset[str] = frozenset()

    def keep_out(self, directory: str) -> None:
        """From now on leave what lies at or below a directory to istio-proxy."""
        self._kept_out |= {directory}
        self._close()

    def _close(self) -> None:
        self.mounts.closed = frozenset(map(self._resolve, self._kept_out))

    def _resolve(self, directory: str) -> str:
        """Without root's links on the way; where nothing may answer, nothing is asked."""
        return directory if self.mounts.is_remote(directory) else trust.resolve(directory)

    def is_entry(self, path: str) -> bool:
        """Whether `path` lies in such a directory, to which only root's links lead."""
        directory = os.path.dirname(path)
        self._close()  # root may have led the way elsewhere since
        if directory not in self._kept_out and directory not in self.mounts.closed:
            return False
        if self.mounts.is_remote(directory):
            return False
        try:
            return trust.is_way_roots(directory)
        except OSError:
            return False

    def fingerprint(self, path: str, *, follows_link: bool = True) -> files.Fingerprint | None:
        """What changes when a file changes; None where there is none, or it is not known."""
        if self.is_entry(path):
            return files.fingerprint(path, follows_links=False)
        if not self.mounts.may_hang(path, follows_link=follows_link):
            return files.fingerprint(path, follows_links=follows_link)
        seen = self._recall(path)
        if seen is None:
            return None
        return seen.target if follows_link else seen.entry

    def mode(self, path: str) -> tuple[int, int, int] | None:
        """Mode and owners of a directory; None if it is not known."""
        if self.mounts.may_hang(path):
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        return status.st_mode, status.st_uid, status.st_gid

    def is_program(self, path: str) -> bool:
        """Whether it can be executed, as far as is known."""
        if not self.mounts.may_hang(path):
            return files.is_program(path)
        seen = self._recall(path)
        return seen is not None and seen.is_program

    def is_known(self, path: str) -> bool:
        """Whether anybody has looked at it yet."""
        if self._seen.get(path) is not None or self.is_entry(path):
            return True
        return not self.mounts.may_hang(path)

    def _recall(self, path: str) -> looker.Sight | None:
        if path not in self._seen:
            self._seen[path] = None
            if len(self._seen) > MAX_KNOWN:
                del self._seen[next(iter(self._seen))]
        return self._seen[path]

    # -- for whoever looks ----------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether there is a file at which nobody has looked yet."""
        return None in self._seen.values()

    def remote(self) -> tuple[str, ...]:
        """Those asked for so far that lie where nobody must wait."""
        return tuple(self._seen)

    def take(self, paths: Sequence[str], found: Sequence[looker.Sight]) -> bool:
        """Somebody has looked at these; says whether anything differs from before."""
        changed = {
            path: sight
            for path, sight in zip(paths, found, strict=True)
            if path in self._seen and self._seen[path] != sight
        }
        self._seen |= changed
        return bool(changed)
