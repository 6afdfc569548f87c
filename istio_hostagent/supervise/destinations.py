"""Where an Envoy sends what applications bring to it by themselves (non-transparent mode).

Not here: which port leads to which cluster (`nontransparent`).
"""

from collections.abc import Iterator

from ..config import direct, model
from . import clusters, message, tls

# Of the HTTP port: whatever host a request names, by mutual TLS or as it is.
HTTP_MESH, HTTP_PLAIN = "http_mesh", "http_plain"
_CACHE = "http_names"

# Of a name that has both kinds of addresses, those of IPv4: a host that has an address of IPv6
# has not always a way to others.
_FAMILY, _FAMILY_V4 = "V4_PREFERRED", "V4_ONLY"
_RETRY = {"base_interval": "0.5s", "max_interval": "5s"}
# How many names the HTTP port remembers, and for how long after the last use.
_MAX_NAMES, _NAME_LIFE = 4096, "300s"


def upstream_name(upstream: direct.Upstream) -> str:
    """The name of its cluster and of its listener."""
    return f"upstream_{upstream.port}"


def inbound_name(inbound: direct.Inbound) -> str:
    """The name of the cluster of an application, and of the listener in front of it."""
    return f"inbound_{inbound.port}"


def build_clusters(
    config: model.Config, facts: model.HostFacts, source: tls.Source, admin_socket: str
) -> list[message.Json]:
    """Return all clusters, in a fixed order."""
    made = config.proxy.direct
    found = [
        *(_upstream(config, facts, source, each) for each in made.upstreams),
        *map(_application, made.inbound),
        *(_http(config, facts, source) if made.http_port else ()),
        clusters.build_admin(clusters.ADMIN, admin_socket),
        # No endpoint: a connection sent here is closed at once, with flag UH in the access log.
        {"name": clusters.NOWHERE, "type": "STATIC", "connect_timeout": "1s"},
    ]
    if source.server:
        found.append(tls.server_cluster(source.server))
    return found


def build_names(facts: model.HostFacts) -> message.Json:
    """Return how the HTTP port resolves names; its filter and its clusters say the same."""
    return {
        "name": _CACHE,
        "dns_lookup_family": _FAMILY if facts.has_ipv6 else _FAMILY_V4,
        "dns_failure_refresh_rate": _RETRY,
        "host_ttl": _NAME_LIFE,
        "max_hosts": _MAX_NAMES,
    }


def _upstream(
    config: model.Config, facts: model.HostFacts, source: tls.Source, upstream: direct.Upstream
) -> message.Json:
    name = upstream_name(upstream)
    made = _endpoint(name, upstream.host, upstream.destination_port)
    if not tls.is_address(upstream.host):
        made |= {
            "type": "STRICT_DNS",
            "dns_lookup_family": _FAMILY if facts.has_ipv6 else _FAMILY_V4,
            "respect_dns_ttl": True,
            "dns_failure_refresh_rate": _RETRY,
            # A name server that is silent keeps no other port waiting.
            "wait_for_warm_on_init": False,
        }
    if not upstream.is_plain:
        made["transport_socket"] = tls.upstream_socket(config.identity.trust_domain, source)
    return made


def _application(inbound: direct.Inbound) -> message.Json:
    return _endpoint(inbound_name(inbound), inbound.address, inbound.application_port)


def _endpoint(name: str, host: str, port: int) -> message.Json:
    address = {"socket_address": {"address": host, "port_value": port}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        **clusters.connection_options(),
    }


def _http(
    config: model.Config, facts: model.HostFacts, source: tls.Source
) -> Iterator[message.Json]:
    socket = tls.upstream_socket(config.identity.trust_domain, source)
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    # The name in the request is none that a certificate of the mesh has.
    options = {"allow_insecure_cluster_options": True}
    for name, more in ((HTTP_MESH, {"transport_socket": socket}), (HTTP_PLAIN, {})):
        cluster = message.typed(
            "envoy.clusters.dynamic_forward_proxy",
            "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
            dns_cache_config=build_names(facts),
            **options,
        )
        yield {
            "name": name,
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": cluster,
            "typed_extension_protocol_options": {
                kind: {
                    "@type": f"type.googleapis.com/{kind}",
                    "explicit_http_config": {"http_protocol_options": {}},
                }
            },
            **clusters.connection_options(),
            **more,
        }
