"""Where the generated Envoy sends connections: original destinations, its admin socket, nowhere.

Not here: which connection goes to which cluster (`listeners`).
Always: a connection to an application has a source address that the redirection rules leave alone.
"""

from ..config import model
from . import message, tls

PASSTHROUGH = "outbound_passthrough"
MESH = "outbound_mesh"
APPLICATION = "inbound_application"
ADMIN = "admin"
NOWHERE = "nowhere"

# The redirection rules exempt these sources; without them, a connection to an application would
# come back to the inbound listener. The agent puts ::6 on lo; 127.0.0.6 is always there.
APPLICATION_SOURCE_V4 = "127.0.0.6"
APPLICATION_SOURCE_V6 = "::6"

# Read-ahead for each side of a connection. 32 KiB slows one bulk stream down; 1 MiB (the default)
# lets a thousand slow readers hold 2 GiB.
BUFFER_BYTES = 256 * 1024

# Envoy's defaults (1024) are for a web tier; here the limit is that of the whole process.
_UNLIMITED = 2**32 - 1


def build_clusters(
    config: model.Config, facts: model.HostFacts, source: tls.Source, admin_socket: str
) -> list[message.Json]:
    """Return all clusters, in a fixed order."""
    clusters: list[message.Json] = [
        _original_destination(PASSTHROUGH),
        {**_original_destination(APPLICATION), "upstream_bind_config": _bind(facts.has_ipv6)},
        build_admin(ADMIN, admin_socket),
        # No endpoint: a connection sent here is closed at once, with flag UH in the access log.
        {"name": NOWHERE, "type": "STATIC", "connect_timeout": "1s"},
    ]
    if config.proxy.mesh:
        socket = tls.upstream_socket(config.identity.trust_domain, source)
        clusters.append({**_original_destination(MESH), "transport_socket": socket})
    if source.server:
        clusters.append(tls.server_cluster(source.server))
    return clusters


def _original_destination(name: str) -> message.Json:
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        # A destination is forgotten this long after its last connection ended.
        "cleanup_interval": "60s",
        **connection_options(),
    }


def connection_options() -> message.Json:
    """Return how every connection to a destination or an application is made and kept."""
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {
        "connect_timeout": "10s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, _UNLIMITED)]},
        "upstream_connection_options": {
            # A dead peer is noticed after 300 + 3 * 75 s; idle connections live as long as both
            # ends want, and stay in the tables of firewalls on the way.
            "tcp_keepalive": {
                "keepalive_time": 300,
                "keepalive_interval": 75,
                "keepalive_probes": 3,
            }
        },
    }


def _bind(has_ipv6: bool) -> message.Json:
    # Envoy picks the one of the destination's family.
    bind: message.Json = {"source_address": {"address": APPLICATION_SOURCE_V4, "port_value": 0}}
    if has_ipv6:
        source = {"address": APPLICATION_SOURCE_V6, "port_value": 0}
        bind["extra_source_addresses"] = [{"address": source}]
    return bind


def build_admin(name: str, path: str) -> message.Json:
    """Return the cluster that leads to Envoy's own admin interface, a unix socket."""
    address = {"pipe": {"path": path}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
