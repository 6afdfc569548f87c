"""Istio's keys that the agent does not act on: handed on to pilot-agent, or without effect.

Not here: keys with a meaning of their own (`settings`). Every key of Istio 0.2 to 1.0 and 1.24 to
1.31 that a host's files can hold is in one of the two modules; a test compares them with the list
in the references.
"""

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
    "CANONICAL_REVISION": "Revision of the workload, for telemetry.",
    "CANONICAL_SERVICE": "Name of the workload, for telemetry.",
    "CLOUD_PLATFORM": "aws, gcp, azure or none; saves looking for it.",
    "COMPLIANCE_POLICY": "Restricts TLS, for example to FIPS 140-2.",
    "DISABLE_ENVOY": "Runs pilot-agent without Envoy.",
    "DNS_FORWARD_PARALLEL": "Asks all upstream name servers at once.",
    "DNS_FORWARD_TIMEOUT": "How long an upstream name server may take.",
    "DNS_PROXY_ADDR": "Where the DNS proxy listens.",
    "ENABLE_PROBE_KEEPALIVE_CONNECTIONS": "Keeps connections of health probes open.",
    "ENVOY_PROMETHEUS_PORT": "Where Envoy serves its metrics.",
    "ENVOY_SECURE_MERGED_METRICS_PORT": "Where merged metrics are served with mutual TLS.",
    "ENVOY_SECURE_METRICS_PORT": "Where Envoy's metrics are served with mutual TLS.",
    "ENVOY_SKIP_DEPRECATED_LOGS": "Leaves out Envoy's deprecation warnings.",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "Ends draining when no connection is left.",
    "GRPC_KEEPALIVE_INTERVAL": "Keepalive of the control-plane connection.",
    "GRPC_KEEPALIVE_TIMEOUT": "Keepalive of the control-plane connection.",
    "GRPC_XDS_BOOTSTRAP": "Where the bootstrap of proxyless gRPC is written.",
    "HOST_IP": "An address substituted in the bootstrap override.",
    "ISTIO_BOOTSTRAP": "A bootstrap template of your own.",
    "ISTIO_BOOTSTRAP_OVERRIDE": "A file merged over the bootstrap.",
    "ISTIO_CPU_LIMIT": "Number of processors, where concurrency is 0.",
    "ISTIO_DELTA_XDS": "Incremental discovery.",
    "ISTIO_ENVOY_ENABLE_CORE_DUMP": "Lets Envoy write core files.",
    "ISTIO_PROMETHEUS_ANNOTATIONS": "Metrics of the application to merge.",
    "MINIMUM_DRAIN_DURATION": "Shortest time of draining.",
    "PEER_METADATA_DISCOVERY": "How peers' metadata are learned.",
    "PROXY_CONFIG": "A ProxyConfig, in YAML or JSON.",
    "PROXY_CONFIG_XDS_AGENT": "Fetches the ProxyConfig from the control plane.",
    "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION": "Sends health probes to localhost.",
    "WASM_HTTP_REQUEST_MAX_RETRIES": "Download of Wasm modules.",
    "WASM_HTTP_REQUEST_TIMEOUT": "Download of Wasm modules.",
    "WASM_INSECURE_REGISTRIES": "Download of Wasm modules.",
    "WASM_MODULE_EXPIRY": "Download of Wasm modules.",
    "WASM_PURGE_INTERVAL": "Download of Wasm modules.",
    "XDS_AUTH_PROVIDER": "How requests to the control plane are authenticated.",
}

_DNS = "DNS is not redirected yet"
_USER = "the proxy runs as user istio-proxy, which is looked up by name"
_OBTAINS = (
    "the agent obtains the certificate itself, with an EC P-256 key, and hands it to the proxy"
)
_FILES = "the agent hands its own certificate to pilot-agent, as files"
_TOOL = (
    "it steers the istio-iptables program, which is not used: see plan, apply, verify and clean"
)
_NATIVE = "rules are native nf_tables"
_IPV6 = "IPv4 and IPv6 are always redirected together"
_CONTROL = "the control plane is always spoken to with mutual TLS"
_CREDENTIAL = "the only credential for a first certificate is the token file so far"
_CLASSIC = "the classic certificate protocol is not supported yet; CA_ADDR names istiod"
_UNSUPPORTED = "this choice of traffic is not supported yet"
_TPROXY = "TPROXY is not supported yet"
_NO_V1 = "it belongs to a discovery protocol that Istio has removed"

