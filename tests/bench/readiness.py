"""Waiting for what nothing tells of: a proxy's readiness, a file of somebody else."""

import http.client
import time
from collections.abc import Callable

from . import agentlog, cost, place

_POLL_S = 0.002
_PORT = 15021


def wait_until(is_so: Callable[[], bool], what: str, said: cost.Said) -> float:
    """Ask until it is so; returns when that was, in ms.

    Raises NotMeasured, with the end of what the one who is waited for has said.
    """
    end = cost.now_ms() + agentlog.PATIENCE_S * 1000.0
    while not is_so():
        if cost.now_ms() > end:
            raise cost.NotMeasured(f"not in {agentlog.PATIENCE_S:g} s: {what}: {said.end}")
        time.sleep(_POLL_S)
    return cost.now_ms()


def wait_ready(where: place.Place, said: cost.Said) -> float:
    """Wait until the proxy of a place says that it is ready; as `wait_until`."""
    return where.namespace.inside(lambda: wait_until(_is_ready, "the proxy is ready", said))


def _is_ready() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=1.0)
    try:
        connection.request("GET", "/healthz/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
