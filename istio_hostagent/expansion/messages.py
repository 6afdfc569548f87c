"""The messages of Istio's API that a WorkloadGroup and a mesh configuration are made of.

Names as in the .proto files; a type is `string`, `bool`, `int32`, `uint32`, `double`, `duration`,
a wrapper (`bool value`), the name of a message or enumeration below, or `list` or `map` of one.
Source: istio.io/api v1.31, mesh/v1alpha1/proxy.proto, networking/v1alpha3/{workload_group,
workload_entry,destination_rule}.proto, networking/v1beta1/proxy_config.proto.
"""

MESSAGES: dict[str, dict[str, str]] = {
    "ProxyConfig": {
        "config_path": "string",
        "binary_path": "string",
        "service_cluster": "string",
        "tracing_service_name": "TracingServiceName",
        "drain_duration": "duration",
        "discovery_address": "string",
        "discovery_refresh_delay": "duration",
        "zipkin_address": "string",
        "statsd_udp_address": "string",
        "envoy_metrics_service_address": "string",
        "proxy_admin_port": "int32",
        "availability_zone": "string",
        "control_plane_auth_policy": "AuthenticationPolicy",
        "custom_config_file": "string",
        "stat_name_length": "int32",
        "concurrency": "int32 value",
        "proxy_bootstrap_template_path": "string",
        "interception_mode": "InboundInterceptionMode",
        "tracing": "Tracing",
        "sds": "SDS",
        "envoy_access_log_service": "RemoteService",
        "envoy_metrics_service": "RemoteService",
        "proxy_metadata": "map string",
        "runtime_values": "map string",
        "status_port": "int32",
        "extra_stat_tags": "list string",
        "gateway_topology": "Topology",
        "termination_drain_duration": "duration",
        "mesh_id": "string",
        "readiness_probe": "ReadinessProbe",
        "proxy_stats_matcher": "ProxyStatsMatcher",
        "hold_application_until_proxy_starts": "bool value",
        "ca_certificates_pem": "list string",
        "image": "ProxyImage",
        "private_key_provider": "PrivateKeyProvider",
        "proxy_headers": "ProxyHeaders",
        "file_flush_interval": "duration",
        "file_flush_min_size_kb": "uint32",
        "stats_compression": "bool value",
        "connection_settings": "ConnectionSettings",
    },
    "WorkloadGroup": {
        "metadata": "ObjectMeta",
        "template": "WorkloadEntry",
        "probe": "ReadinessProbe",
    },
    "Tracing": {
        "zipkin": "Zipkin",
        "lightstep": "Lightstep",
        "datadog": "Datadog",
        "stackdriver": "Stackdriver",
        "open_census_agent": "OpenCensusAgent",
        "custom_tags": "map CustomTag",
        "max_path_tag_length": "uint32",
        "sampling": "double",
        "tls_settings": "ClientTLSSettings",
        "enable_istio_tags": "bool value",
    },
    "SDS": {
        "enabled": "bool",
        "k8s_sa_jwt_path": "string",
    },
    "RemoteService": {
        "address": "string",
        "tls_settings": "ClientTLSSettings",
        "tcp_keepalive": "TcpKeepalive",
    },
    "Topology": {
        "num_trusted_proxies": "uint32",
        "forward_client_cert_details": "ForwardClientCertDetails",
        "proxy_protocol": "ProxyProtocolConfiguration",
    },
    "ReadinessProbe": {
        "initial_delay_seconds": "int32",
        "timeout_seconds": "int32",
        "period_seconds": "int32",
        "success_threshold": "int32",
        "failure_threshold": "int32",
        "http_get": "HTTPHealthCheckConfig",
        "tcp_socket": "TCPHealthCheckConfig",
        "exec": "ExecHealthCheckConfig",
        "grpc": "GrpcHealthCheckConfig",
    },
    "ProxyStatsMatcher": {
        "inclusion_prefixes": "list string",
        "inclusion_suffixes": "list string",
        "inclusion_regexps": "list string",
    },
    "ProxyImage": {
        "image_type": "string",
    },
    "PrivateKeyProvider": {
        "cryptomb": "CryptoMb",
        "qat": "QAT",
    },
    "ProxyHeaders": {
        "forwarded_client_cert": "ForwardClientCertDetails",
        "set_current_client_cert_details": "SetCurrentClientCertDetails",
        "request_id": "RequestId",
        "server": "Server",
        "attempt_count": "AttemptCount",
        "envoy_debug_headers": "EnvoyDebugHeaders",
        "metadata_exchange_headers": "MetadataExchangeHeaders",
        "preserve_http1_header_case": "bool value",
        "x_forwarded_host": "XForwardedHost",
        "x_forwarded_port": "XForwardedPort",
    },
    "ConnectionSettings": {
        "profile": "Profile",
        "listener_per_connection_buffer_limit_bytes": "int32 value",
        "cluster_per_connection_buffer_limit_bytes": "int32 value",
        "http_idle_timeout": "duration",
        "http_max_connection_duration": "duration",
        "http_drain_timeout": "duration",
        "http_request_timeout": "duration",
        "http_request_headers_timeout": "duration",
        "http_stream_idle_timeout": "duration",
        "http_max_stream_duration": "duration",
        "http_max_concurrent_streams": "int32 value",
        "http2_initial_stream_window_size": "int32 value",
        "http2_initial_connection_window_size": "int32 value",
        "http_headers_with_underscores_action": "HeadersWithUnderscoresAction",
        "http_merge_slashes": "bool value",
        "http_path_with_escaped_slashes_action": "PathWithEscapedSlashesAction",
        "listener_connection_limit": "int32 value",
        "global_downstream_connection_limit": "int32 value",
    },
    "ObjectMeta": {
        "labels": "map string",
        "annotations": "map string",
    },
    "WorkloadEntry": {
        "address": "string",
        "ports": "map uint32",
        "labels": "map string",
        "network": "string",
        "locality": "string",
        "weight": "uint32",
        "service_account": "string",
    },
    "Zipkin": {
        "address": "string",
    },
    "Lightstep": {
        "address": "string",
        "access_token": "string",
    },
    "Datadog": {
        "address": "string",
    },
    "Stackdriver": {
        "debug": "bool",
        "max_number_of_attributes": "int64 value",
        "max_number_of_annotations": "int64 value",
        "max_number_of_message_events": "int64 value",
    },
    "OpenCensusAgent": {
        "address": "string",
        "context": "list TraceContext",
    },
    "CustomTag": {
        "literal": "Literal",
        "environment": "Environment",
        "header": "RequestHeader",
    },
    "ClientTLSSettings": {
        "mode": "TLSmode",
        "client_certificate": "string",
        "private_key": "string",
        "ca_certificates": "string",
        "credential_name": "string",
        "subject_alt_names": "list string",
        "sni": "string",
        "insecure_skip_verify": "bool value",
        "ca_crl": "string",
    },
    "TcpKeepalive": {
        "probes": "uint32",
        "time": "duration",
        "interval": "duration",
    },
    "ProxyProtocolConfiguration": {},
    "HTTPHealthCheckConfig": {
        "path": "string",
        "port": "uint32",
        "host": "string",
        "scheme": "string",
        "http_headers": "list HTTPHeader",
    },
    "TCPHealthCheckConfig": {
        "host": "string",
        "port": "uint32",
    },
    "ExecHealthCheckConfig": {
        "command": "list string",
    },
    "GrpcHealthCheckConfig": {
        "port": "uint32",
        "service": "string",
    },
    "CryptoMb": {
        "poll_delay": "duration",
        "fallback": "bool value",
    },
    "QAT": {
        "poll_delay": "duration",
        "fallback": "bool value",
    },
    "SetCurrentClientCertDetails": {
        "subject": "bool value",
        "cert": "bool value",
        "chain": "bool value",
        "dns": "bool value",
        "uri": "bool value",
    },
    "RequestId": {
        "disabled": "bool value",
    },
    "Server": {
        "disabled": "bool value",
        "value": "string",
    },
    "AttemptCount": {
        "disabled": "bool value",
    },
    "EnvoyDebugHeaders": {
        "disabled": "bool value",
    },
    "MetadataExchangeHeaders": {
        "mode": "MetadataExchangeMode",
    },
    "XForwardedHost": {
        "enabled": "bool value",
    },
    "XForwardedPort": {
        "enabled": "bool value",
    },
    "Literal": {
        "value": "string",
    },
    "Environment": {
        "name": "string",
        "default_value": "string",
    },
    "RequestHeader": {
        "name": "string",
        "default_value": "string",
    },
    "HTTPHeader": {
        "name": "string",
        "value": "string",
    },
}
# Of these fields one at most is there; the last one counts.
ONE_OF: dict[str, tuple[tuple[str, ...], ...]] = {
    "ProxyConfig": (
        (
            "service_cluster",
            "tracing_service_name",
        ),
    ),
    "Tracing": (
        (
            "zipkin",
            "lightstep",
            "datadog",
            "stackdriver",
            "open_census_agent",
        ),
    ),
    "ReadinessProbe": (
        (
            "http_get",
            "tcp_socket",
            "exec",
            "grpc",
        ),
    ),
    "PrivateKeyProvider": (
        (
            "cryptomb",
            "qat",
        ),
    ),
    "CustomTag": (
        (
            "literal",
            "environment",
            "header",
        ),
    ),
}
ENUMERATIONS: dict[str, dict[str, int]] = {
    "TracingServiceName": {
        "APP_LABEL_AND_NAMESPACE": 0,
        "CANONICAL_NAME_ONLY": 1,
        "CANONICAL_NAME_AND_NAMESPACE": 2,
    },
    "AuthenticationPolicy": {"NONE": 0, "MUTUAL_TLS": 1, "INHERIT": 1000},
    "InboundInterceptionMode": {"REDIRECT": 0, "TPROXY": 1, "NONE": 2},
    "ForwardClientCertDetails": {
        "UNDEFINED": 0,
        "SANITIZE": 1,
        "FORWARD_ONLY": 2,
        "APPEND_FORWARD": 3,
        "SANITIZE_SET": 4,
        "ALWAYS_FORWARD_ONLY": 5,
    },
    "Profile": {"SIDECAR": 0, "EDGE": 1},
    "HeadersWithUnderscoresAction": {
        "HEADERS_WITH_UNDERSCORES_UNSPECIFIED": 0,
        "HEADERS_WITH_UNDERSCORES_ALLOW": 1,
        "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST": 2,
        "HEADERS_WITH_UNDERSCORES_DROP_HEADER": 3,
    },
    "PathWithEscapedSlashesAction": {
        "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED": 0,
        "KEEP_UNCHANGED": 1,
        "REJECT_REQUEST": 2,
        "UNESCAPE_AND_REDIRECT": 3,
        "UNESCAPE_AND_FORWARD": 4,
    },
    "TraceContext": {
        "UNSPECIFIED": 0,
        "W3C_TRACE_CONTEXT": 1,
        "GRPC_BIN": 2,
        "CLOUD_TRACE_CONTEXT": 3,
        "B3": 4,
    },
    "TLSmode": {"DISABLE": 0, "SIMPLE": 1, "MUTUAL": 2, "ISTIO_MUTUAL": 3},
    "MetadataExchangeMode": {"UNDEFINED": 0, "IN_MESH": 1},
}
