"""Texts that an earlier version has accepted, because their keys had no effect in it."""

import pytest

from istio_hostagent.config import build, model, settings

SIDECAR = "/var/lib/istio/envoy/sidecar.env"
ROOT = model.Trust(is_root_only=True)
PROXY = model.Trust(is_root_only=False, is_proxys=True, detail="it belongs to istio-proxy")
FACTS = model.HostFacts(
    proxy_uid=1337, proxy_gid=1337, users=(("root", 0, 0),), groups=(("root", 0),)
)

# Before the agent knew any way to a certificate but istiod with a token in a file, these were
# handed on to pilot-agent or had no effect: any text of them was accepted.
ONCE_WITHOUT_EFFECT = [
    "BOOTSTRAP_XDS_AGENT",
    "CALL_CREDENTIALS",
    "CANONICAL_REVISION",
    "CANONICAL_SERVICE",
    "CA_PROVIDER",
    "CITADEL_ADDRESS",
    "CITADEL_ENV",
    "CLEAN",
    "CLEANUP_ONLY",
    "CLOUD_PLATFORM",
    "CNI_MODE",
    "COMPLIANCE_POLICY",
    "CONTROL_PLANE_AUTH_POLICY",
    "CREDENTIAL_FETCHER_TYPE",
    "CREDENTIAL_IDENTITY_PROVIDER",
    "DISABLE_ENVOY",
    "DNS_ADDR",
    "DNS_AGENT",
    "DNS_CAPTURE",
    "DNS_FORWARD_PARALLEL",
    "DNS_FORWARD_TIMEOUT",
    "DNS_SERVER",
    "DRY_RUN",
    "DRY_RUN_FILE_PATH",
    "DUAL_STACK",
    "ECC_CURVE",
    "ECC_SIGNATURE_ALGORITHM",
    "ENABLE_INBOUND_IPV6",
    "ENABLE_INGRESS_GATEWAY_SDS",
    "ENABLE_PROBE_KEEPALIVE_CONNECTIONS",
    "ENVOY_CFG",
    "ENVOY_SKIP_DEPRECATED_LOGS",
    "ENVOY_UID",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
    "FILE_DEBOUNCE_DURATION",
    "FILE_MOUNTED_CERTS",
    "FORCE_APPLY",
    "FORCE_IPTABLES_BINARY",
    "GCE_METADATA_HOST",
    "GCP_METADATA",
    "GCP_QUOTA_PROJECT",
    "GKE_CLUSTER_URL",
    "GRPC_KEEPALIVE_INTERVAL",
    "GRPC_KEEPALIVE_TIMEOUT",
    "GRPC_XDS_BOOTSTRAP",
    "HOST_IP",
    "HOST_NSENTER_EXEC",
    "HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED",
    "INGRESS_GATEWAY_FALLBACK_SECRET",
    "INITIAL_BACKOFF_MSEC",
    "INSTANCE_IP",
    "IPTABLES_PROBE_PORT",
    "IPTABLES_TRACE_LOGGING",
    "IPTABLES_VERSION",
    "ISTIO_AGENT_DUAL_STACK",
    "ISTIO_AUTO_MTLS_ENABLED",
    "ISTIO_BOOTSTRAP",
    "ISTIO_BOOTSTRAP_OVERRIDE",
    "ISTIO_CERT_DIR",
    "ISTIO_CFG",
    "ISTIO_CLUSTER_CONFIG",
    "ISTIO_CPU_LIMIT",
    "ISTIO_CP_AUTH",
    "ISTIO_DEBUG",
    "ISTIO_DELTA_XDS",
    "ISTIO_DUAL_STACK",
    "ISTIO_ENABLE_HTTP2_PROBING",
    "ISTIO_ENVOY_ENABLE_CORE_DUMP",
    "ISTIO_HOSTAGENT_ADMIN_PORT",
    "ISTIO_KUBE_APP_PROBERS",
    "ISTIO_LOG_DIR",
    "ISTIO_META_ENABLE_DNS_SERVER",
    "ISTIO_PROMETHEUS_ANNOTATIONS",
    "ISTIO_SIDECAR_CONFIG",
    "JWT_POLICY",
    "KUBERNETES_SERVICE_HOST",
    "LOCAL_XDS_GENERATOR",
    "LOCAL_XDS_GENERATOR_CONFIG_SAVE_PATH",
    "METRICS_LOCALHOST_ACCESS_ONLY",
    "MINIMUM_DRAIN_DURATION",
    "NATIVE_NFTABLES",
    "NETWORK_NAMESPACE",
    "OUTPUT_PATHS",
    "PEER_METADATA_DISCOVERY",
    "PILOT_CERT_PROVIDER",
    "PKCS8_KEY",
    "PLUGINS",
    "PROBE_TIMEOUT",
    "PROXY_CONFIG",
    "PROXY_CONFIG_XDS_AGENT",
    "PROXY_XDS_DEBUG_VIA_AGENT",
    "PROXY_XDS_DEBUG_VIA_AGENT_PORT",
    "PROXY_XDS_VIA_AGENT",
    "RECONCILE",
    "REQUIRE_3P_TOKEN",
    "RESTORE_FORMAT",
    "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION",
    "RUN_VALIDATION",
    "SDS_ENABLED",
    "SDS_UDS_PATH",
    "SECRET_GRACE_PERIOD_RATIO_JITTER",
    "SECRET_ROTATION_CHECK_INTERVAL",
    "SECRET_WATCHER_RESYNC_PERIOD",
    "SKIP_PARSE_TOKEN",
    "SKIP_RULE_APPLY",
    "STACKDRIVER_TRACING_DEBUG",
    "STACKDRIVER_TRACING_ENABLED",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_ANNOTATIONS",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_ATTRIBUTES",
    "STACKDRIVER_TRACING_MAX_NUMBER_OF_MESSAGE_EVENTS",
    "STALED_CONNECTION_RECYCLE_RUN_INTERVAL",
    "TOKEN_AUDIENCES",
    "USE_EDS_V1",
    "USE_EXTERNAL_WORKLOAD_SDS",
    "USE_TOKEN_FOR_CSR",
    "WASM_HTTP_REQUEST_MAX_RETRIES",
    "WASM_HTTP_REQUEST_TIMEOUT",
    "WASM_INSECURE_REGISTRIES",
    "WASM_MODULE_EXPIRY",
    "WASM_PURGE_INTERVAL",
    "SPIFFE_ENDPOINT_SOCKET",
    "WORKLOAD_IDENTITY_SOCKET_FILE",
    "WORKLOAD_RSA_KEY_SIZE",
    "XDS_AUTH_PLAINTEXT",
    "XDS_AUTH_PROVIDER",
    "XDS_LOCAL",
    "XDS_SAVE",
    "XDS_UPSTREAM",
]
WITH_EFFECT_SINCE = [key for key in ONCE_WITHOUT_EFFECT if key in settings.KEYS]


