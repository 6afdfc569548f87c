"""Make a running Envoy say that it is not ready, and close what it can; runs as istio-proxy.

In:  {"socket": path of a unix socket, or "" for TCP; "port": of 127.0.0.1}.
Out: {"error": {"code", "message", "hint"} or null}.
Source: Envoy's admin interface, POST /healthcheck/fail: it is DRAINING then, which means no to
whoever asks whether it, or pilot-agent, is ready; connections close behind the answer under way.
"""

import http.client
import json
import sys
from typing import Any

from ..errors import AuthorityUnavailable
from ..host import adminrequest

TIMEOUT_S = 3.0


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer: dict[str, Any] = {"error": None}
    try:
        fail_health_check(request)
    except adminrequest.Failure as error:
        message = f"its admin interface does not let it drain: {adminrequest.explain(error)}"
        answer["error"] = {"code": AuthorityUnavailable.code, "message": message, "hint": ""}
    json.dump(answer, sys.stdout)


def fail_health_check(request: dict[str, Any]) -> None:
    """Raises one of `adminrequest.Failure`."""
    place = request["socket"], request["port"]
    status, _ = adminrequest.ask(
        *place, "POST", "/healthcheck/fail", timeout_s=TIMEOUT_S, most=4096
    )
    if status != http.client.OK:
        raise ValueError(f"status {status}")


if __name__ == "__main__":
    main()
