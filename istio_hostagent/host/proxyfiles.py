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
        self._owner = (facts.proxy_uid, facts.proxy_gid)
        self.directory = os.path.join(facts.runtime_dir, f"{control.namespace_inode()}.proxy")

    def is_program(self, path: str) -> bool:
        """Whether a file is there that can be run, as far as is known."""
        return self._sights.is_program(path)

    def is_known(self, path: str) -> bool:
        """Whether it is known if a file is there."""
        return self._sights.is_known(path)

    def write(self, built: builds.Build) -> None:
        """Put everything in its place; raises OSError."""
        spec, group = built.spec, self._owner[1]
        files.make_directory(self.directory, mode=0o750, owner=(0, group))
        files.make_directory(built.directory, mode=0o750, owner=(0, group))
        for name, text in built.texts.items():
            path, data = os.path.join(built.directory, name), text.encode()
            # What is there needs no room on a file system that is full.
            if not files.has_content(path, data):
                files.write_atomically(path, data, mode=0o640, owner=(0, group))
        for relative, target in spec.links:
            path = os.path.join(spec.directory, relative)
            self._make_parents(spec.directory, relative)
            if not (os.path.islink(path) and os.readlink(path) == target):
                # By a rename: what runs may be reading through the one before.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{path}.new")
                os.symlink(target, f"{path}.new")
                os.replace(f"{path}.new", path)
        for relative in spec.directories:
            self._make_parents(spec.directory, relative)
            own = os.path.join(spec.directory, relative)
            files.make_directory(own, mode=0o700, owner=self._owner)

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
            files.make_directory(path, mode=0o750, owner=(0, self._owner[1]))
