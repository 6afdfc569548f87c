"""The listeners of an Envoy to which nothing is redirected: applications speak to it themselves.

One on loopback for each upstream, one on loopback for HTTP, one for each inbound port, and that of
readiness. Not here: where it all goes (`destinations`), and the certificates (`tls`).
Always: nothing is looked into but requests at the HTTP port and, inbound, whether it is TLS, so a
server that speaks first is heard at once; no port is shared with another process, so two proxies
with one port are an error and no mixture of identities.
"""

import re
from collections.abc import Iterator

from ..config import direct, model
from . import accesslog, destinations, listeners, message, readiness, tls

UPSTREAM, HTTP = "upstream", "http"
_HTTP_PREFIX = "envoy.extensions.filters.http"
# Where a request names no port, that of plain HTTP is meant. Envoy itself takes that of HTTPS for
# a cluster with TLS, which here is nothing that the request knows of.
_HOST_HEADER = "x-istio-hostagent-host"
_HTTP_PORT = 80


def build_listeners(
    config: model.Config, facts: model.HostFacts, source: tls.Source
) -> list[message.Json]:
    """Return the listeners, in a fixed order."""
    made = config.proxy.direct
    return [
        *(_upstream(config, facts, each) for each in made.upstreams),
        *_inbound(config, facts, source),
        *([_http(config, facts)] if made.http_port else ()),
        readiness.build_listener(config, facts),
    ]


def listening_ports(config: model.Config) -> tuple[int, ...]:
    """The ports that are the proxy's alone once it serves."""
    made = config.proxy.direct
    found = [each.port for each in made.upstreams]
    found += [each.port for each in made.inbound if not each.is_beside]
    return (*found, *([made.http_port] if made.http_port else ()))


def shown_at(config: model.Config, facts: model.HostFacts) -> tuple[tuple[str, int], ...]:
    """Where our certificate is shown to whoever comes from outside: address and port of each."""
    return tuple(
        (address if each.is_beside else direct.LOOPBACK, each.port)
        for each in config.proxy.direct.inbound
        for address in (_addresses(facts) if each.is_beside else (direct.LOOPBACK,))
    )


def _upstream(
    config: model.Config, facts: model.HostFacts, upstream: direct.Upstream
) -> message.Json:
    name = destinations.upstream_name(upstream)
    log = accesslog.build_access_log(config.proxy, UPSTREAM, "%UPSTREAM_PEER_URI_SAN%")
    # Of several addresses of a name another one is tried.
    chain = {"filters": listeners.forward(UPSTREAM, name, log, max_connect_attempts=3)}
    return {
        **_on_loopback(name, upstream.port, facts),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [chain],
    }


def _inbound(
    config: model.Config, facts: model.HostFacts, source: tls.Source
) -> Iterator[message.Json]:
    for each in config.proxy.direct.inbound:
        address = message.any_address(each.port, facts.has_ipv6)
        others: list[message.Json] = []
        if each.is_beside:
            found = [_address(text, each.port) for text in _addresses(facts)]
            if not found:
                continue  # until this host has an address there is nowhere to listen
            address, *others = found
        name = destinations.inbound_name(each)
        yield {
            **_listener(name, address, others),
            "traffic_direction": "INBOUND",
            "listener_filters": [listeners.build_tls_inspector()],
            **listeners.build_inbound_chains(config, source, name),
        }


def _addresses(facts: model.HostFacts) -> tuple[str, ...]:
    return tuple(map(str, facts.addresses))


