"""Look at the way to the control plane, and at what this host would show there; as istio-proxy.

In:  {"certificate": the fields of `credentials.request.Request`, "timeout_s",
      "calls": [{"host", "port", "names": those of its certificate,
                 "kind": "tls" | "plain" | "pilot"}]}
Out: {"roots": {"number", "until", "error"}, "token": {"error", "until"} | null,
      "calls": [for each {"addresses", "address", "took_s", "stage", "error", "name", "since",
                          "until", "date", "shown"}]}
`stage` is how far a call got: "name", "connection", "tls", "answer", "done". `since`, `until`: of
the certificate that the other side shows; `date`: its clock, where it tells; `shown`: as whom it
answers, where that is not whom we know. All instants are unix seconds or null.

Of a token nobody but its own issuer's verifier knows whether it is good: here is what it says
itself. Nothing is sent but a TLS handshake or, to a Pilot, one GET. As istio-proxy, whose traffic
is not captured: any other user would reach the proxy of this host, and be told that all is well.
"""

import email.utils
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from typing import Any

from cryptography import x509

from ..errors import CredentialMissing, HostAgentError, describe
from ..host import certificatestore, cores
from ..identity import certificates, token
from . import ca_request
from .credentials import pairs, tokenfile
from .credentials.request import Request

MAX_WORDS = 300
_NOT_YET, _ENDED, _OTHER_NAME = 9, 10, 62  # X509_V_ERR_* of x509_vfy.h
# What a Pilot of every classic release answers with all services that it knows, itself among them.
# With a key, as in the guide, it answers 200 also for what it does not know.
_REGISTRATION = "/v1/registration"
_MAX_ANSWER = 8 << 20

Roots = tuple[x509.Certificate, ...]


def main() -> None:
    """Answer one request."""
    cores.forbid()  # one would hold the token
    asked = json.load(sys.stdin)
    json.dump(look(asked), sys.stdout)


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Look at everything, at all ends of the way at once."""
    request = _make_request(asked["certificate"])
    roots, error = _find_roots(request)
    deadline = time.monotonic() + float(asked["timeout_s"])
    calls = [Call(each, roots, deadline) for each in asked["calls"]]
    threads = [threading.Thread(target=call.make, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        # A name server that is silent holds a look-up for longer than we wait.
        thread.join(max(0.0, deadline + 0.5 - time.monotonic()))
    ends = [certificates.validity(each).not_after.timestamp() for each in roots]
    return {
        "roots": {"number": len(roots), "until": max(ends, default=None), "error": error},
        "token": _look_at_token(request),
        "calls": [dict(call.found) for call in calls],
    }


def _make_request(fields: dict[str, Any]) -> Request:
    value = dict(fields)
    value["headers"] = ()
    for name in ("named_parts", "protocols", "server_names", "token_command"):
        value[name] = tuple(value.get(name, ()))
    return Request(**value)


def _find_roots(request: Request) -> tuple[Roots, str]:
    store = certificatestore.CertificateStore(request.output_dir, request.store_dir)
    try:
        return ca_request.join(ca_request.trusted_roots(store.read(), request)), ""
    except (CredentialMissing, HostAgentError) as error:
        return (), error.message


def _look_at_token(request: Request) -> dict[str, Any] | None:
    """What is wrong with the token's file, or until when it says that it is good."""
    if not request.token_file:
        return None
    candidate = tokenfile.find(request)
    if candidate.credential is None:
        return {"error": candidate.reason[:MAX_WORDS], "until": candidate.until}
    # It is one; whether its claims are those that istiod takes is told by the same words that a
    # refusal is explained with.
    text = getattr(candidate.credential, "text", "")
    said = token.explain(text, pairs.now())
    is_right = said.startswith("looks right")
    return {"error": "" if is_right else f"the token {said}"[:MAX_WORDS], "until": candidate.until}


