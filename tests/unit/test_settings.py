"""The tables of keys: complete, consistent with each other, and in the template and the manual."""

import re
from pathlib import Path

import pytest

from istio_hostagent.config import (
    directkeys,
    foreign,
    identitykeys,
    layers,
    manual,
    model,
    reader,
    registrykeys,
    setting,
    settings,
    spelling,
)

TEMPLATE = Path(__file__).parents[2] / "etc" / "hostagent.env"

# Every key that a host's files can hold: Istio 0.2 to 1.0 and 1.24 to 1.31.
DOCUMENTED = ["CANONICAL_REVISION", "CANONICAL_SERVICE", "CA_ADDR", "CA_PROVIDER", "CA_ROOT_CA", "CAPTURE_ALL_DNS", "CERTS_DIR", "CITADEL_ADDRESS", "CITADEL_ENV", "CLEANUP_ONLY", "CLOUD_PLATFORM", "COMPLIANCE_POLICY", "CONTROL_PLANE_AUTH_POLICY", "CREDENTIAL_FETCHER_TYPE", "CREDENTIAL_IDENTITY_PROVIDER", "DISABLE_ENVOY", "DNS_FORWARD_PARALLEL", "DNS_FORWARD_TIMEOUT", "DNS_PROXY_ADDR", "DROP_INVALID", "DRY_RUN", "DRY_RUN_FILE_PATH", "DUAL_STACK", "ECC_CURVE", "ECC_SIGNATURE_ALGORITHM", "ENABLE_INBOUND_IPV6", "ENABLE_PROBE_KEEPALIVE_CONNECTIONS", "ENVOY_CFG", "ENVOY_PORT", "ENVOY_PROMETHEUS_PORT", "ENVOY_SECURE_MERGED_METRICS_PORT", "ENVOY_SECURE_METRICS_PORT", "ENVOY_SKIP_DEPRECATED_LOGS", "ENVOY_STATUS_PORT", "ENVOY_UID", "ENVOY_USER", "EXEC_USER", "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "FILE_DEBOUNCE_DURATION", "FILE_MOUNTED_CERTS", "FORCE_APPLY", "FORCE_IPTABLES_BINARY", "GRPC_KEEPALIVE_INTERVAL", "GRPC_KEEPALIVE_TIMEOUT", "GRPC_XDS_BOOTSTRAP", "HOST_IP", "INBOUND_CAPTURE_PORT", "INBOUND_TUNNEL_PORT", "INSTANCE_IP", "INVALID_DROP", "IPTABLES_PROBE_PORT", "ISTIOD_SAN", "ISTIO_AGENT_FLAGS", "ISTIO_BIN_BASE", "ISTIO_BOOTSTRAP", "ISTIO_BOOTSTRAP_OVERRIDE", "ISTIO_CERT_DIR", "ISTIO_CFG", "ISTIO_CLUSTER_CONFIG", "ISTIO_CPU_LIMIT", "ISTIO_CP_AUTH", "ISTIO_CUSTOM_IP_TABLES", "ISTIO_DEBUG", "ISTIO_DELTA_XDS", "ISTIO_DUAL_STACK", "ISTIO_ENVOY_ENABLE_CORE_DUMP", "ISTIO_EXCLUDE_INTERFACES", "ISTIO_INBOUND_EXCLUDE_PORTS", "ISTIO_INBOUND_INTERCEPTION_MODE", "ISTIO_INBOUND_PORTS", "ISTIO_INBOUND_TPROXY_MARK", "ISTIO_INBOUND_TPROXY_ROUTE_TABLE", "ISTIO_LOCAL_EXCLUDE_PORTS", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "ISTIO_LOG_DIR", "ISTIO_META_AUTO_REGISTER_GROUP", "ISTIO_META_CLUSTER_ID", "ISTIO_META_DNS_CAPTURE", "ISTIO_META_ENABLE_DNS_SERVER", "ISTIO_META_MESH_ID", "ISTIO_META_NETWORK", "ISTIO_META_POD_PORTS", "ISTIO_META_WORKLOAD_NAME", "ISTIO_METAJSON_LABELS", "ISTIO_NAMESPACE", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "ISTIO_OUTBOUND_PORTS", "ISTIO_PILOT_PORT", "ISTIO_PROMETHEUS_ANNOTATIONS", "ISTIO_SERVICE", "ISTIO_SERVICE_CIDR", "ISTIO_SERVICE_EXCLUDE_CIDR", "ISTIO_SIDECAR_CONFIG", "ISTIO_SVC_IP", "ISTIO_SYSTEM_NAMESPACE", "JWT_POLICY", "KUBERNETES_SERVICE_HOST", "KUBE_VIRT_INTERFACES", "MINIMUM_DRAIN_DURATION", "NATIVE_NFTABLES", "OUTPUT_CERTS", "PEER_METADATA_DISCOVERY", "PILOT_ADDRESS", "PILOT_CERT_PROVIDER", "PKCS8_KEY", "POD_NAME", "POD_NAMESPACE", "PROBE_TIMEOUT", "PROV_CERT", "PROXY_CONFIG", "PROXY_CONFIG_XDS_AGENT", "PROXY_GID", "PROXY_UID", "RECONCILE", "REDIRECT_DNS", "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "RUN_VALIDATION", "SECRET_GRACE_PERIOD_RATIO", "SECRET_GRACE_PERIOD_RATIO_JITTER", "SECRET_TTL", "SERVICE_ACCOUNT", "SKIP_RULE_APPLY", "TRUST_DOMAIN", "USE_EDS_V1", "WASM_HTTP_REQUEST_MAX_RETRIES", "WASM_HTTP_REQUEST_TIMEOUT", "WASM_INSECURE_REGISTRIES", "WASM_MODULE_EXPIRY", "WASM_PURGE_INTERVAL", "WORKLOAD_IDENTITY_SOCKET_FILE", "WORKLOAD_RSA_KEY_SIZE", "XDS_AUTH_PROVIDER", "XDS_ROOT_CA", "CA_HEADER_X", "XDS_HEADER_X"]  # fmt: skip


