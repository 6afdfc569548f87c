"""The files a proxy finds when it starts: Envoy's bootstrap, or pilot-agent's private tree.

They are written by root below the runtime directory, readable by the proxy's group and by nobody
else; directories in which the proxy writes belong to it and nothing of ours is written there.
Not here: what the files say (`supervise.builds`).
"""

import contextlib
import os
from collections.abc import Collection

from ..config import model
from ..supervise import builds
from . import control, files, sights


class ProxyFiles:
    """One network namespace's place for them, and the programs of this host."""

    def __init__(self, facts: model.HostFacts, seen: sights.Sights) -> None:
        """Name the place; nothing is written yet. Of `facts` only what never changes is used."""
        self._sights = seen
        self._place = ""  # to which `admin` leads
        self._owner = (facts.proxy_uid, facts.proxy_gid)
        self.directory = os.path.join(facts.runtime_dir, f"{control.namespace_inode()}.proxy")

    def is_program(self, path: str) -> bool:
        """Whether a file is there that can be run, as far as is known."""
        return self._sights.is_program(path)

    def fingerprint(self, path: str) -> tuple[int, ...]:
        """What tells the file at a path from another one; empty: none is there, or is known."""
        return self._sights.fingerprint(path) or ()

    def is_known(self, path: str) -> bool:
        """Whether it is known if a file is there."""
        return self._sights.is_known(path)

    def write(self, built: builds.Build) -> None:
        """Put everything in its place; raises OSError."""
        spec, writer, group = built.spec, os.geteuid(), self._owner[1]
        files.make_directory(self.directory, mode=0o750, owner=(writer, group))
        files.make_directory(built.directory, mode=0o750, owner=(writer, group))
        for name, text in built.texts.items():
            path, data = os.path.join(built.directory, name), text.encode()
            # What is there needs no room on a file system that is full.
            if not files.has_content(path, data):
                files.write_atomically(path, data, mode=0o640, owner=(writer, group))
        for relative, target in spec.links:
            path = os.path.join(spec.directory, relative)
            self._make_parents(spec.directory, relative)
            if not (os.path.islink(path) and os.readlink(path) == target):
                _link(path, target)
        for relative in spec.directories:
            self._make_own(spec.directory, relative)

    def make_own_directory(self, relative: str) -> None:
        """Make a directory of the proxy's user there; raises OSError."""
        files.make_directory(self.directory, mode=0o750, owner=(0, self._owner[1]))
        self._make_own(self.directory, relative)

    def _make_own(self, base: str, relative: str) -> None:
        self._make_parents(base, relative)
        own = os.path.join(base, relative)
        files.make_directory(own, mode=0o700, owner=self._owner)

    def lead_to(self, place: str) -> None:
        """Let `admin` be the one of `specs.PLACES` in which the Envoy that serves was started.

        For people alone: nothing here goes by that name.
        """
        if place == self._place:
            return
        self._place = place
        with contextlib.suppress(OSError):
            _link(os.path.join(self.directory, "admin"), place)

    def remove_others(self, kept: Collection[builds.Build]) -> None:
        """Remove what was made for an Envoy and none of these uses; raises OSError."""
        used = {built.directory for built in kept}
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            if name.startswith(builds.ENVOY_PREFIX) and path not in used:
                for file in os.listdir(path):
                    os.unlink(os.path.join(path, file))
                os.rmdir(path)

    def _make_parents(self, base: str, relative: str) -> None:
        path = base
        for part in relative.split("/")[:-1]:
            path = os.path.join(path, part)
            files.make_directory(path, mode=0o750, owner=(os.geteuid(), self._owner[1]))


def _link(path: str, target: str) -> None:
    """Make a symbolic link; by a rename: what runs may be reading through the one before."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.new")
    os.symlink(target, f"{path}.new")
    os.replace(f"{path}.new", path)
