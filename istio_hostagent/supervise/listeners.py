"""The three listeners of the generated Envoy: captured outbound, captured inbound, readiness.

Not here: what becomes of the connections afterwards (`clusters`) and the certificates (`tls`).
Always: outbound connections are never looked into, so a server that speaks first is heard at
once; a connection made to a capture port itself is closed, because its original destination is the
proxy; an idle connection is never cut.

Rules for editing: Envoy takes destination port, destination address, transport and ALPN in this
order, keeps the most specific match of each and never goes back. A chain with a port therefore
hides every chain without one for that port. Two chains with the same criteria, or one network
twice, make Envoy refuse the whole file.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from ..config import clouds, model
from . import accesslog, clusters, message, readiness, tls

OUTBOUND = "outbound"
INBOUND = "inbound"

# A client that waits for the server to speak first cannot be told from a slow one any sooner, nor
# from one whose first segment was lost: Linux sends it again after 0.2 s (TCP_RTO_MIN), and once
# more 0.4 s later.
_INSPECTION_TIMEOUT = "1s"

# With `*` as mesh: never other mesh hosts, and among them every cloud's metadata service.
_LOCAL = ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")
_METADATA = tuple(map(ip_network, (*clouds.addresses(4), *clouds.addresses(6))))
_OFF_MESH = (*_LOCAL, *map(str, _METADATA))

_EVERYWHERE = ("0.0.0.0/0", "::/0")

# TCP_KEEPIDLE and SO_KEEPALIVE with the numbers of Linux; accepted sockets inherit them.
_SOL_SOCKET, _SO_KEEPALIVE, _IPPROTO_TCP, _TCP_KEEPIDLE = 1, 9, 6, 4


def build_listeners(
    config: model.Config, facts: model.HostFacts, source: tls.Source
) -> list[message.Json]:
    """Return the listeners, in a fixed order."""
    return [
        _outbound(config, facts),
        _inbound(config, facts, source),
        readiness.build_listener(config, facts),
    ]


def _outbound(config: model.Config, facts: model.HostFacts) -> message.Json:
    log = accesslog.build_access_log(config.proxy, OUTBOUND, "%UPSTREAM_PEER_URI_SAN%")
    plain = forward(OUTBOUND, clusters.PASSTHROUGH, log)
    chains = _loop_guards(config.redirection, OUTBOUND, log)
    mesh = config.proxy.mesh
    if mesh:
        closed = set(_capture_ports(config.redirection))
        # Other hosts never capture these ports, so nobody would answer our TLS there.
        beside = {*facts.ssh_ports, config.proxy.status_port} - closed
        chains += [
            {"filter_chain_match": {"destination_port": port}, "filters": plain}
            for port in sorted(beside)
        ]
        if mesh.is_all:
            chains.append(
                {"filter_chain_match": {"prefix_ranges": _ranges(_OFF_MESH)}, "filters": plain}
            )
        networks = _EVERYWHERE if mesh.is_all else tuple(map(str, mesh.networks))
        chains.append(
            {
                "filter_chain_match": {"prefix_ranges": _ranges(networks)},
                "filters": forward(OUTBOUND, clusters.MESH, log),
            }
        )
    return {
        **_captured(OUTBOUND, config.redirection.outbound_capture_port, facts),
        "traffic_direction": "OUTBOUND",
        "listener_filters": [_original_dst()],
        "filter_chains": chains,
        "default_filter_chain": {"filters": plain},
    }


def _inbound(config: model.Config, facts: model.HostFacts, source: tls.Source) -> message.Json:
    log = accesslog.build_access_log(config.proxy, INBOUND, "%DOWNSTREAM_PEER_URI_SAN%")
    transparent = config.redirection.transparent if config.redirection.is_transparent else None
    guards = _loop_guards(config.redirection, INBOUND, log)
    return {
        **_captured(INBOUND, config.redirection.inbound_capture_port, facts),
        **({"transparent": True} if transparent else {}),
        "traffic_direction": "INBOUND",
        "listener_filters": [
            _original_dst(),
            *([_original_src(transparent.mark)] if transparent else []),
            build_tls_inspector(_capture_ports(config.redirection)),
        ],
        **build_inbound_chains(config, source, clusters.APPLICATION, guards),
    }


def build_inbound_chains(
    config: model.Config,
    source: tls.Source,
    application: str,
    guards: Sequence[message.Json] = (),
) -> message.Json:
    """Return what a listener does with connections from outside that its inspector has seen.

    Mutual TLS goes to the cluster `application`, and so does plain text where that is accepted.
    `guards`: filter chains that come first.
    """
    log = accesslog.build_access_log(config.proxy, INBOUND, "%DOWNSTREAM_PEER_URI_SAN%")
    # Envoy of 1.37 or later connects to the application only when the peer has shown who it is;
    # an older one (the field is unknown to it, see `specs`) opens that connection earlier and
    # sends nothing on it.
    after_handshake = {
        "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE",
        "max_early_data_bytes": clusters.BUFFER_BYTES,
    }
    mutual_tls = {
        "filter_chain_match": {
            "transport_protocol": "tls",
            "application_protocols": list(tls.ALPN),
        },
        "filters": forward(INBOUND, application, log, **after_handshake),
        "transport_socket": tls.downstream_socket(config.identity.trust_domain, source),
        "transport_socket_connect_timeout": "15s",
    }
    is_strict = config.proxy.mtls is model.Mtls.STRICT
    others = clusters.NOWHERE if is_strict else application
    return {
        # In strict mode nothing without a ClientHello is served, so a slow one may take its time.
        "listener_filters_timeout": "15s" if is_strict else _INSPECTION_TIMEOUT,
        "continue_on_listener_filters_timeout": not is_strict,
        "filter_chains": [*guards, mutual_tls],
        "default_filter_chain": {"filters": forward(INBOUND, others, log)},
    }


def _captured(name: str, port: int, facts: model.HostFacts) -> message.Json:
    return {
        "name": name,
        "stat_prefix": name,
        "address": message.any_address(port, facts.has_ipv6),
        # Beside the sockets that keep other users from this port, nobody binds it without this.
        "enable_reuse_port": True,
        **socket_options(),
    }


def socket_options() -> message.Json:
    """Return how a listener treats the connections of applications: with keepalive."""
    numbers = ((_SOL_SOCKET, _SO_KEEPALIVE, 1), (_IPPROTO_TCP, _TCP_KEEPIDLE, 300))
    return {
        "per_connection_buffer_limit_bytes": clusters.BUFFER_BYTES,
        "socket_options": [
            {"level": level, "name": option, "int_value": value, "state": "STATE_PREBIND"}
            for level, option, value in numbers
        ],
    }


def _original_dst() -> message.Json:
    return message.typed(
        "envoy.filters.listener.original_dst",
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    )


def _original_src(mark: int) -> message.Json:
    """Connect to the application with the address of the client."""
    return message.typed(
        "envoy.filters.listener.original_src",
        "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
        mark=mark,
    )


def build_tls_inspector(closed_ports: Iterable[int] = ()) -> message.Json:
    """Return the filter that tells TLS from other connections, but not at closed ports."""
    inspector = message.typed(
        "envoy.filters.listener.tls_inspector",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    )
    # What is closed anyway is closed at once.
    rules = [{"destination_port_range": {"start": port, "end": port + 1}} for port in closed_ports]
    return {**inspector, "filter_disabled": {"or_match": {"rules": rules}}} if rules else inspector


def _capture_ports(redirection: model.Redirection) -> tuple[int, int]:
    return redirection.outbound_capture_port, redirection.inbound_capture_port


def _loop_guards(
    redirection: model.Redirection, direction: str, log: message.Json
) -> list[message.Json]:
    # Both ports in both listeners: by way of the other one is a loop as well. Matched by port and
    # not by our addresses, which change without notice.
    return [
        {
            "filter_chain_match": {"destination_port": port},
            "filters": forward(direction, clusters.NOWHERE, log),
        }
        for port in _capture_ports(redirection)
    ]


def forward(
    direction: str, cluster: str, log: message.Json, **options: object
) -> list[message.Json]:
    """Return the filters that hand a connection on to a cluster as it is."""
    return [
        message.typed(
            "envoy.filters.network.tcp_proxy",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            stat_prefix=direction,
            cluster=cluster,
            # Zero: no limit. A database session may be silent for a day.
            idle_timeout="0s",
            **log,
            **options,
        )
    ]


def _ranges(networks: Iterable[str]) -> list[message.Json]:
    # Without duplicates, see the rules for editing.
    split = (network.split("/") for network in dict.fromkeys(networks))
    return [{"address_prefix": prefix, "prefix_len": int(length)} for prefix, length in split]