def build_config(text: str, trust: model.Trust, *, is_accepted: bool) -> build.Outcome:
    layers = [
        model.Layer("/etc/istio-hostagent/hostagent.env", None, ROOT),
        model.Layer("/var/lib/istio/envoy/cluster.env", None, trust),
        model.Layer(SIDECAR, text.encode(), trust),
    ]
    return build.build_config(layers, FACTS, is_accepted=is_accepted)


def assert_default_counts(text: str, trust: model.Trust) -> None:
    """That the text is an error on a fresh host, and but a warning where it was accepted."""
    fresh = build_config(text, trust, is_accepted=False)
    assert fresh.config is None
    (problem,) = fresh.problems
    outcome = build_config(text, trust, is_accepted=True)
    assert outcome.problems == ()
    assert problem in outcome.warnings
    assert outcome.config is not None
    usual = build_config("# nothing\n", trust, is_accepted=True)
    assert usual.config is not None
    assert outcome.config.identity == usual.config.identity
    key = text.partition("=")[0]
    assert next(value for value in outcome.values if value.key == key).status == "refused"


@pytest.mark.parametrize("key", WITH_EFFECT_SINCE)
def test_text_of_a_key_that_had_no_effect_when_it_was_accepted_is_a_warning(key: str) -> None:
    assert_default_counts(f"{key}='no such value'\n", ROOT)