# Beside those, what pilot-agent, its start script and istio-iptables of 1.5.0 to 1.23.0 read.
BETWEEN = [
    "BOOTSTRAP_XDS_AGENT", "CALL_CREDENTIALS", "CLEAN", "CNI_MODE", "DNS_ADDR", "DNS_AGENT", "DNS_CAPTURE",
    "DNS_SERVER", "ENABLE_INGRESS_GATEWAY_SDS", "GCE_METADATA_HOST", "GCP_METADATA", "GCP_QUOTA_PROJECT",
    "GKE_CLUSTER_URL", "HOST_NSENTER_EXEC", "HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED",
    "INGRESS_GATEWAY_FALLBACK_SECRET", "INITIAL_BACKOFF_MSEC", "IPTABLES_TRACE_LOGGING", "IPTABLES_VERSION",
    "ISTIO_AGENT_DUAL_STACK", "ISTIO_AUTO_MTLS_ENABLED", "ISTIO_CA", "ISTIO_ENABLE_HTTP2_PROBING",
    "ISTIO_KUBE_APP_PROBERS", "LOCAL_XDS_GENERATOR", "LOCAL_XDS_GENERATOR_CONFIG_SAVE_PATH",
    "METRICS_LOCALHOST_ACCESS_ONLY", "NETWORK_NAMESPACE", "OUTPUT_PATHS", "PLUGINS",
    "PROXY_XDS_DEBUG_VIA_AGENT", "PROXY_XDS_DEBUG_VIA_AGENT_PORT", "PROXY_XDS_VIA_AGENT", "REQUIRE_3P_TOKEN",
    "RESTORE_FORMAT", "SDS_ENABLED", "SDS_UDS_PATH", "SECRET_ROTATION_CHECK_INTERVAL",
    "SECRET_WATCHER_RESYNC_PERIOD", "SKIP_PARSE_TOKEN", "STACKDRIVER_TRACING_DEBUG",
    "STACKDRIVER_TRACING_ENABLED", "STACKDRIVER_TRACING_MAX_NUMBER_OF_ANNOTATIONS",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_ATTRIBUTES", "STACKDRIVER_TRACING_MAX_NUMBER_OF_MESSAGE_EVENTS",
    "STALED_CONNECTION_RECYCLE_RUN_INTERVAL", "TOKEN_AUDIENCES", "USE_EXTERNAL_WORKLOAD_SDS",
    "USE_TOKEN_FOR_CSR", "XDS_AUTH_PLAINTEXT", "XDS_LOCAL", "XDS_SAVE", "XDS_UPSTREAM",
]  # fmt: skip


@pytest.mark.parametrize("key", [*DOCUMENTED, *BETWEEN])
def test_documented_key_is_known(key: str) -> None:
    tables = (settings.KEYS, foreign.PASSED, foreign.INERT)
    assert any(key in table for table in tables) or foreign.find_family(key)


def test_no_key_is_in_two_tables() -> None:
    keys = [row.key for row in settings.SETTINGS] + [*foreign.PASSED, *foreign.INERT]
    assert len(keys) == len(set(keys))


