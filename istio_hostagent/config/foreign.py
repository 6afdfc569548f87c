"""Istio's keys that the agent does not act on: handed on to pilot-agent, or without effect.

Not here: keys with a meaning of their own (`settings`). Every key of Istio 0.2 to 1.31 that a
host's files can hold is in one of the two modules; a test compares them with the lists of its
releases.
"""

from . import model

PASSED_ON = "handed on to pilot-agent"

# Families by prefix; the rest of the name is free.
FAMILIES = {
    "ISTIO_METAJSON_": "Node metadata as a JSON object, handed on to pilot-agent.",
    "ISTIO_META_": "Node metadata, handed on to pilot-agent.",
    "CA_HEADER_": "A further header of requests to the CA; the value is treated as a secret.",
    "XDS_HEADER_": "A further header of requests to the control plane, handed on to pilot-agent;"
    " the value is treated as a secret.",
}
SECRET_FAMILIES = ("CA_HEADER_", "XDS_HEADER_")

# Read by pilot-agent from its environment.
PASSED = {
    "BOOTSTRAP_XDS_AGENT": "Fetches the bootstrap from the control plane (Istio 1.11 to 1.20).",
    "CANONICAL_REVISION": "Revision of the workload, for telemetry.",
    "CANONICAL_SERVICE": "Name of the workload, for telemetry.",
    "CLOUD_PLATFORM": "aws, gcp, azure or none; saves looking for it.",
    "COMPLIANCE_POLICY": "Restricts TLS, for example to FIPS 140-2.",
    "CONTROL_PLANE_AUTH_POLICY": "Used when ISTIO_CP_AUTH is not set (Istio 0.5 to 0.7).",
    "DISABLE_ENVOY": "Runs pilot-agent without Envoy.",
    "DNS_FORWARD_PARALLEL": "Asks all upstream name servers at once.",
    "DNS_FORWARD_TIMEOUT": "How long an upstream name server may take.",
    "ENABLE_PROBE_KEEPALIVE_CONNECTIONS": "Keeps connections of health probes open.",
    "ENVOY_SKIP_DEPRECATED_LOGS": "Leaves out Envoy's deprecation warnings.",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "Ends draining when no connection is left.",
    "GCP_METADATA": "What Google's metadata service would say of this host.",
    "GCP_QUOTA_PROJECT": "The project that is charged for calls of Google's interfaces.",
    "GRPC_KEEPALIVE_INTERVAL": "Keepalive of the control-plane connection.",
    "GRPC_KEEPALIVE_TIMEOUT": "Keepalive of the control-plane connection.",
    "GRPC_XDS_BOOTSTRAP": "Where the bootstrap of proxyless gRPC is written.",
    "HOST_IP": "An address substituted in the bootstrap override.",
    "HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED": "Keeps fragments in paths, if false.",
    "ISTIO_BOOTSTRAP": "A bootstrap template of your own.",
    "ISTIO_BOOTSTRAP_OVERRIDE": "A file merged over the bootstrap.",
    "ISTIO_CP_AUTH": "MUTUAL_TLS, or NONE: plain text. Not beside PROXY_CONFIG or PILOT_ADDRESS.",
    "ISTIO_CPU_LIMIT": "Number of processors, where concurrency is 0.",
    "ISTIO_DELTA_XDS": "Incremental discovery.",
    "ISTIO_ENABLE_HTTP2_PROBING": "Lets health probes over TLS use HTTP/2.",
    "ISTIO_ENVOY_ENABLE_CORE_DUMP": "Lets Envoy write core files.",
    "ISTIO_KUBE_APP_PROBERS": "Health probes to be made for a kubelet.",
    "ISTIO_PROMETHEUS_ANNOTATIONS": "Metrics of the application to merge.",
    "LOCAL_XDS_GENERATOR": "Where a discovery server of pilot-agent listens (Istio 1.8).",
    "LOCAL_XDS_GENERATOR_CONFIG_SAVE_PATH": "Where that server writes what it got.",
    "METRICS_LOCALHOST_ACCESS_ONLY": "Serves metrics to this host only.",
    "MINIMUM_DRAIN_DURATION": "Shortest time of draining.",
    "PEER_METADATA_DISCOVERY": "How peers' metadata are learned.",
    "PROXY_CONFIG": "A ProxyConfig, in YAML or JSON.",
    "PROXY_CONFIG_XDS_AGENT": "Fetches the ProxyConfig from the control plane.",
    "PROXY_XDS_DEBUG_VIA_AGENT": "Serves debugging requests to the control plane locally.",
    "PROXY_XDS_DEBUG_VIA_AGENT_PORT": "Where pilot-agent does that.",
    "PROXY_XDS_VIA_AGENT": "Lets Envoy reach the control plane through pilot-agent (1.8 to 1.11).",
    "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION": "Sends health probes to localhost.",
    "STACKDRIVER_TRACING_DEBUG": "Tracing of Istio 1.5.",
    "STACKDRIVER_TRACING_ENABLED": "Tracing of Istio 1.5.",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_ANNOTATIONS": "Tracing of Istio 1.5.",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_ATTRIBUTES": "Tracing of Istio 1.5.",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_MESSAGE_EVENTS": "Tracing of Istio 1.5.",
    "WASM_HTTP_REQUEST_MAX_RETRIES": "Download of Wasm modules.",
    "WASM_HTTP_REQUEST_TIMEOUT": "Download of Wasm modules.",
    "WASM_INSECURE_REGISTRIES": "Download of Wasm modules.",
    "WASM_MODULE_EXPIRY": "Download of Wasm modules.",
    "WASM_PURGE_INTERVAL": "Download of Wasm modules.",
    "XDS_AUTH_PROVIDER": "How requests to the control plane are authenticated.",
    "XDS_LOCAL": "Where a discovery server of pilot-agent listens (Istio 1.7).",
    "XDS_SAVE": "Where that server writes what it got.",
    "XDS_UPSTREAM": "The control plane of that server.",
}

