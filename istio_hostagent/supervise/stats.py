"""Which counters an Envoy with a control plane keeps, and how they are tagged: as Istio has it.

From the bootstrap of Istio 1.30 (tools/packaging/common/envoy_bootstrap.json). Envoy keeps no
counter that is not listed: with thousands of clusters they would be most of its memory.
Not here: what Istio's own filters count, which a stock Envoy does not have.
"""

from . import message

_PREFIXES = ("reporter=", "cluster_manager", "listener_manager", "server", "cluster.xds-grpc",
             "wasm", "component", "istio")  # fmt: skip
_SUFFIXES = ("rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied",
             "downstream_cx_active")  # fmt: skip
_TAGS = {
    "cluster_name": r"^cluster(\.(.+);)",
    "http_conn_manager_prefix":
        r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)",
    "tcp_prefix": r"^tcp\.((.*?)\.)\w+?$",
    "response_code": r"_rq(_(\d{3}))$",
    "response_code_class": r"_rq(_(\dxx))$",
    "listener_address": r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    "authz_enforce_result": r"rbac(\.(allowed|denied))",
    "authz_dry_run_action": r"(\.istio_dry_run_(allow|deny)_)",
    "authz_dry_run_result": r"(\.shadow_(allowed|denied))",
}  # fmt: skip


def build_stats() -> message.Json:
    """Return `stats_config`."""
    patterns = [
        *({"prefix": prefix} for prefix in _PREFIXES),
        *({"suffix": suffix} for suffix in _SUFFIXES),
        {"safe_regex": {"regex": r"vhost\..*\.route\..*"}},
    ]
    return {
        "use_all_default_tags": False,
        "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in _TAGS.items()],
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    }