# Why a key has no effect here.
INERT = {
    "CAPTURE_ALL_DNS": _DNS,
    "CA_PROVIDER": "the CA speaks istiod's protocol",
    "CITADEL_ADDRESS": _CLASSIC,
    "CITADEL_ENV": _CLASSIC,
    "CLEANUP_ONLY": _TOOL,
    "CONTROL_PLANE_AUTH_POLICY": _CONTROL,
    "CREDENTIAL_FETCHER_TYPE": _CREDENTIAL,
    "CREDENTIAL_IDENTITY_PROVIDER": _CREDENTIAL,
    "DROP_INVALID": "packets that belong to no connection are left alone",
    "DRY_RUN": _TOOL,
    "DRY_RUN_FILE_PATH": _TOOL,
    "DUAL_STACK": _IPV6,
    "ECC_CURVE": _OBTAINS,
    "ECC_SIGNATURE_ALGORITHM": _OBTAINS,
    "ENABLE_INBOUND_IPV6": _IPV6,
    "ENVOY_CFG": "a bootstrap of your own is not supported yet, the agent writes one",
    "ENVOY_UID": _USER,
    "ENVOY_USER": _USER,
    "EXEC_USER": _USER,
    "FILE_DEBOUNCE_DURATION": _FILES,
    "FILE_MOUNTED_CERTS": _FILES,
    "FORCE_APPLY": _TOOL,
    "FORCE_IPTABLES_BINARY": _NATIVE,
    "INSTANCE_IP": "ISTIO_SVC_IP names the address of this host",
    "INVALID_DROP": "packets that belong to no connection are left alone",
    "IPTABLES_PROBE_PORT": _TOOL,
    "ISTIO_CERT_DIR": "OUTPUT_CERTS names the directory",
    "ISTIO_CFG": "nothing is looked for there",
    "ISTIO_CLUSTER_CONFIG": "it is read from the agent's environment, before any file is",
    "ISTIO_CP_AUTH": _CONTROL,
    "ISTIO_DEBUG": "ISTIO_HOSTAGENT_LOG_LEVEL is the log level of the proxy",
    "ISTIO_DUAL_STACK": _IPV6,
    "ISTIO_EXCLUDE_INTERFACES": _UNSUPPORTED,
    "ISTIO_INBOUND_TPROXY_MARK": _TPROXY,
    "ISTIO_INBOUND_TPROXY_ROUTE_TABLE": _TPROXY,
    "ISTIO_LOG_DIR": "the journal has the logs",
    "ISTIO_META_DNS_CAPTURE": f"{_DNS}; pilot-agent is told of it all the same",
    "ISTIO_META_ENABLE_DNS_SERVER": f"{_DNS}; pilot-agent is told of it all the same",
    "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": _UNSUPPORTED,
    "ISTIO_OUTBOUND_OWNER_GROUPS": _UNSUPPORTED,
    "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": _UNSUPPORTED,
    "ISTIO_SIDECAR_CONFIG": "it is read from the agent's environment, before any file is",
    "JWT_POLICY": "ISTIO_HOSTAGENT_TOKEN_FILE names the token",
    "KUBERNETES_SERVICE_HOST": "this host is not a pod",
    "KUBE_VIRT_INTERFACES": _UNSUPPORTED,
    "NATIVE_NFTABLES": _NATIVE,
    "PILOT_CERT_PROVIDER": "CA_ROOT_CA names the roots",
    "PKCS8_KEY": _OBTAINS,
    "PROBE_TIMEOUT": _TOOL,
    "PROXY_GID": _USER,
    "PROXY_UID": _USER,
    "RECONCILE": _TOOL,
    "REDIRECT_DNS": _DNS,
    "RUN_VALIDATION": _TOOL,
    "SECRET_GRACE_PERIOD_RATIO_JITTER": "the agent spreads renewals by itself",
    "SKIP_RULE_APPLY": _TOOL,
    "USE_EDS_V1": _NO_V1,
    "WORKLOAD_IDENTITY_SOCKET_FILE": _FILES,
    "WORKLOAD_RSA_KEY_SIZE": _OBTAINS,
}  # fmt: skip

# Values that ask for what is done anyway: no warning.
AGREES: dict[str, tuple[str, ...]] = {
    "CA_PROVIDER": ("Citadel",),
    "CITADEL_ENV": ("onprem",),
    "CONTROL_PLANE_AUTH_POLICY": ("MUTUAL_TLS",),
    "DUAL_STACK": ("true",),
    "ENVOY_USER": ("istio-proxy",),
    "EXEC_USER": ("istio-proxy",),
    "FILE_MOUNTED_CERTS": ("false",),
    "ISTIO_CP_AUTH": ("MUTUAL_TLS",),
    "ISTIO_DUAL_STACK": ("true",),
    "ISTIO_META_DNS_CAPTURE": ("false",),
    "ISTIO_META_ENABLE_DNS_SERVER": ("false",),
    "JWT_POLICY": ("third-party-jwt",),
    "NATIVE_NFTABLES": ("true",),
    "PILOT_CERT_PROVIDER": ("istiod",),
    "REDIRECT_DNS": ("false",),
}

# Keys of this module that name a command, user, binary or output path, with the values that may
# stand in any file.
GUARDED: dict[str, tuple[str, ...]] = {
    "DRY_RUN_FILE_PATH": (),
    "ENVOY_CFG": ("/var/lib/istio/envoy/envoy.json",),
    "ENVOY_UID": (),
    "ENVOY_USER": ("istio-proxy",),
    "EXEC_USER": ("istio-proxy",),
    "GRPC_XDS_BOOTSTRAP": ("./etc/istio/proxy/grpc-bootstrap.json",),
    "ISTIO_BOOTSTRAP": (),
    "ISTIO_BOOTSTRAP_OVERRIDE": (),
    "ISTIO_CERT_DIR": ("/etc/certs",),
    "ISTIO_CFG": ("/var/lib/istio",),
    "ISTIO_LOG_DIR": ("/var/log/istio",),
    "PROXY_GID": (),
    "PROXY_UID": (),
}

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


def is_guarded(key: str, value: str) -> bool:
    """Whether this key with this value counts only from a file that only root can change."""
    if key in _CODE or key.startswith(_CODE_PREFIXES):
        return True
    return key in GUARDED and bool(value) and value not in GUARDED[key]
