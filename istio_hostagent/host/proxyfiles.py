"""The files a proxy finds when it starts: Envoy's bootstrap, or pilot-agent's private tree.

They are written by root below the runtime directory, readable by the proxy's group and by nobody
else; directories in which the proxy writes belong to it and nothing of ours is written there.

What Envoy reads lies in a directory named after its content: what is to be judged never replaces
what an Envoy that runs is watching.
"""

import binascii
import contextlib
import os
from collections.abc import Collection
from typing import NamedTuple

from ..config import model
from ..supervise import bootstrap, specs
from . import control, files

BOOTSTRAP = "envoy.json"
ENVOY_PREFIX = "envoy-"


class Build(NamedTuple):
    """A process to start, and the texts that must lie in `directory` before, by file name."""

    spec: specs.ProcessSpec
    directory: str
    texts: dict[str, str]


class ProxyFiles:
    """One network namespace's place for them."""

    def __init__(self, facts: model.HostFacts) -> None:
        """Name the place; nothing is written yet."""
        self._facts = facts
        self._directory = os.path.join(facts.runtime_dir, f"{control.namespace_inode()}.proxy")

    def build(self, config: model.Config, kind: model.ProxyKind, binary: str) -> Build:
        """Return what to start and the texts it needs; nothing is written."""
        if kind is model.ProxyKind.PILOT_AGENT:
            private = os.path.join(self._directory, "pilot-agent")
            return Build(specs.pilot_agent_spec(config, self._facts, binary, private), private, {})
        texts = bootstrap.render_sds(config.identity.output_dir)
        # The bootstrap names its directory, so the name is that of what it says anywhere else.
        content = [
            bootstrap.render_bootstrap(config, self._facts, self._directory),
            *texts.values(),
        ]
        directory = os.path.join(
            self._directory, f"{ENVOY_PREFIX}{binascii.crc32(''.join(content).encode()):08x}"
        )
        texts[BOOTSTRAP] = bootstrap.render_bootstrap(config, self._facts, directory)
        spec = specs.envoy_spec(config, self._facts, binary, os.path.join(directory, BOOTSTRAP))
        return Build(spec, directory, texts)

    def validation(self, config: model.Config, built: Build) -> specs.ProcessSpec | None:
        """Return the run that judges the bootstrap; None where the proxy makes its own."""
        if BOOTSTRAP not in built.texts:
            return None
        path = os.path.join(built.directory, BOOTSTRAP)
        return specs.validate_spec(config, self._facts, built.spec.argv[0], path)

    def write(self, built: Build) -> None:
        """Put everything in its place; raises OSError."""
        spec = built.spec
        proxy = (self._facts.proxy_uid, self._facts.proxy_gid)
        files.make_directory(self._directory, mode=0o750, owner=(0, proxy[1]))
        files.make_directory(built.directory, mode=0o750, owner=(0, proxy[1]))
        for name, text in built.texts.items():
            path = os.path.join(built.directory, name)
            files.write_atomically(path, text.encode(), mode=0o640, owner=(0, proxy[1]))
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
            files.make_directory(os.path.join(spec.directory, relative), mode=0o700, owner=proxy)

    def remove_others(self, kept: Collection[Build]) -> None:
        """Remove what was made for an Envoy and none of these uses; raises OSError."""
        used = {built.directory for built in kept}
        for name in os.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if name.startswith(ENVOY_PREFIX) and path not in used:
                for file in os.listdir(path):
                    os.unlink(os.path.join(path, file))
                os.rmdir(path)

    def _make_parents(self, base: str, relative: str) -> None:
        path = base
        for part in relative.split("/")[:-1]:
            path = os.path.join(path, part)
            files.make_directory(path, mode=0o750, owner=(0, self._facts.proxy_gid))