def _http(config: model.Config, facts: model.HostFacts) -> message.Json:
    made = config.proxy.direct
    via = f"istio-hostagent-{facts.hostname}-{made.http_port}"
    manager = message.typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=HTTP,
        route_config={
            "virtual_hosts": list(_virtual_hosts(made, via)),
            "ignore_port_in_host_matching": True,
        },
        http_filters=[
            message.typed(
                "envoy.filters.http.header_mutation",
                f"{_HTTP_PREFIX}.header_mutation.v3.HeaderMutation",
            ),
            message.typed(
                "envoy.filters.http.dynamic_forward_proxy",
                f"{_HTTP_PREFIX}.dynamic_forward_proxy.v3.FilterConfig",
                dns_cache_config=destinations.build_names(facts),
            ),
            message.typed("envoy.filters.http.router", f"{_HTTP_PREFIX}.router.v3.Router"),
        ],
        via=via,
        upgrade_configs=[{"upgrade_type": "CONNECT"}, {"upgrade_type": "websocket"}],
        common_http_protocol_options={"idle_timeout": "3600s"},
        http_protocol_options={"allow_absolute_url": True, "accept_http_10": True},
        # A tunnel may be silent for a day, and what is sent through it may take as long.
        stream_idle_timeout="0s",
        request_headers_timeout="15s",
        **accesslog.build_access_log(config.proxy, HTTP, "%UPSTREAM_PEER_URI_SAN%"),
    )
    return {
        **_on_loopback(HTTP, made.http_port, facts),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [manager]}],
    }


def _virtual_hosts(made: direct.Direct, via: str) -> Iterator[message.Json]:
    if "*" not in made.plain:
        yield _virtual_host("mesh", ["*"], destinations.HTTP_MESH, via)
    if made.plain:
        # As requests name them; the port is not compared.
        domains = [f"[{host}]" if ":" in host else host for host in made.plain]
        yield _virtual_host("plain", domains, destinations.HTTP_PLAIN, via)


def _virtual_host(name: str, domains: list[str], cluster: str, via: str) -> message.Json:
    action = {"cluster": cluster, "timeout": "0s"}
    tunnel = {"upgrade_type": "CONNECT", "connect_config": {}}
    # Envoy has put its own name there before it looks for a route.
    again = f".*{re.escape(via)}.*{re.escape(via)}.*"
    seen = {"name": "via", "string_match": {"safe_regex": {"regex": again}}}
    has_port = {"name": ":authority", "string_match": {"safe_regex": {"regex": r".*:[0-9]+"}}}
    return {
        "name": name,
        "domains": domains,
        "routes": [
            # A request for this proxy itself would go round and round.
            {"match": {"prefix": "/", "headers": [seen]}, "direct_response": {"status": 508}},
            {
                "match": {"connect_matcher": {}},
                "route": {**action, "upgrade_configs": [tunnel]},
            },
            {"match": {"prefix": "/", "headers": [has_port]}, "route": action},
            {
                "match": {"prefix": "/"},
                "route": action,
                "request_headers_to_remove": [_HOST_HEADER],
                "typed_per_filter_config": _with_port(),
            },
        ],
    }


def _with_port() -> message.Json:
    header = {"key": _HOST_HEADER, "value": f"%REQ(:AUTHORITY)%:{_HTTP_PORT}"}
    append = {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    kind = f"type.googleapis.com/{_HTTP_PREFIX}"
    return {
        "envoy.filters.http.header_mutation": {
            "@type": f"{kind}.header_mutation.v3.HeaderMutationPerRoute",
            "mutations": {"request_mutations": [{"append": append}]},
        },
        "envoy.filters.http.dynamic_forward_proxy": {
            "@type": f"{kind}.dynamic_forward_proxy.v3.PerRouteConfig",
            "host_rewrite_header": _HOST_HEADER,
        },
    }


def _on_loopback(name: str, port: int, facts: model.HostFacts) -> message.Json:
    others = [_address("::1", port)] if facts.has_ipv6 else []
    return _listener(name, _address(direct.LOOPBACK, port), others)


def _listener(name: str, address: message.Json, others: list[message.Json]) -> message.Json:
    return {
        "name": name,
        "stat_prefix": name,
        "address": address,
        **({"additional_addresses": [{"address": each} for each in others]} if others else {}),
        "enable_reuse_port": False,
        **listeners.socket_options(),
    }


def _address(text: str, port: int) -> message.Json:
    return {"socket_address": {"address": text, "port_value": port}}
