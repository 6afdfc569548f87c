"""One request to the admin interface of an Envoy, by a unix socket or a port. For workers alone.

Source: www.envoyproxy.io, "Administration interface".
"""

import http.client
import socket

from ..errors import describe

Failure = (OSError, http.client.HTTPException, ValueError)


def ask(
    path: str, port: int, method: str, target: str, *, timeout_s: float, most: int
) -> tuple[int, bytes]:
    """Give status and body, of which no more than `most` bytes and one are read.

    `path`: of the socket, or empty for a port of 127.0.0.1. Raises one of `Failure`.
    """
    family = socket.AF_UNIX if path else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        client.connect(path or ("127.0.0.1", port))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = client
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read(most + 1)


def explain(error: Exception) -> str:
    """Say what went wrong."""
    return describe(error) if isinstance(error, OSError) else str(error)
