"""A listener of HTTP on which Envoy itself says how it is.

Not here: at which address, and what is said (`readiness`, `truth`).
"""

from collections.abc import Sequence
from typing import Any

from . import message


def build_listener(
    name: str, routes: list[message.Json], filters: Sequence[message.Json] = (), **more: Any
) -> message.Json:
    """Return a listener of HTTP that lacks its address; a request without a route gets 404.

    `more`: further fields of HttpConnectionManager.
    """
    router = message.typed(
        "envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"
    )
    manager = message.typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}]},
        http_filters=[*filters, router],
        common_http_protocol_options={"idle_timeout": "30s"},
        request_headers_timeout="10s",
        **more,
        # The health checks of some load balancers speak nothing newer.
        http_protocol_options={
            "accept_http_10": True,
            "default_host_for_http_10": "localhost",
        },
    )
    return {
        "name": name,
        "stat_prefix": name,
        # A full proxy is still alive, and whoever asks must hear it.
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "filter_chains": [{"filters": [manager]}],
    }
