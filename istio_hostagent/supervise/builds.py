"""What a proxy is started with: a process, and the texts that must lie in its directory before.

Not here: who writes them (`host.proxyfiles`). What Envoy reads lies in a directory named after its
content: what is to be validated never replaces what an Envoy that runs is watching.
"""

import binascii
from typing import NamedTuple

from ..config import model
from . import bootstrap, specs, tls

BOOTSTRAP = "envoy.json"
# As whom the resolver of names introduces itself: as Envoy does.
NODE = "node.json"
# In the state directory: where it keeps the names that it was told last.
NAMES = "names/table"
ENVOY_PREFIX = "envoy-"
# Below the directory of a proxy: the socket of a secret server that the agent itself runs.
SECRETS_DIRECTORY = "secrets"
_SECRETS_SOCKET = f"{SECRETS_DIRECTORY}/socket"


class Build(NamedTuple):
    """A process to start, and the texts that must lie in `directory` before, by file name.

    `resolver`: arguments of the resolver of names that has to run beside it; empty: none.
    """

    spec: specs.ProcessSpec
    directory: str
    texts: dict[str, str]
    resolver: tuple[str, ...] = ()


def build(
    config: model.Config,
    facts: model.HostFacts,
    kind: model.ProxyKind,
    binary: str,
    directory: str,
    program: tuple[int, ...] = (),
) -> Build:
    """Return what to start and the texts it needs; everything is to lie below `directory`.

    `program`: what tells the file at `binary` from another one.
    """
    if kind is model.ProxyKind.PILOT_AGENT:
        private = f"{directory}/pilot-agent"
        return Build(specs.pilot_agent_spec(config, facts, binary, private), private, {})
    server = _find_server(config, facts, directory)
    texts = {} if server else bootstrap.render_sds(config.identity.output_dir)
    # The bootstrap names its directory, so the name is that of what it says anywhere else.
    sockets = specs.ADMIN_NAME, f"{directory}/{specs.NAMES_SOCKET}"
    content = [
        bootstrap.render_bootstrap(config, facts, tls.Source(directory, server), *sockets),
        *texts.values(),
    ]
    own = f"{directory}/{ENVOY_PREFIX}{binascii.crc32(''.join(content).encode()):08x}"
    source = tls.Source(own, server)
    texts[BOOTSTRAP] = bootstrap.render_bootstrap(config, facts, source, *sockets)
    spec = specs.envoy_spec(config, facts, binary, f"{own}/{BOOTSTRAP}", directory, program)
    resolver: tuple[str, ...] = ()
    if config.proxy.istiod is not None and config.redirection.dns.is_captured:
        texts[NODE] = bootstrap.render_node(config, facts)
        kept = f"{facts.state_dir}/{NAMES}"
        resolver = (f"{own}/{NODE}", sockets[1], str(config.redirection.dns.port), kept)
    return Build(spec._replace(secret_socket=server), own, texts, resolver)


def _find_server(config: model.Config, facts: model.HostFacts, directory: str) -> str:
    """The socket of the secret server from which Envoy takes its certificate; empty: from files.

    With a control plane there is one in any case: the one that is named, that of the service
    manager, or one of the agent's own.
    """
    if config.proxy.secret_socket is not None or config.proxy.istiod is None:
        return config.proxy.secret_socket or ""
    return facts.secret_socket or secrets_socket(directory)


def secrets_socket(directory: str) -> str:
    """Where a secret server of the agent's own listens."""
    return f"{directory}/{_SECRETS_SOCKET}"


def running(spec: specs.ProcessSpec) -> Build:
    """Return what an earlier agent has started, as far as it is known: without the texts."""
    is_ours = spec.name == specs.ENVOY and "-c" in spec.argv[:-1]
    file = spec.argv[spec.argv.index("-c") + 1] if is_ours else ""
    return Build(spec, file.rpartition("/")[0] or spec.directory, {})


def of_program(built: Build, program: tuple[int, ...]) -> Build:
    """The same, with another file at the path of its program."""
    return built._replace(spec=built.spec._replace(program=program))


def differ_in_program(one: Build, other: Build) -> bool:
    """Whether two are the same but for the file that is at the path of their program."""
    return one != other and of_program(one, other.spec.program) == other


def shows_certificate(built: Build) -> bool:
    """Whether our certificate is shown in any case; pilot-agent's control plane decides that."""
    return tls.SHOWN in built.texts.get(BOOTSTRAP, "")


def respelled(built: Build, output_dir: str, count: int) -> Build:
    """The same, with the directory of the certificate written so that each `count` differs.

    An Envoy that reads these texts anew opens and watches whatever directory is there then: it
    watches the directory itself, not its name, and never hears of another one in its place.
    """
    texts = bootstrap.render_sds(output_dir + "/." * count)
    if not built.texts.keys() >= texts.keys():
        return built  # pilot-agent, or a secret server, reads the certificate
    return built._replace(texts=built.texts | texts)


def validation(
    config: model.Config, facts: model.HostFacts, built: Build
) -> specs.ProcessSpec | None:
    """Return the run that validates the bootstrap; None where the proxy makes its own."""
    if BOOTSTRAP not in built.texts:
        return None
    path = f"{built.directory}/{BOOTSTRAP}"
    return specs.validate_spec(config, facts, built.spec.argv[0], path)