class Call:
    """One look at one end of the way; `found` is what came of it so far."""

    def __init__(self, asked: dict[str, Any], roots: Roots, deadline: float) -> None:
        """Nothing is sent yet."""
        self._asked = asked
        self._roots = roots
        self._deadline = deadline
        self.found: dict[str, Any] = {
            **{"addresses": [], "address": "", "took_s": 0.0, "stage": "name"},
            **{"error": "the name was not looked up in time", "name": "", "shown": ""},
            **{"since": None, "until": None, "date": None},
        }

    def make(self) -> None:
        """Look; whatever goes wrong is what was found."""
        try:
            self._look_up()
            self._connect()
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = describe(error) if isinstance(error, OSError) else str(error)
            self.found["error"] = _line(said)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def _look_up(self) -> None:
        try:
            answers = socket.getaddrinfo(
                self._asked["host"], self._asked["port"], type=socket.SOCK_STREAM
            )
        except OSError as error:
            # The numbers of getaddrinfo(3) are none of errno(3).
            raise ValueError(f"no address ({error.strerror})") from error
        addresses = dict.fromkeys(str(each[4][0]) for each in answers)
        self.found |= {"addresses": list(addresses)[:8], "stage": "connection", "error": ""}

    def _connect(self) -> None:
        """Try each address in turn, as the product does."""
        last: OSError = TimeoutError("timed out")
        for address in self.found["addresses"]:
            self.found["address"] = address
            began = time.monotonic()
            try:
                with socket.create_connection(
                    (address, self._asked["port"]), self._left()
                ) as connection:
                    self.found["took_s"] = round(time.monotonic() - began, 4)
                    self._speak(connection, address)
                    return
            except (TimeoutError, ConnectionError) as error:
                last = error
                if self.found["stage"] != "connection":
                    raise
            except OSError as error:
                if self.found["stage"] != "connection":
                    raise
                last = error
        raise last

    def _speak(self, connection: socket.socket, address: str) -> None:
        kind = self._asked["kind"]
        if kind == "pilot":
            self.found["stage"] = "answer"
            self._ask_pilot(connection)
        elif kind == "tls":
            self.found["stage"] = "tls"
            connection.close()
            self._shake_hands(address)
        self.found |= {"stage": "done", "error": ""}

    def _ask_pilot(self, connection: socket.socket) -> None:
        client = http.client.HTTPConnection(self._asked["host"], self._asked["port"])
        client.sock = connection
        client.request("GET", _REGISTRATION)
        response = client.getresponse()
        self.found["date"] = _parse_date(response.getheader("Date", ""))
        data = response.read(_MAX_ANSWER)
        if response.status != http.client.OK:
            raise ValueError(f"GET {_REGISTRATION}: status {response.status}")
        services = json.loads(data)
        if not isinstance(services, list) or not services:
            raise ValueError(f"GET {_REGISTRATION}: it lists no service")

    def _shake_hands(self, address: str) -> None:
        """Find a name by which it is known; raises what its certificate is not good for."""
        if not self._roots:
            self._note_shown(address)
            raise ValueError("there is no root certificate to know it by")
        refused: ssl.SSLCertVerificationError | None = None
        for name in self._asked["names"]:
            try:
                self._shake_hands_as(address, name)
                return
            except ssl.SSLCertVerificationError as error:
                refused = error
                if error.verify_code != _OTHER_NAME:
                    break
        assert refused is not None
        self._note_shown(address)
        words = {_NOT_YET: "its certificate is not valid yet", _ENDED: "its certificate has ended"}
        raise ValueError(words.get(refused.verify_code, refused.verify_message.rstrip(".")))

    def _shake_hands_as(self, address: str, name: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(
            cadata=certificates.render_certificates(self._roots).decode()
        )
        # A root that is itself signed by another one is a root all the same (libcurl takes it so).
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with self._wrapped(context, address, name) as shown:
            self._note(shown.getpeercert(binary_form=True))
        self.found["name"] = name

    def _note_shown(self, address: str) -> None:
        """What it shows that is not whom we know: for the words, and to compare clocks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._wrapped(context, address, self._asked["names"][0]) as shown:
                self._note(shown.getpeercert(binary_form=True), is_stranger=True)
        except (OSError, ValueError):
            pass  # what is wrong was said before

    def _wrapped(self, context: ssl.SSLContext, address: str, name: str) -> ssl.SSLSocket:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        client = socket.create_connection((address, self._asked["port"]), self._left())
        client.settimeout(self._left())
        return context.wrap_socket(client, server_hostname=name)

    def _note(self, data: bytes | None, *, is_stranger: bool = False) -> None:
        if not data:
            return
        leaf = x509.load_der_x509_certificate(data)
        validity = certificates.validity(leaf)
        self.found["since"] = validity.not_before.timestamp()
        self.found["until"] = validity.not_after.timestamp()
        if is_stranger:
            names = certificates.find_extension(leaf, x509.SubjectAlternativeName)
            listed = [str(each.value) for each in names or ()]
            self.found["shown"] = _line(", ".join(listed[:4]) or leaf.subject.rfc4514_string())


def _parse_date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def _line(text: str) -> str:
    """Words of others, on one line and bounded."""
    return "".join(each if each.isprintable() else " " for each in text)[:MAX_WORDS].strip()


if __name__ == "__main__":
    main()
