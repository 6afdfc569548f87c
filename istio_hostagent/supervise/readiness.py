"""The listener that says whether Envoy serves: GET /healthz/ready, 200 or 503.

Not here: whether the host is in the mesh, which is the agent's to say.
Always: of the admin interface, which can end Envoy, nothing but this one answer is reachable.
"""

from ..config import model
from . import clusters, message

NAME = "readiness"


def build_listener(config: model.Config, facts: model.HostFacts) -> message.Json:
    """Return the listener on the status port; the path is that of Istio's own proxies."""
    route = {
        "match": {"path": "/healthz/ready"},
        "route": {"cluster": clusters.ADMIN, "prefix_rewrite": "/ready"},
    }
    manager = message.typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=NAME,
        route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        http_filters=[
            message.typed(
                "envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"
            )
        ],
        common_http_protocol_options={"idle_timeout": "30s"},
        request_headers_timeout="10s",
        # The health checks of some load balancers speak nothing newer.
        http_protocol_options={
            "accept_http_10": True,
            "default_host_for_http_10": "localhost",
        },
    )
    return {
        "name": NAME,
        "stat_prefix": NAME,
        "address": message.any_address(config.proxy.status_port, facts.has_ipv6),
        # A full proxy is still alive, and whoever asks must hear it.
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [{"filters": [manager]}],
    }
