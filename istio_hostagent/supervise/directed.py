"""The bootstrap of an Envoy that istiod tells what to do, without pilot-agent in between.

Envoy keeps one stream to istiod (ADS, in increments), over mutual TLS with the certificate of this
host, and takes that from a secret server, as the clusters and listeners that istiod sends do: they
name the cluster `sds-grpc` and no file. Names of clusters are those of Istio's own bootstrap.
Not here: as whom it introduces itself (`node`), and what it answers on ports of its own (`truth`).
"""

from ..config import model
from ..names import discovery
from . import answering, clusters, message, node, stats, tls, truth

DISCOVERY = "xds-grpc"
NAMES = "names"
# istiod serves nobody without it, and the stream would be closed without a word.
_ALPN = "h2"
# A first answer may take its time where a mesh is large, and captured traffic is refused until
# then. But after so long Envoy serves its own ports, so that whoever asks hears that it waits.
_PATIENCE = "3s"
# Envoy's own default waits up to 30 s.
_RETRY = {"base_interval": "0.25s", "max_interval": "1s"}
_CONNECT_TIME = "5s"
# Where packets get lost nobody says that istiod is gone. istiod allows one in 15 s.
_KEEPALIVE = {"interval": "20s", "timeout": "3s"}
# Envoy asks name servers all the time, not only when it connects; every 5 s is its default. Both
# fields are deprecated in favour of some that older releases do not know.
_LOOK_UP = "60s"
_LOOK_UP_FAILED = {"base_interval": "1s", "max_interval": "5s"}
_UNLIMITED = 100_000
# As pilot-agent sets them (istio/istio pkg/bootstrap/config.go, extractRuntimeFlags).
_RUNTIME = {
    "re2.max_program_size.error_level": 32768,
    "envoy.reloadable_features.http_reject_path_with_fragment": False,
}
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def build_bootstrap(
    config: model.Config,
    facts: model.HostFacts,
    source: tls.Source,
    admin_socket: str,
    names_socket: str,
) -> message.Json:
    """Return what differs from the bootstrap of an Envoy without a control plane, by key.

    `source` is a secret server.
    """
    return {
        "node": node.build_node(config, facts),
        "stats_config": stats.build_stats(),
        "layered_runtime": {"layers": [{"name": "istio", "static_layer": _RUNTIME}]},
        "bootstrap_extensions": [
            message.typed(
                "envoy.bootstrap.internal_listener",
                "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            )
        ],
        # Clusters and listeners nobody uses cost no counters.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "dynamic_resources": _dynamic_resources(),
        "static_resources": {
            "listeners": [*truth.build_listeners(config, facts), *_names(config, names_socket)],
            "clusters": [
                clusters.build_admin(truth.ADMIN, admin_socket),
                tls.server_cluster(source.server),
                _discovery(config, source),
            ],
        },
    }


def _names(config: model.Config, path: str) -> list[message.Json]:
    """The socket by which the resolver of names asks istiod for them, and for nothing else."""
    if not config.redirection.dns.is_captured:
        return []
    route: message.Json = {
        "match": {"path": discovery.PATH},
        "route": {"cluster": DISCOVERY, "timeout": "0s", "idle_timeout": "0s"},
    }
    listener = answering.build_listener(NAMES, [route])
    return [{**listener, "address": {"pipe": {"path": path, "mode": 0o600}}}]


def _dynamic_resources() -> message.Json:
    kind = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": _PATIENCE}
    stream = {
        "cluster_name": DISCOVERY,
        # The outer one, of grpc_services, has no effect on a stream.
        "retry_policy": {"retry_back_off": _RETRY},
    }
    return {
        "cds_config": kind,
        "lds_config": kind,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": stream}],
        },
    }


def _discovery(config: model.Config, source: tls.Source) -> message.Json:
    istiod = config.proxy.istiod
    assert istiod is not None
    address = {"socket_address": {"address": istiod.host, "port_value": istiod.port}}
    limits = ("max_connections", "max_pending_requests", "max_requests")
    kind: message.Json = {"type": "STATIC"}
    if not tls.is_address(istiod.host):
        kind = {
            "type": "STRICT_DNS",
            "dns_lookup_family": "ALL",
            "dns_refresh_rate": _LOOK_UP,
            "dns_failure_refresh_rate": _LOOK_UP_FAILED,
        }
    return {
        "name": DISCOVERY,
        **kind,
        "connect_timeout": _CONNECT_TIME,
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, _UNLIMITED)]},
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": _KEEPALIVE}
                },
            }
        },
        "transport_socket": tls.discovery_socket(
            istiod.server_name, source, _ALPN, config.proxy.discovery_root
        ),
        "load_assignment": {
            "cluster_name": DISCOVERY,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
