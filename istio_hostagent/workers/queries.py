"""Ask the resolver of this host whether it answers queries for names; runs as istio-proxy.

In:  {"port": of 127.0.0.1}.
Out: {"error": {"code", "message", "hint"} or null}.
It is asked for a name of its own, for which it asks nobody else (`names.messages`).
"""

import json
import os
import socket
import sys
from typing import Any

from ..errors import ResolverSilent, describe
from ..names import messages

# A lost packet is none that the next attempt would not make good.
TIMEOUT_S = 1.0


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer: dict[str, Any] = {"error": None}
    if message := ask(request["port"]):
        answer["error"] = {"code": ResolverSilent.code, "message": message, "hint": ""}
    json.dump(answer, sys.stdout)


def ask(port: int, timeout_s: float = TIMEOUT_S) -> str:
    """Why queries for names are not answered; empty: they are."""
    number = int.from_bytes(os.urandom(2), "big")
    query = messages.render_query(number, messages.OWN_NAME)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(timeout_s)
            # What comes from elsewhere is not for this socket.
            client.connect(("127.0.0.1", port))
            client.send(query)
            data = client.recv(messages.SMALLEST)
    except TimeoutError:
        return "it does not answer"
    except OSError as error:
        return f"it does not answer: {describe(error)}"
    if not messages.is_answer(data, number, query[messages.HEADER.size :]):
        return "its answer is to another question"
    if not messages.is_success(data):
        return "istiod has not told it the names of the mesh yet"
    return ""


if __name__ == "__main__":
    main()
