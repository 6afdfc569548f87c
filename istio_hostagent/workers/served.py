"""Ask a running Envoy which certificates it shows; runs as istio-proxy, whom its admin interface
lets in.

In:  {"socket": path of a unix socket, or "" for TCP; "port": of 127.0.0.1; "identity";
      "shown_at": [[address, port], ...] of listeners that show it; "root_file": its roots}.
Out: {"serials": [...]}, hexadecimal, of the certificates for this identity, each once; or, where
it does not answer so, {"error": {"code", "message", "hint"}}.

Where listeners are named, what each of them shows in a handshake counts. They are shown none: the
handshake fails behind theirs, and no connection to the application is made.
"""

import http.client
import json
import socket
import ssl
import sys
from typing import Any

from ..errors import AuthorityUnavailable
from ..host import adminrequest

TIMEOUT_S = 3.0
MAX_BYTES = 8 << 20
# Of more different ones nobody wants to know.
MAX_SERIALS = 32


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    try:
        answer: dict[str, object] = {"serials": find_shown(request, ask(request))}
    except adminrequest.Failure as error:
        message = explain(error)
        code = AuthorityUnavailable.code
        answer = {"error": {"code": code, "message": message, "hint": ""}}
    json.dump(answer, sys.stdout)


def explain(error: Exception) -> str:
    """Say why it is not known."""
    if isinstance(error, NotShown):
        return str(error)
    said = adminrequest.explain(error)
    return f"its admin interface does not say which certificate it shows: {said}"


class NotShown(ValueError):
    """A listener does not answer with a certificate of this host."""


def find_shown(request: dict[str, Any], serials: list[str]) -> list[str]:
    """Of the serial numbers that its admin interface names, those that each listener shows.

    Raises NotShown.
    """
    for address, port in request["shown_at"]:
        serial = shake_hands(request, address, port)
        if serial not in serials:
            raise NotShown(
                f"port {port} at {address} shows certificate {serial}, and it has others"
            )
        serials = [serial]
    return serials


def shake_hands(
    request: dict[str, Any], address: str, port: int, timeout_s: float = TIMEOUT_S
) -> str:
    """The serial number of the certificate that a listener shows for the identity.

    Raises NotShown.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # With an older version the other end speaks last, and our side never sees that it succeeds.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["istio"])
    where = f"port {port} at {address}"
    try:
        context.load_verify_locations(request["root_file"])
        with (
            socket.create_connection((address, port), timeout_s) as client,
            context.wrap_socket(client) as shown,
        ):
            found = shown.getpeercert() or {}
    except (OSError, ValueError) as error:
        said = adminrequest.explain(error)
        raise NotShown(
            f"{where} does not answer with a certificate of this mesh: {said}"
        ) from error
    others: Any = found.get("subjectAltName", ())
    names = [str(name) for kind, name in others if kind == "URI"]
    if request["identity"] not in names:
        raise NotShown(f"{where} answers as {', '.join(names) or 'nobody'}")
    return f"{int(str(found['serialNumber']), 16):x}"


def ask(request: dict[str, Any], timeout_s: float = TIMEOUT_S) -> list[str]:
    """The serial numbers; raises one of `adminrequest.Failure`."""
    place = request["socket"], request["port"]
    status, data = adminrequest.ask(*place, "GET", "/certs", timeout_s=timeout_s, most=MAX_BYTES)
    if status != http.client.OK or len(data) > MAX_BYTES:
        raise ValueError(f"status {status}, {len(data)} bytes")
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
