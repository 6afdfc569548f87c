"""The listener that says whether Envoy serves: GET /healthz/ready, 200 or 503.

Not here: whether the host is in the mesh, which is the agent's to say.
Always: of the admin interface, which can end Envoy, nothing but this one answer is reachable.
"""

from ..config import model
from . import answering, clusters, message

NAME = "readiness"


def build_listener(config: model.Config, facts: model.HostFacts) -> message.Json:
    """Return the listener on the status port; the path is that of Istio's own proxies."""
    route: message.Json = {
        "match": {"path": "/healthz/ready"},
        "route": {"cluster": clusters.ADMIN, "prefix_rewrite": "/ready"},
    }
    address = message.any_address(config.proxy.status_port, facts.has_ipv6)
    # It gives its admin interface up, and nothing else, to another Envoy that is about to take
    # over from it, and serves until then, and on if nothing comes of that. Connections to it fail
    # (UF) for no other reason.
    mapper: message.Json = {
        "filter": {"response_flag_filter": {"flags": ["UF"]}},
        "status_code": 200,
        "body": {"inline_string": "LIVE\n"},
    }
    made = answering.build_listener(NAME, [route], local_reply_config={"mappers": [mapper]})
    name, stat_prefix, *others = made.items()
    return dict((name, stat_prefix, ("address", address), *others))
