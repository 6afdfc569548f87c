"""Envoy's admin interface, asked by the unix socket that Envoy makes: whoever may enter is answered.

In mode pilot-agent it is a TCP port of loopback instead.
"""

import http.client
import socket
from pathlib import Path

from istio_hostagent.supervise import specs

from . import netns

PORT = 15000


def find_socket(runtime: Path) -> Path | None:
    """The socket of the Envoy that serves, of an agent with this runtime directory."""
    return next(iter(runtime.glob(f"*.proxy/admin/{specs.ADMIN_NAME}")), None)


def ask(path: Path, target: str, method: str = "GET") -> tuple[int, str]:
    """Ask by a socket of the file system; raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        return ask_by(client, target, method)


def ask_port(space: netns.Namespace, target: str, method: str = "GET") -> tuple[int, str]:
    """Ask by TCP as root; raises OSError."""
    with space.connect("127.0.0.1", PORT) as client:
        return ask_by(client, target, method)


def ask_by(client: socket.socket, target: str, method: str = "GET") -> tuple[int, str]:
    """Ask by a connection that is there; closes nothing."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = client
    connection.request(method, target)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
