"""The configuration of an Envoy that has no control plane, made from ours.

Not here: listeners, clusters and TLS, which have modules of their own, and the writing of files.
Always: the same input gives the same bytes, so that a changed text means a changed configuration.
Nothing but `run` needs this module: it is the one of the pure ones that imports json.
"""

import json

from ..config import model
from . import clusters, listeners, message, tls

# Each connection takes two descriptors and up to a few hundred kilobytes; more than this many at a
# time are refused, instead of taking the host's memory.
MAX_CONNECTIONS = 50_000


def render_bootstrap(
    config: model.Config, facts: model.HostFacts, sds_dir: str, admin_socket: str
) -> str:
    """Return the bootstrap as JSON text.

    `sds_dir` is the absolute path where the files of `render_sds` lie. They must be there before
    Envoy starts, also for its mode `validate`, and readable by the proxy's user. `admin_socket` is
    that of a unix socket, which Envoy makes in a directory that only the proxy's user may enter.
    """
    max_connections = message.typed(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=MAX_CONNECTIONS,
    )
    bootstrap: message.Json = {
        "node": {"id": facts.hostname, "cluster": "istio-hostagent"},
        "admin": {
            # Whoever reaches it ends Envoy, closes its listeners and reads all it knows.
            "address": {"pipe": {"path": admin_socket, "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "overload_manager": {"resource_monitors": [max_connections]},
        "static_resources": {
            "listeners": listeners.build_listeners(config, facts, sds_dir),
            "clusters": clusters.build_clusters(config, facts, sds_dir, admin_socket),
        },
    }
    return _render(bootstrap)


def render_sds(output_dir: str) -> dict[str, str]:
    """Return the files to put into `sds_dir`: JSON text by file name.

    `output_dir` is the absolute path of the directory that holds key.pem, cert-chain.pem,
    root-cert.pem, and the `..data` that is renamed. No file of ours holds a secret.
    """
    resources = tls.sds_resources(output_dir)
    return {name: _render(resource) for name, resource in resources.items()}


def _render(value: message.Json) -> str:
    return json.dumps(value, indent=1) + "\n"
