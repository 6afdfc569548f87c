"""Both ends of the mutual TLS between mesh hosts, that with istiod, and Envoy's certificates.

Not here: which connections are mutual TLS (`listeners`) and the issuing of certificates.
Always: both sides show a certificate, and each accepts only a peer whose URI SAN lies in the trust
domain; no session is resumed, so that every connection is checked against the roots of its moment.
"""

from ipaddress import ip_address
from typing import NamedTuple

from ..config import model
from . import message

# In files of ours, by any names; those of a secret server are Istio's.
CERTIFICATE = "workload_certificate"
ROOTS = "mesh_roots"
SERVED_CERTIFICATE, SERVED_ROOTS = "default", "ROOTCA"
# Istio's name for the cluster of a secret server.
SERVER_CLUSTER = "sds-grpc"
# Where a certificate is shown, and nowhere else.
SHOWN = "tls_certificate_sds_secret_configs"

# The first is what we offer; the others are what Istio's own sidecars offer for mutual TLS.
ALPN = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")

_TLS = "envoy.extensions.transport_sockets.tls.v3"
# The same range on both sides: left alone, Envoy's client side stops at TLS 1.2.
_VERSIONS = {
    "tls_minimum_protocol_version": "TLSv1_2",
    "tls_maximum_protocol_version": "TLSv1_3",
}


class Source(NamedTuple):
    """Whence Envoy gets its secrets: from files of `sds_resources` in a directory, or a server.

    `server`: the path of its unix socket; empty: files.
    """

    directory: str
    server: str = ""


def upstream_socket(trust_domain: str, source: Source) -> message.Json:
    """Return the transport socket that calls another mesh host."""
    common = {**_peer_rules(trust_domain, source), "alpn_protocols": [ALPN[0]]}
    return message.typed(
        "envoy.transport_sockets.tls",
        f"{_TLS}.UpstreamTlsContext",
        common_tls_context=common,
        max_session_keys=0,
    )


def downstream_socket(trust_domain: str, source: Source) -> message.Json:
    """Return the transport socket that answers another mesh host."""
    # Only "istio" is selected: the peer exchange of Istio's own proxies puts bytes of its own
    # before the application's.
    common = {**_peer_rules(trust_domain, source), "alpn_protocols": [ALPN[0]]}
    return message.typed(
        "envoy.transport_sockets.tls",
        f"{_TLS}.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=True,
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )


def discovery_socket(server_name: str, source: Source, protocol: str, root: str) -> message.Json:
    """Return the transport socket that calls istiod, who has to carry `server_name`.

    `root`: the file by which istiod is recognised, or SYSTEM; empty: the roots of the mesh.
    """
    is_name = not is_address(server_name)
    matcher = {"san_type": "DNS" if is_name else "IP_ADDRESS", "matcher": {"exact": server_name}}
    rules: message.Json = {"match_typed_subject_alt_names": [matcher]}
    if root:
        file = model.SYSTEM_ROOTS if root == "SYSTEM" else root
        trust: message.Json = {"validation_context": {**rules, "trusted_ca": {"filename": file}}}
    else:
        combined = {
            "default_validation_context": rules,
            "validation_context_sds_secret_config": _sds(ROOTS, SERVED_ROOTS, source),
        }
        trust = {"combined_validation_context": combined}
    common = {
        "tls_params": _VERSIONS,
        "alpn_protocols": [protocol],
        SHOWN: [_sds(CERTIFICATE, SERVED_CERTIFICATE, source)],
        **trust,
    }
    return message.typed(
        "envoy.transport_sockets.tls",
        f"{_TLS}.UpstreamTlsContext",
        common_tls_context=common,
        max_session_keys=0,
        **({"sni": server_name} if is_name else {}),
    )


def is_address(name: str) -> bool:
    """Whether a host is named by its address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def sds_resources(output_dir: str) -> dict[str, message.Json]:
    """Return the secret discovery responses by file name.

    Envoy watches `output_dir` itself: a rename inside it (the swap of `..data`) makes it read key,
    chain and roots again, as often as needed to read them all from one generation.
    """
    watched = {"watched_directory": {"path": output_dir}}
    certificate = {
        "name": CERTIFICATE,
        "tls_certificate": {
            "certificate_chain": {"filename": f"{output_dir}/cert-chain.pem"},
            "private_key": {"filename": f"{output_dir}/key.pem"},
            **watched,
        },
    }
    roots = {
        "name": ROOTS,
        "validation_context": {
            "trusted_ca": {"filename": f"{output_dir}/root-cert.pem"},
            **watched,
        },
    }
    kind = {"@type": f"type.googleapis.com/{_TLS}.Secret"}
    return {
        f"{secret['name']}.json": {"resources": [{**kind, **secret}]}
        for secret in (certificate, roots)
    }


def _peer_rules(trust_domain: str, source: Source) -> message.Json:
    # The slash ends the trust domain: "cluster.local.example" is another one.
    matcher = {"san_type": "URI", "matcher": {"prefix": f"spiffe://{trust_domain}/"}}
    return {
        "tls_params": _VERSIONS,
        SHOWN: [_sds(CERTIFICATE, SERVED_CERTIFICATE, source)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [matcher]},
            "validation_context_sds_secret_config": _sds(ROOTS, SERVED_ROOTS, source),
        },
    }


def server_cluster(path: str) -> message.Json:
    """Return the cluster of a secret server at a unix socket: gRPC, so HTTP/2 and nothing else."""
    address = {"pipe": {"path": path}}
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {
        "@type": f"type.googleapis.com/{kind}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": SERVER_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {kind: options},
        "load_assignment": {
            "cluster_name": SERVER_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _sds(name: str, served: str, source: Source) -> message.Json:
    if not source.server:
        where = {"path_config_source": {"path": f"{source.directory}/{name}.json"}}
        return {"name": name, "sds_config": {**where, "resource_api_version": "V3"}}
    services = [{"envoy_grpc": {"cluster_name": SERVER_CLUSTER}}]
    server = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": services,
    }
    return {
        "name": served,
        "sds_config": {
            "api_config_source": server,
            # Without a certificate there is nothing to say: connections wait for it.
            "initial_fetch_timeout": "0s",
            "resource_api_version": "V3",
        },
    }
