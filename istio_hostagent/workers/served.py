"""Ask a running Envoy which certificates it shows; runs as istio-proxy, whom its admin interface
lets in.

In:  {"socket": path of a unix socket, or "" for TCP; "port": of 127.0.0.1; "identity"}.
Out: {"serials": [...]}, hexadecimal, of the certificates for this identity, each once; or, where
it does not answer so, {"error": {"code", "message", "hint"}}.
"""

import http.client
import json
import socket
import sys
from typing import Any

from ..errors import AuthorityUnavailable, describe

TIMEOUT_S = 3.0
MAX_BYTES = 8 << 20
# Of more different ones nobody wants to know.
MAX_SERIALS = 32


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    try:
        answer: dict[str, object] = {"serials": ask(request)}
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = describe(error) if isinstance(error, OSError) else str(error)
        message = f"its admin interface does not say which certificate it shows: {said}"
        code = AuthorityUnavailable.code
        answer = {"error": {"code": code, "message": message, "hint": ""}}
    json.dump(answer, sys.stdout)


def ask(request: dict[str, Any], timeout_s: float = TIMEOUT_S) -> list[str]:
    """The serial numbers; raises OSError, HTTPException or ValueError."""
    family = socket.AF_UNIX if request["socket"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        client.connect(request["socket"] or ("127.0.0.1", request["port"]))
        connection = http.client.HTTPConnection("localhost")
        connection.sock = client
        connection.request("GET", "/certs")
        response = connection.getresponse()
        data = response.read(MAX_BYTES + 1)
    if response.status != http.client.OK or len(data) > MAX_BYTES:
        raise ValueError(f"status {response.status}, {len(data)} bytes")
    try:
        return find_serials(json.loads(data), request["identity"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its answer has another form: {error!r}") from error


def find_serials(answer: Any, identity: str) -> list[str]:
    """The serial numbers in an answer of `/certs` of the certificates for this identity."""
    found: dict[str, None] = {}
    for context in answer.get("certificates", ()):
        for shown in context.get("cert_chain", ()):
            names = [each.get("uri") for each in shown.get("subject_alt_names", ())]
            if identity in names:
                found[f"{int(shown['serial_number'], 16):x}"] = None
    return list(found)[:MAX_SERIALS]


if __name__ == "__main__":
    main()