@pytest.mark.parametrize(
    "text",
    [
        "WORKLOAD_RSA_KEY_SIZE=1024", "CREDENTIAL_FETCHER_TYPE=Mock", "CITADEL_ENV=azure",
        "ECC_SIGNATURE_ALGORITHM=RSA", "ECC_CURVE=P521", "PKCS8_KEY=maybe",
        "FILE_MOUNTED_CERTS=yep", "CITADEL_ADDRESS=istio-citadel",
        "SECRET_GRACE_PERIOD_RATIO_JITTER=-1",
    ],
)  # fmt: skip
def test_value_of_istio_that_is_of_no_use_here_is_a_warning_where_it_was_accepted(
    text: str,
) -> None:
    assert_default_counts(f"{text}\n", PROXY)


def test_key_that_has_become_one_for_root_alone_is_a_warning_where_it_was_accepted() -> None:
    assert_default_counts("GCE_METADATA_HOST=metadata.example\n", PROXY)


def test_every_key_with_an_effect_since_is_tried() -> None:
    assert set(WITH_EFFECT_SINCE) >= {"CITADEL_ADDRESS", "GCE_METADATA_HOST", "PKCS8_KEY"}
    assert set(WITH_EFFECT_SINCE) == settings.ONCE_WITHOUT_EFFECT


def test_kind_of_key_that_no_classic_ca_signs_is_a_warning_where_it_was_accepted() -> None:
    text = "ISTIO_HOSTAGENT_CA_PROTOCOL=citadel\nECC_SIGNATURE_ALGORITHM=ECDSA\n"
    assert build_config(text, ROOT, is_accepted=False).config is None
    outcome = build_config(text, ROOT, is_accepted=True)
    assert outcome.config is not None
    assert outcome.config.identity.key_kind is None, "RSA, as a classic CA needs it"
    assert [warning.line for warning in outcome.warnings] == [2]


@pytest.mark.parametrize("is_accepted", [False, True])
def test_classic_address_does_not_move_the_ca_away_from_the_control_plane(
    is_accepted: bool,
) -> None:
    text = "CITADEL_ADDRESS=istio-citadel:8060\nPILOT_ADDRESS=istiod.x:15012\n"
    outcome = build_config(text, ROOT, is_accepted=is_accepted)
    assert outcome.config is not None
    identity = outcome.config.identity
    assert (identity.ca_host, identity.ca_port) == ("istiod.x", 15012)
    assert identity.protocols[0] is model.CaProtocol.ISTIOD
    (warning,) = outcome.warnings
    assert warning.line == 1
    assert "CITADEL_ADDRESS is not used, because PILOT_ADDRESS is set" in warning.message
    statuses = {value.key: value.status for value in outcome.values}
    assert statuses["CITADEL_ADDRESS"] == "not used: PILOT_ADDRESS is set"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("CITADEL_ADDRESS=istio-citadel:8060\n", ("istio-citadel", 8060)),
        ("CITADEL_ADDRESS=istio-citadel:8060\nPILOT_ADDRESS=\n", ("istio-citadel", 8060)),
        ("CITADEL_ADDRESS=c:8060\nCA_ADDR=ca:15012\nPILOT_ADDRESS=p:15012\n", ("ca", 15012)),
        # Hosts of Istio 1.0: a Pilot is no CA.
        ("CITADEL_ADDRESS=c:8060\nPILOT_ADDRESS=10.0.0.5:15011\n", ("c", 8060)),
        ("CITADEL_ADDRESS=c:8060\nPILOT_ADDRESS=istio-pilot.istio-system:15010\n", ("c", 8060)),
        ("CITADEL_ADDRESS=c:8060\nISTIO_PILOT_PORT=15011\n", ("c", 8060)),
    ],
)
def test_address_that_counts_is_no_warning(text: str, address: tuple[str, int]) -> None:
    outcome = build_config(text, ROOT, is_accepted=False)
    assert outcome.config is not None
    assert (outcome.config.identity.ca_host, outcome.config.identity.ca_port) == address
    assert outcome.warnings == ()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("FILE_MOUNTED_CERTS=true\n", [1]),
        ("FILE_MOUNTED_CERTS=true\nPROV_CERT=/etc/certs\n", []),
        ("FILE_MOUNTED_CERTS=true\nPROV_CERT=/etc/certs\nCA_ADDR=istiod.x:15012\n", [3]),
        ("FILE_MOUNTED_CERTS=false\nCA_ADDR=istiod.x:15012\n", []),
        ("WORKLOAD_IDENTITY_SOCKET_FILE=spire.sock\n", []),
        ("WORKLOAD_IDENTITY_SOCKET_FILE=spire.sock\nCA_ADDR=istiod.x:15012\n", [2]),
        ("WORKLOAD_IDENTITY_SOCKET_FILE=socket\nCA_ADDR=istiod.x:15012\n", []),
        ("SPIFFE_ENDPOINT_SOCKET=unix:///run/a.sock\nCA_ADDR=istiod.x:15012\n", [2]),
    ],
)
def test_no_ca_is_given_up_in_silence(text: str, lines: list[int]) -> None:
    outcome = build_config(text, ROOT, is_accepted=False)
    assert outcome.config is not None
    assert [warning.line for warning in outcome.warnings] == lines
    assert all("no CA is asked" in warning.message for warning in outcome.warnings)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("spire.sock", "/run/secrets/workload-spiffe-uds/spire.sock"),
        ("/run/spire/agent.sock", "/run/spire/agent.sock"),
        ("socket", ""),
    ],
)
def test_socket_of_another_agent(text: str, source: str) -> None:
    line = f"WORKLOAD_IDENTITY_SOCKET_FILE={text}\n"
    outcome = build_config(line, ROOT, is_accepted=False)
    assert outcome.config is not None
    identity = outcome.config.identity
    assert (identity.secret_source, identity.renewed_in) == (source, source)
    assert bool(identity.renewed_by) == bool(source)