_DNS = "ISTIO_META_DNS_CAPTURE has queries for names answered by pilot-agent"
_USER = "PROXY_UID names further users of the proxy"
_FILES = "the agent hands its own certificate to pilot-agent, as files"
_TOOL = (
    "it steers the istio-iptables program, which is not used: see plan, apply, verify and clean"
)
_NATIVE = "rules are native nf_tables"
_IPV6 = "IPv4 and IPv6 are always redirected together"
_CREDENTIAL = "CREDENTIAL_FETCHER_TYPE names where a token comes from"
_ISTIOD = "it is a setting of istiod"
_GATEWAY = "this host is no gateway"
_RENEWS = "the agent renews the certificate by itself, and tries again by itself"
_NO_V1 = "it belongs to a discovery protocol that Istio has removed"

# Why a key has no effect here.
INERT = {
    "CALL_CREDENTIALS": "the token is shown until there is a certificate, then the certificate",
    "CA_PROVIDER": "ISTIO_HOSTAGENT_CA_PROTOCOL names the protocol of the CA",
    "CLEAN": _TOOL,
    "CLEANUP_ONLY": _TOOL,
    "CNI_MODE": _TOOL,
    "CREDENTIAL_IDENTITY_PROVIDER": _CREDENTIAL,
    "DNS_ADDR": _DNS,
    "DNS_AGENT": _DNS,
    "DNS_CAPTURE": _DNS,
    "DNS_SERVER": _DNS,
    "DRY_RUN": _TOOL,
    "DRY_RUN_FILE_PATH": _TOOL,
    "DUAL_STACK": _IPV6,
    "ENABLE_INBOUND_IPV6": _IPV6,
    "ENABLE_INGRESS_GATEWAY_SDS": _GATEWAY,
    "ENVOY_CFG": "a bootstrap of your own is not supported yet, the agent writes one",
    "ENVOY_UID": _USER,
    "FILE_DEBOUNCE_DURATION": _FILES,
    "FORCE_APPLY": _TOOL,
    "FORCE_IPTABLES_BINARY": _NATIVE,
    "GKE_CLUSTER_URL": "the CA speaks istiod's protocol",
    "HOST_NSENTER_EXEC": _TOOL,
    "INGRESS_GATEWAY_FALLBACK_SECRET": _GATEWAY,
    "INITIAL_BACKOFF_MSEC": _RENEWS,
    "INSTANCE_IP": "ISTIO_SVC_IP names the address of this host",
    "IPTABLES_PROBE_PORT": _TOOL,
    "IPTABLES_TRACE_LOGGING": _TOOL,
    "IPTABLES_VERSION": _NATIVE,
    "ISTIO_AGENT_DUAL_STACK": _IPV6,
    "ISTIO_AUTO_MTLS_ENABLED": _FILES,
    "ISTIO_CERT_DIR": "OUTPUT_CERTS names the directory",
    "ISTIO_CFG": "nothing is looked for there",
    "ISTIO_CLUSTER_CONFIG": "it is read from the agent's environment, before any file is",
    "ISTIO_DEBUG": "ISTIO_HOSTAGENT_LOG_LEVEL is the log level of the proxy",
    "ISTIO_DUAL_STACK": _IPV6,
    "ISTIO_HOSTAGENT_ADMIN_PORT": "Envoy's admin interface is a unix socket of istio-proxy's",
    "ISTIO_HOSTAGENT_INSTANCE": "it says where the files lie: it counts in the environment alone",
    "ISTIO_LOG_DIR": "the journal has the logs",
    "ISTIO_META_ENABLE_DNS_SERVER": f"{_DNS}; pilot-agent is told of this one all the same",
    "ISTIO_SIDECAR_CONFIG": "it is read from the agent's environment, before any file is",
    "JWT_POLICY": "ISTIO_HOSTAGENT_TOKEN_FILE names the token",
    "KUBERNETES_SERVICE_HOST": "this host is not a pod",
    "NATIVE_NFTABLES": _NATIVE,
    "NETWORK_NAMESPACE": "one agent redirects the network namespace in which it runs",
    "OUTPUT_PATHS": _TOOL,
    "PILOT_CERT_PROVIDER": "CA_ROOT_CA names the roots",
    "PLUGINS": _CREDENTIAL,
    "PROBE_TIMEOUT": _TOOL,
    "RECONCILE": _TOOL,
    "REQUIRE_3P_TOKEN": _ISTIOD,
    "RESTORE_FORMAT": _TOOL,
    "RUN_VALIDATION": _TOOL,
    "SDS_ENABLED": _FILES,
    "SDS_UDS_PATH": _FILES,
    "SECRET_ROTATION_CHECK_INTERVAL": _RENEWS,
    "SECRET_WATCHER_RESYNC_PERIOD": _GATEWAY,
    "SKIP_PARSE_TOKEN": "an expired token is never shown",
    "SKIP_RULE_APPLY": _TOOL,
    "STALED_CONNECTION_RECYCLE_RUN_INTERVAL": _FILES,
    "TOKEN_AUDIENCES": _ISTIOD,
    "USE_EDS_V1": _NO_V1,
    "USE_EXTERNAL_WORKLOAD_SDS": _FILES,
    "USE_TOKEN_FOR_CSR": "the token is shown until there is a certificate, then the certificate",
    "XDS_AUTH_PLAINTEXT": _ISTIOD,
}  # fmt: skip

