"""The files a proxy finds when it starts: Envoy's bootstrap, or pilot-agent's private tree.

They are written by root below the runtime directory, readable by the proxy's group and by nobody
else; directories in which the proxy writes belong to it and nothing of ours is written there.
"""

import contextlib
import os

from ..config import model
from ..supervise import bootstrap, specs
from . import control, files

BOOTSTRAP = "envoy.json"


class ProxyFiles:
    """One network namespace's place for them."""

    def __init__(self, facts: model.HostFacts) -> None:
        """Name the place; nothing is written yet."""
        self._facts = facts
        self._directory = os.path.join(
            str(facts.runtime_dir), f"{control.namespace_inode()}.proxy"
        )

    def build(
        self, config: model.Config, kind: model.ProxyKind, binary: str
    ) -> tuple[specs.ProcessSpec, dict[str, str]]:
        """Return what to start and the texts it needs, by file name; nothing is written."""
        if kind is model.ProxyKind.PILOT_AGENT:
            private = os.path.join(self._directory, "pilot-agent")
            return specs.pilot_agent_spec(config, self._facts, binary, private), {}
        texts = bootstrap.render_sds(str(config.identity.output_dir))
        texts[BOOTSTRAP] = bootstrap.render_bootstrap(config, self._facts, self._directory)
        path = os.path.join(self._directory, BOOTSTRAP)
        return specs.envoy_spec(config, self._facts, binary, path), texts

    def validation(
        self, config: model.Config, kind: model.ProxyKind, binary: str
    ) -> specs.ProcessSpec | None:
        """Return the run that judges the bootstrap; None where the proxy makes its own."""
        if kind is model.ProxyKind.PILOT_AGENT:
            return None
        path = os.path.join(self._directory, BOOTSTRAP)
        return specs.validate_spec(config, self._facts, binary, path)

    def write(self, spec: specs.ProcessSpec, texts: dict[str, str]) -> None:
        """Put everything in its place; raises OSError."""
        proxy = (self._facts.proxy_uid, self._facts.proxy_gid)
        files.make_directory(self._directory, mode=0o750, owner=(0, proxy[1]))
        for name, text in texts.items():
            path = os.path.join(self._directory, name)
            files.write_atomically(path, text.encode(), mode=0o640, owner=(0, proxy[1]))
        if spec.directory:
            files.make_directory(spec.directory, mode=0o750, owner=(0, proxy[1]))
        for relative, target in spec.links:
            path = os.path.join(spec.directory, relative)
            self._make_parents(spec.directory, relative)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.symlink(target, path)
        for relative in spec.directories:
            self._make_parents(spec.directory, relative)
            files.make_directory(os.path.join(spec.directory, relative), mode=0o700, owner=proxy)

    def _make_parents(self, base: str, relative: str) -> None:
        path = base
        for part in relative.split("/")[:-1]:
            path = os.path.join(path, part)
            files.make_directory(path, mode=0o750, owner=(0, self._facts.proxy_gid))