def test_socket_of_a_workload_api() -> None:
    outcome = build_config("SPIFFE_ENDPOINT_SOCKET=unix:///run/a.sock\n", ROOT, is_accepted=False)
    assert outcome.config is not None
    identity = outcome.config.identity
    assert (identity.secret_source, identity.is_workload_api) == ("/run/a.sock", True)
    assert identity.renewed_by == "the SPIFFE Workload API at /run/a.sock"


def test_one_socket_is_named() -> None:
    both = "WORKLOAD_IDENTITY_SOCKET_FILE=a.sock\nSPIFFE_ENDPOINT_SOCKET=unix:///run/a.sock\n"
    [problem] = build_config(both, ROOT, is_accepted=False).problems
    assert (problem.line, "by WORKLOAD_IDENTITY_SOCKET_FILE" in problem.message) == (2, True)


@pytest.mark.parametrize(
    "more",
    [
        "WORKLOAD_IDENTITY_SOCKET_FILE=/run/istio-hostagent/secrets.sock",
        "WORKLOAD_IDENTITY_SOCKET_FILE=a.sock\nFILE_MOUNTED_CERTS=true\nPROV_CERT=/srv",
        "SPIFFE_ENDPOINT_SOCKET=unix:///run/istio-hostagent/secrets.sock",
        "SPIFFE_ENDPOINT_SOCKET=unix:/a.sock\nFILE_MOUNTED_CERTS=true\nPROV_CERT=/srv",
        "SPIFFE_ENDPOINT_SOCKET=tcp://127.0.0.1:8081",
        "SPIFFE_ENDPOINT_SOCKET=/run/a.sock",
    ],
)
def test_a_source_that_is_our_own_or_one_of_two_is_refused_with_its_line(more: str) -> None:
    fresh = build_config(more + "\n", ROOT, is_accepted=False)
    assert [problem.line for problem in fresh.problems] == [1]
    accepted = build_config(more + "\n", ROOT, is_accepted=True)
    assert accepted.config is not None
    assert accepted.config.identity.secret_source == ""
