"""The bootstrap of an Envoy without pilot-agent: all it does, or where istiod is, who says it.

Not here: listeners, clusters and TLS, which have modules of their own, what is asked of istiod
(`directed`), and the writing of files.
Always: the same input gives the same bytes, so that a changed text means a changed configuration.
Nothing but `run` needs this module: it is the one of the pure ones that imports json.
"""

import json

from ..config import model
from . import clusters, destinations, directed, listeners, message, node, nontransparent, tls

# Each connection takes two descriptors and up to a few hundred kilobytes; more than this many at a
# time are refused, instead of taking the host's memory.
MAX_CONNECTIONS = 50_000


def render_bootstrap(
    config: model.Config,
    facts: model.HostFacts,
    source: tls.Source,
    admin_socket: str,
    names_socket: str = "",
) -> str:
    """Return the bootstrap as JSON text.

    Files of `source`, those of `render_sds`, must be there before Envoy starts, also for its mode
    `validate`, and readable by the proxy's user. `admin_socket` is the path of a unix socket that
    Envoy makes in a directory which only the proxy's user may enter, as seen from where it is
    started; `names_socket` that of the one for the resolver of names, if there is to be one.
    """
    made, reached = listeners.build_listeners, clusters.build_clusters
    if config.redirection.is_none:
        made, reached = nontransparent.build_listeners, destinations.build_clusters
    max_connections = message.typed(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=MAX_CONNECTIONS,
    )
    bootstrap: message.Json = {
        "admin": {
            # Whoever reaches it ends Envoy, closes its listeners and reads all it knows.
            "address": {"pipe": {"path": admin_socket, "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "overload_manager": {"resource_monitors": [max_connections]},
    }
    if config.proxy.istiod is not None:
        bootstrap |= directed.build_bootstrap(config, facts, source, admin_socket, names_socket)
    else:
        bootstrap["node"] = {"id": facts.hostname, "cluster": "istio-hostagent"}
        bootstrap["static_resources"] = {
            "listeners": made(config, facts, source),
            "clusters": reached(config, facts, source, admin_socket),
        }
    return _render(bootstrap)


def render_node(config: model.Config, facts: model.HostFacts) -> str:
    """Return as whom an Envoy with a control plane introduces itself, as JSON text."""
    return _render(node.build_node(config, facts))


def render_sds(output_dir: str) -> dict[str, str]:
    """Return the files to put into `sds_dir`: JSON text by file name.

    `output_dir` is the absolute path of the directory that holds key.pem, cert-chain.pem,
    root-cert.pem, and the `..data` that is renamed. No file of ours holds a secret.
    """
    resources = tls.sds_resources(output_dir)
    return {name: _render(resource) for name, resource in resources.items()}


def _render(value: message.Json) -> str:
    return json.dumps(value, indent=1) + "\n"