# Values that ask for what is done anyway: no warning.
AGREES: dict[str, tuple[str, ...]] = {
    "CALL_CREDENTIALS": ("false",),
    "CA_PROVIDER": ("Citadel",),
    "DNS_CAPTURE": ("false",),
    "DUAL_STACK": ("true",),
    "ISTIO_AGENT_DUAL_STACK": ("true",),
    "ISTIO_DUAL_STACK": ("true",),
    "ISTIO_META_ENABLE_DNS_SERVER": ("false",),
    "JWT_POLICY": ("third-party-jwt",),
    "NATIVE_NFTABLES": ("true",),
    "PILOT_CERT_PROVIDER": ("istiod",),
    "USE_TOKEN_FOR_CSR": ("false",),
}

# Keys of this module that name a command, user, binary or output path, with the values that may
# stand in any file. Not those that do nothing here, whatever they name; but whoever names a user
# is to know that the proxy runs as another one.
GUARDED: dict[str, tuple[str, ...]] = {
    "ENVOY_UID": (),
    "GRPC_XDS_BOOTSTRAP": ("./etc/istio/proxy/grpc-bootstrap.json",),
    "ISTIO_BOOTSTRAP": (),
    "ISTIO_BOOTSTRAP_OVERRIDE": (),
    "LOCAL_XDS_GENERATOR_CONFIG_SAVE_PATH": (),
    "XDS_SAVE": (),
}
# Of these, the places to which pilot-agent writes, which runs as istio-proxy.
_PROXYS = frozenset(("GRPC_XDS_BOOTSTRAP", "LOCAL_XDS_GENERATOR_CONFIG_SAVE_PATH", "XDS_SAVE"))

# What makes the loader or an interpreter run other code (ld.so(8), its list for set-user-ID
# programs; python3(1); bash(1)).
_CODE = frozenset((
    "BASH_ENV", "ENV", "GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "IFS",
    "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH", "PATH", "RESOLV_HOST_CONF", "RES_OPTIONS",
    "SHELLOPTS", "TMPDIR", "TZDIR",
))  # fmt: skip
_CODE_PREFIXES = ("LD_", "MALLOC_", "PYTHON", "BASH_FUNC_")


def find_family(key: str) -> str:
    """The prefix of the family that `key` belongs to, or empty."""
    return next((p for p in FAMILIES if key.startswith(p) and len(key) > len(p)), "")


def may_come_from(trust: model.Trust, key: str, value: str) -> bool:
    """Whether this key with this value counts from a file that so many can change."""
    if trust.is_root_only:
        return True
    if key in _CODE or key.startswith(_CODE_PREFIXES):
        return False
    is_guarded = key in GUARDED and bool(value) and value not in GUARDED[key]
    return not is_guarded or (trust.is_proxys and key in _PROXYS)
