"""Both ends of the mutual TLS between mesh hosts, and where Envoy finds certificate and roots.

Not here: which connections are mutual TLS (`listeners`) and the issuing of certificates.
Always: both sides show a certificate, and each accepts only a peer whose URI SAN lies in the trust
domain; no session is resumed, so that every connection is checked against the roots of its moment.
"""

from . import message

CERTIFICATE = "workload_certificate"
ROOTS = "mesh_roots"

# The first is what we offer; the others are what Istio's own sidecars offer for mutual TLS.
ALPN = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")

_TLS = "envoy.extensions.transport_sockets.tls.v3"


def upstream_socket(trust_domain: str, sds_dir: str) -> message.Json:
    """Return the transport socket that calls another mesh host."""
    common = {**_peer_rules(trust_domain, sds_dir), "alpn_protocols": [ALPN[0]]}
    return message.typed(
        "envoy.transport_sockets.tls",
        f"{_TLS}.UpstreamTlsContext",
        common_tls_context=common,
        max_session_keys=0,
    )


def downstream_socket(trust_domain: str, sds_dir: str) -> message.Json:
    """Return the transport socket that answers another mesh host."""
    # Only "istio" is selected: the peer exchange of Istio's own proxies puts bytes of its own
    # before the application's.
    common = {**_peer_rules(trust_domain, sds_dir), "alpn_protocols": [ALPN[0]]}
    return message.typed(
        "envoy.transport_sockets.tls",
        f"{_TLS}.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=True,
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )


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


def _peer_rules(trust_domain: str, sds_dir: str) -> message.Json:
    # The slash ends the trust domain: "cluster.local.example" is another one.
    matcher = {"san_type": "URI", "matcher": {"prefix": f"spiffe://{trust_domain}/"}}
    return {
        # The same range on both sides: left alone, Envoy's client side stops at TLS 1.2.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificate_sds_secret_configs": [_sds(CERTIFICATE, sds_dir)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [matcher]},
            "validation_context_sds_secret_config": _sds(ROOTS, sds_dir),
        },
    }


def _sds(name: str, sds_dir: str) -> message.Json:
    return {
        "name": name,
        "sds_config": {
            "path_config_source": {"path": f"{sds_dir}/{name}.json"},
            "resource_api_version": "V3",
        },
    }