def test_rows_about_other_keys_name_known_ones() -> None:
    assert foreign.AGREES.keys() <= foreign.INERT.keys()
    assert foreign.GUARDED.keys() <= foreign.INERT.keys() | foreign.PASSED.keys()
    assert settings.FALLBACKS.keys() | set(settings.FALLBACKS.values()) <= settings.KEYS


def test_every_row_of_the_module_is_in_the_table() -> None:
    modules = (settings, identitykeys, registrykeys, directkeys)
    values = [value for module in modules for value in vars(module).values()]
    rows = {row.key for row in values if isinstance(row, setting.Setting)}
    assert rows - {identitykeys.CA_HEADER.key} == settings.KEYS


@pytest.mark.parametrize("row", settings.SETTINGS, ids=lambda row: row.key)
def test_default_of_each_key_is_a_value_of_its_kind(row: setting.Setting[object]) -> None:
    nothing_set = reader.Reader(layers.Collected({}, [], []))
    row.parse(nothing_set.render_default(row))
    assert nothing_set.problems == []


@pytest.mark.parametrize(("first", "stand_in"), settings.FALLBACKS.items())
def test_fallback_has_kind_and_default_of_its_key(first: str, stand_in: str) -> None:
    rows = {row.key: row for row in settings.SETTINGS}
    assert rows[first].parse is rows[stand_in].parse
    assert rows[first].default == rows[stand_in].default


def test_help_is_a_sentence() -> None:
    for row in settings.SETTINGS:
        assert row.help.endswith("."), row.key
    for text in (*foreign.PASSED.values(), *foreign.FAMILIES.values()):
        assert text.endswith("."), text
    for reason in foreign.INERT.values():
        assert not reason.endswith("."), reason


def test_template_names_every_key_of_the_agent_and_sets_none() -> None:
    found = layers.collect([model.Layer("f", TEMPLATE.read_bytes(), model.Trust(True))])
    assert found == layers.Collected({}, [], [])
    uncommented = re.sub(r"(?m)^#(?=ISTIO_)", "", TEMPLATE.read_text(encoding="utf-8"))
    found = layers.collect([model.Layer("f", uncommented.encode(), model.Trust(True))])
    assert found.problems == []
    own = {key for key in settings.KEYS if key.startswith(settings.OWN_PREFIX)}
    assert found.history.keys() == own


def test_manual_names_every_key_once() -> None:
    named = re.findall(r"(?m)^``([A-Z0-9_*]+)``$", manual.render_keys_rst())
    families = {f"{prefix}*" for prefix in foreign.FAMILIES}
    assert sorted(named) == sorted(
        settings.KEYS | foreign.PASSED.keys() | foreign.INERT.keys() | families
    )


def test_manual_says_default_and_guard() -> None:
    text = re.sub(r"\s+", " ", manual.render_keys_rst())
    assert "``OUTPUT_CERTS`` The directory" in text
    assert (
        "Default: ``/etc/certs``. Counts only from a file that only root and istio-proxy can write."
    ) in text
    assert "``/usr/local/bin``. Counts only from a file that only root can write." in text
    assert "``DRY_RUN`` No effect here, because it steers the istio-iptables program" in text


def test_manual_has_no_emphasis_by_accident() -> None:
    prose = re.sub(r"``[^`]*``", "", manual.render_keys_rst())
    assert "*" not in prose.replace("\\*", "")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ISTIO_INBOUND_PORT", "ISTIO_INBOUND_PORTS"),
        ("ISTIO_INBOUND_PORTSS", "ISTIO_INBOUND_PORTS"),
        ("ISTIO_INBUOND_PORTS", "ISTIO_INBOUND_PORTS"),
        ("ISTIO_INBOUND-PORTS", "ISTIO_INBOUND_PORTS"),
        ("istio_inbound_ports", "ISTIO_INBOUND_PORTS"),
        ("INBOUND_PORTS", "ISTIO_INBOUND_PORTS"),
        ("ISTO_SERVICE", "ISTIO_SERVICE"),
        ("COMPLETELY_DIFFERENT", ""),
        ("X" * 65, ""),
    ],
)
def test_misspelt_key_gets_the_one_that_was_meant(typed: str, meant: str) -> None:
    assert spelling.Speller(sorted(settings.KEYS)).suggest(typed) == meant


def test_families_need_a_name_behind_the_prefix() -> None:
    assert foreign.find_family("ISTIO_META_") == ""
    assert foreign.find_family("ISTIO_META_X") == "ISTIO_META_"
    assert foreign.find_family("ISTIO_METAJSON_X") == "ISTIO_METAJSON_"
