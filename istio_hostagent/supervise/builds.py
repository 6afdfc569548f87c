"""What a proxy is started with: a process, and the texts that must lie in its directory before.

Not here: who writes them (`host.proxyfiles`). What Envoy reads lies in a directory named after its
content: what is to be validated never replaces what an Envoy that runs is watching.
"""

import binascii
from typing import NamedTuple

from ..config import model
from . import bootstrap, specs, tls

BOOTSTRAP = "envoy.json"
ENVOY_PREFIX = "envoy-"


class Build(NamedTuple):
    """A process to start, and the texts that must lie in `directory` before, by file name."""

    spec: specs.ProcessSpec
    directory: str
    texts: dict[str, str]


def build(
    config: model.Config,
    facts: model.HostFacts,
    kind: model.ProxyKind,
    binary: str,
    directory: str,
) -> Build:
    """Return what to start and the texts it needs; everything is to lie below `directory`."""
    if kind is model.ProxyKind.PILOT_AGENT:
        private = f"{directory}/pilot-agent"
        return Build(specs.pilot_agent_spec(config, facts, binary, private), private, {})
    texts = bootstrap.render_sds(config.identity.output_dir)
    # The bootstrap names its directory, so the name is that of what it says anywhere else.
    admin_socket = f"{directory}/{specs.ADMIN_SOCKET}"
    content = [
        bootstrap.render_bootstrap(config, facts, directory, admin_socket),
        *texts.values(),
    ]
    own = f"{directory}/{ENVOY_PREFIX}{binascii.crc32(''.join(content).encode()):08x}"
    texts[BOOTSTRAP] = bootstrap.render_bootstrap(config, facts, own, admin_socket)
    spec = specs.envoy_spec(config, facts, binary, f"{own}/{BOOTSTRAP}", directory)
    return Build(spec, own, texts)


def shows_certificate(built: Build) -> bool:
    """Whether our certificate is shown in any case; pilot-agent's control plane decides that."""
    return tls.CERTIFICATE in built.texts.get(BOOTSTRAP, "")


def respelled(built: Build, output_dir: str, count: int) -> Build:
    """The same, with the directory of the certificate written so that each `count` differs.

    An Envoy that reads these texts anew opens and watches whatever directory is there then: it
    watches the directory itself, not its name, and never hears of another one in its place.
    """
    if not built.texts:
        return built
    texts = bootstrap.render_sds(output_dir + "/." * count)
    return built._replace(texts=built.texts | texts)


def validation(
    config: model.Config, facts: model.HostFacts, built: Build
) -> specs.ProcessSpec | None:
    """Return the run that validates the bootstrap; None where the proxy makes its own."""
    if BOOTSTRAP not in built.texts:
        return None
    path = f"{built.directory}/{BOOTSTRAP}"
    return specs.validate_spec(config, facts, built.spec.argv[0], path)
