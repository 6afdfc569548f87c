"""An authority that misbehaves at any stage, both protocols, over real TLS and gRPC.

Whatever it does: what is held stays as it is, byte for byte, the error says what was wrong, and the
next attempt at a CA that behaves succeeds.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo import ca_http2, ca_material, ca_wire
from tests.lab import misbehaving, wrongcertificates
from tests.lab.misbehaving import BEGIN, Citadel, Connection, Fault, Istiod, Misbehaving
from tests.lab.wrongcertificates import WRONG

from .test_certificate_worker import SUBJECT, WEB, Host, error_of, held_of

UNAVAILABLE, UNTRUSTED = "authority-unavailable", "certificate-untrusted"
REFUSED = "certificate-refused"
# What a call may take where the CA never answers, and how much longer a slow machine.
SHORT_S, SLACK_S = 2.0, 100.0
PARTIAL_HTTP2 = b"\0\0\4"  # the beginning of a frame's header
HTTP1 = b"HTTP/1.1 %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
# The second is said where making a key has taken all the time.
NOTHING_IN_TIME = "timed out|no time left"
# What libcurl says of a connection that has ended depends on how far it was.
BROKEN = (
    "terminated|reset by peer|Empty reply|died|framing|not closed cleanly|recv error|no gRPC status"
    "|not connected|Broken pipe|Recv failure|Send failure"
)

# Named by what is wrong: the fault, the code, words of the reason.
Case = tuple[Fault, str, str]


def http(status: int, *more: tuple[str, str]) -> Fault:
    """A gateway in front of it that answers by itself."""

    def answer(connection: Connection, number: int, _message: bytes) -> None:
        connection.begin(number, ("content-type", "text/html"), *more, status=status)
        connection.send(number, b"<html>no</html>")
        connection.end(number)

    return Fault(reply=answer)


def grpc(status: object, text: str = "by the will of the test") -> Fault:
    """An answer that is only a status."""

    def answer(connection: Connection, number: int, _message: bytes) -> None:
        connection.begin(number, *BEGIN)
        connection.end(number, ("grpc-status", str(status)), ("grpc-message", text))

    return Fault(reply=answer)


def framed(frame: Callable[[bytes], bytes], *, status: str = "0") -> Fault:
    """The message in another frame than its own."""

    def answer(connection: Connection, number: int, message: bytes) -> None:
        connection.begin(number)
        connection.send(number, frame(message))
        connection.end(number, *((("grpc-status", status),) if status else ()))

    return Fault(reply=answer)


def broken(*steps: str) -> Fault:
    """The answer breaks off: after headers, or in its frame."""

    def answer(connection: Connection, number: int, message: bytes) -> None:
        connection.begin(number)
        for step in steps:
            match step:
                case "part":
                    connection.send(number, ca_wire.render_frame(message)[:100])
                case "all":
                    connection.send(number, ca_wire.render_frame(message))
                case "close":
                    connection.cut()
                case "reset":
                    connection.reset(number, 2)  # INTERNAL_ERROR
                case "garbage":
                    connection.garble()

    return Fault(reply=answer)


def reset(code: int) -> Fault:
    """The call is reset before anything is said."""
    return Fault(reply=lambda connection, number, _message: connection.reset(number, code))


def leave(code: int) -> Fault:
    """The whole connection is ended before anything is said."""
    return Fault(reply=lambda connection, _number, _message: connection.leave(code))


def many_headers(connection: Connection, number: int, _message: bytes) -> None:
    """More headers than any answer needs."""
    connection.begin(number, *BEGIN, *((f"x-{place}", "x" * 4000) for place in range(20)))
    connection.end(number, ("grpc-status", "0"))


def refusing(**texts: tuple[int, str]) -> Fault:
    """It refuses these credentials, each with a status and words."""

    def answer(how: str) -> ca_http2.Reply | None:
        return ca_http2.Reply(status=texts[how][0], text=texts[how][1]) if how in texts else None

    return Fault(refusal=answer)


def message(made: Callable[[bytes], bytes]) -> Fault:
    """Something else as the message."""
    return Fault(message=made)


def text(kind: bytes) -> bytes:
    """What looks like a certificate and is none."""
    return b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n" % kind


def everywhere(part: bytes) -> bytes:
    """An answer of either protocol in which every certificate is this text."""
    fields = b"".join(ca_wire.render_field(number, part) for number in (1, 1, 3, 4))
    return fields + b"\x08\x01"  # which says "approved" to the classic protocol


SILENT: dict[str, Case] = {
    "tcp: no word": (Fault(tcp=misbehaving.silent), UNAVAILABLE, NOTHING_IN_TIME),
    "tcp: half closed": (
        Fault(tcp=misbehaving.half_open),
        UNAVAILABLE,
        f"{NOTHING_IN_TIME}|{BROKEN}",
    ),
    "tls: no word": (Fault(tls=misbehaving.silent), UNAVAILABLE, NOTHING_IN_TIME),
    "tls: a byte at a time": (
        Fault(tls=misbehaving.dripping),
        UNAVAILABLE,
        f"{NOTHING_IN_TIME}|{BROKEN}",
    ),
    "grpc: no word after headers": (broken(), UNAVAILABLE, NOTHING_IN_TIME),
    "grpc: no word in the frame": (broken("part"), UNAVAILABLE, NOTHING_IN_TIME),
    "grpc: no word after the message": (broken("all"), UNAVAILABLE, NOTHING_IN_TIME),
}
CONNECTION: dict[str, Case] = {
    "tcp: closed": (Fault(tcp=misbehaving.closing), UNAVAILABLE, BROKEN),
    "tcp: reset": (Fault(tcp=misbehaving.resetting), UNAVAILABLE, BROKEN),
    "tcp: plain text": (
        Fault(tcp=misbehaving.saying(b"SSH-2.0-OpenSSH_9.2p1\r\n")),
        UNAVAILABLE,
        "does not speak TLS",
    ),
    "tcp: HTTP without TLS": (
        Fault(tcp=misbehaving.saying(HTTP1 % b"400 Bad Request")),
        UNAVAILABLE,
        "does not speak TLS",
    ),
    "tcp: an alert": (
        Fault(tcp=misbehaving.saying(b"\x15\x03\x03\0\2\2\x28")),
        UNAVAILABLE,
        "Handshake failed",
    ),
    "tls: closed": (Fault(tls=misbehaving.closing), UNAVAILABLE, BROKEN),
    "tls: reset": (Fault(tls=misbehaving.resetting), UNAVAILABLE, BROKEN),
    "tls: half closed": (Fault(tls=misbehaving.saying(b"")), UNAVAILABLE, BROKEN),
    "tls: half a frame": (Fault(tls=misbehaving.saying(PARTIAL_HTTP2)), UNAVAILABLE, BROKEN),
    "tls: no HTTP/2": (Fault(tls=misbehaving.saying(b"SSH-2.0-x\r\n" * 9)), UNAVAILABLE, BROKEN),
    "tls: HTTP/1.1 after h2": (
        Fault(tls=misbehaving.saying(HTTP1 % b"200 OK")),
        UNAVAILABLE,
        BROKEN,
    ),
    "shown: another name": (
        Fault(shown="another name"),
        UNAVAILABLE,
        "does not match target host name .*not for this name",
    ),
    "shown: another root": (
        Fault(shown="another root"),
        UNAVAILABLE,
        "verification failed.*not from a root that we trust",
    ),
    "shown: expired": (
        Fault(shown="expired"),
        UNAVAILABLE,
        "The CA's own certificate expired on .*clock says",
    ),
    "shown: not yet valid": (
        Fault(shown="not yet valid"),
        UNAVAILABLE,
        "The CA's own certificate is valid only from .*clock says",
    ),
    "shown: HTTP/1.1 server": (
        Fault(shown="no h2", tls=misbehaving.saying(HTTP1 % b"200 OK")),
        UNAVAILABLE,
        "does not speak gRPC",
    ),
    "shown: overloaded HTTP/1.1 server": (
        Fault(shown="no h2", tls=misbehaving.saying(HTTP1 % b"503 Busy")),
        UNAVAILABLE,
        "503",
    ),
    "h2: refused stream": (reset(7), UNAVAILABLE, BROKEN),
    "h2: cancelled": (reset(8), UNAVAILABLE, "CANCEL"),
    "h2: goodbye": (leave(0), UNAVAILABLE, BROKEN),
    "h2: enhance your calm": (leave(11), UNAVAILABLE, BROKEN),
    "h2: closed after headers": (broken("close"), UNAVAILABLE, BROKEN),
    "h2: reset after headers": (broken("reset"), UNAVAILABLE, "INTERNAL_ERROR"),
    "h2: garbage after headers": (broken("garbage"), UNAVAILABLE, BROKEN),
    "h2: closed in the frame": (broken("part", "close"), UNAVAILABLE, BROKEN),
    "h2: reset in the frame": (broken("part", "reset"), UNAVAILABLE, "INTERNAL_ERROR"),
    "h2: closed before the status": (broken("all", "close"), UNAVAILABLE, BROKEN),
    "h2: reset before the status": (broken("all", "reset"), UNAVAILABLE, "INTERNAL_ERROR"),
}
STATUS: dict[str, Case] = {
    **{
        f"http: {number}": (
            http(number),
            code,
            f"HTTP status {number} .*does not speak gRPC"
            if code == UNAVAILABLE
            else f"HTTP status {number}",
        )
        for number, code in {
            200: UNAVAILABLE,
            302: UNAVAILABLE,
            400: UNAVAILABLE,
            403: REFUSED,
            429: UNAVAILABLE,
            503: UNAVAILABLE,
        }.items()
    },
    "http: 401": (http(401), REFUSED, "HTTP status 401"),
    "http: elsewhere": (
        http(307, ("location", "https://127.0.0.1:1/")),
        UNAVAILABLE,
        "HTTP status 307",
    ),
    "grpc: cancelled": (grpc(1), UNAVAILABLE, "CANCELLED by the will of the test"),
    "grpc: invalid": (grpc(3), REFUSED, "INVALID_ARGUMENT by the will of the test"),
    "grpc: too late": (grpc(4), UNAVAILABLE, "DEADLINE_EXCEEDED by the will of the test"),
    "grpc: not permitted": (grpc(7), REFUSED, "PERMISSION_DENIED by the will of the test"),
    "grpc: overloaded": (grpc(8), UNAVAILABLE, "RESOURCE_EXHAUSTED by the will of the test"),
    "grpc: internal": (grpc(13), UNAVAILABLE, "INTERNAL by the will of the test"),
    "grpc: unavailable": (grpc(14), UNAVAILABLE, "UNAVAILABLE by the will of the test"),
    "grpc: unknown number": (grpc(99), UNAVAILABLE, "UNKNOWN by the will of the test"),
    "grpc: no number": (grpc("ok"), UNAVAILABLE, "UNKNOWN by the will of the test"),
    "grpc: words that are none": (grpc(14, "%ff%00%1b[31m"), UNAVAILABLE, "UNAVAILABLE"),
    "grpc: endless words": (grpc(14, "never " * 2000), UNAVAILABLE, "never never"),
    "grpc: no status": (framed(ca_wire.render_frame, status=""), UNAVAILABLE, "no gRPC status"),
    "credentials: each refused": (
        refusing(certificate=(16, "not this certificate"), token=(16, "nor this token")),
        REFUSED,
        "not this certificate; CA .*nor this token; the token .* looks right",
    ),
    "credentials: certificate refused, token overloads": (
        refusing(certificate=(16, "not this certificate"), token=(8, "not now")),
        UNAVAILABLE,
        "not this certificate; CA .*RESOURCE_EXHAUSTED not now",
    ),
}
FRAME: dict[str, Case] = {
    "frame: compressed": (
        framed(lambda data: b"\1" + ca_wire.render_frame(data)[1:]),
        UNAVAILABLE,
        "compressed",
    ),
    "frame: unknown flag": (
        framed(lambda data: b"\x80" + ca_wire.render_frame(data)[1:]),
        UNAVAILABLE,
        "no gRPC message",
    ),
    "frame: none": (framed(lambda _data: b""), UNAVAILABLE, "cut short"),
    "frame: half a prefix": (framed(lambda _data: b"\0\0"), UNAVAILABLE, "cut short"),
    "frame: shorter than it says": (
        framed(lambda data: ca_wire.render_frame(data)[:-1]),
        UNAVAILABLE,
        "cut short",
    ),
    "frame: two messages": (
        framed(lambda data: ca_wire.render_frame(data) * 2),
        UNAVAILABLE,
        "more than one",
    ),
    "frame: longer than it says": (
        framed(lambda data: ca_wire.render_frame(data) + b"\0"),
        UNAVAILABLE,
        "more than one message",
    ),
    "frame: four gigabytes": (
        framed(lambda data: b"\0\xff\xff\xff\xff" + data),
        UNAVAILABLE,
        "cut short",
    ),
    "frame: headers without end": (
        Fault(reply=many_headers),
        UNAVAILABLE,
        "its headers are larger than",
    ),
    "message: huge": (
        message(lambda data: data + b"\0" * (2 << 20)),
        UNAVAILABLE,
        "its answer is larger than",
    ),
    "message: empty": (message(lambda _data: b""), UNTRUSTED, "0 parts|not approved"),
    "message: garbage": (message(lambda _data: b"\xff" * 64), UNTRUSTED, "ten bytes"),
    "message: cut in a field": (message(lambda data: data[:-1]), UNTRUSTED, "longer than"),
    "message: unknown wire type": (message(lambda data: data + b"\x7f"), UNTRUSTED, "wire type"),
    "message: endless number": (message(lambda data: data + b"\xff" * 11), UNTRUSTED, "ten bytes"),
    "message: numbers instead of text": (
        message(lambda _data: b"\x08\x01\x18\x01\x20\x01"),
        UNTRUSTED,
        "0 parts|not one in the text",
    ),
    "message: no text": (message(lambda _data: everywhere(b"")), UNTRUSTED, "not one in the text"),
    "message: DER instead of PEM": (
        message(lambda _data: everywhere(b"\x30\x82\1\1")),
        UNTRUSTED,
        "not one in the text",
    ),
    "message: no base64": (
        message(lambda _data: everywhere(text(b"*"))),
        UNTRUSTED,
        "cannot be decoded",
    ),
    "message: no certificate": (
        message(lambda _data: everywhere(text(b"AAAA"))),
        UNTRUSTED,
        "cannot be decoded",
    ),
    "message: no end": (
        message(lambda _data: everywhere(text(b"AAAA")[:-9])),
        UNTRUSTED,
        "no END line",
    ),
    "message: a key in it": (
        message(lambda _data: everywhere(ca_material.key_pem(ca_material.new_key()))),
        UNTRUSTED,
        "not one in the text",
    ),
}
# What the reason says of each certificate of WRONG.
ISSUED = {
    "another key": "is for another key than ours",
    "another name": "is for spiffe://cluster.local/ns/vms/sa/db, not for",
    "another trust domain": "is for spiffe://td.example/ns/vms/sa/web, not for",
    "two names": "sa/web and spiffe://cluster.local/ns/vms/sa/db, not for",
    "the name twice": "sa/web and spiffe://cluster.local/ns/vms/sa/web, not for",
    "no name": "is for nobody",
    "a CA's own": "is a CA's own",
    "no signatures": "may not be used for signatures",
    "no server": "may not be used by a TLS server",
    "no client": "may not be used by a TLS client",
    "expired": "the certificate expired on .*clock says",
    "not yet valid": "is valid only from .*clock says",
    "for ever": "is valid until 9999-12-31, more than ten years",
    "unknown critical extension": "a critical extension that we do not know",
    "leaf last": "is for another key than ours",
    "intermediates in the wrong order": "is not followed by its issuer in its chain",
    "no intermediate": "is no root that we trust .*the CA has left it out",
    "forged": "is not signed by its issuer",
    "an issuer that is no CA": "that is no CA",
    "an issuer that has expired": "has an issuer .* that expired on",
    "a new root": "is no root that we trust .*if the mesh has a new root",
    "signed by itself": "is no root that we trust",
}
CASES: dict[str, Case] = {
    **SILENT,
    **CONNECTION,
    **STATUS,
    **FRAME,
    **{
        f"issued: {kind}": (Fault(issue=issue), UNTRUSTED, ISSUED[kind])
        for kind, issue in WRONG.items()
    },
}


# What lies below the messages is the same for both.
ALIKE = ("tcp", "tls", "shown", "h2", "http", "frame")
MODERN = [("istiod", name) for name in CASES]
# ... and so is most of what is thought of a certificate.
ISSUED_ALIKE = ("no signatures", "no server", "no client", "the name twice", "unknown critical")
CLASSIC = [
    ("citadel", name)
    for name in CASES
    if name.partition(":")[0] not in ALIKE
    and (CASES[name] not in STATUS.values() or "over" in name)
    and not any(each in name for each in ISSUED_ALIKE)
]


def make_host(directory: Path, authority: Misbehaving) -> Host:
    """A host with a certificate and a good token beside it."""
    is_classic = isinstance(authority, Citadel)
    name, protocol = misbehaving.SERVER_NAMES[is_classic], ("istiod", "citadel")[is_classic]
    made = Host(directory / "host", authority, {"server_name": name, "protocols": [protocol]})
    made.output.mkdir(parents=True)
    root = authority.material.directory / "root-cert.pem"
    (made.output / "root-cert.pem").write_bytes(root.read_bytes())
    made.give_token(authority.token(SUBJECT))
    assert held_of(made.run("ensure"))["identity"] == WEB
    return made


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """One for each protocol."""
    directory = tmp_path_factory.mktemp("misbehaving")
    ca_material.create(directory / "modern")
    with Istiod(directory / "modern") as modern, Citadel(directory / "classic") as classic:
        yield {
            "istiod": make_host(directory / "a", modern),
            "citadel": make_host(directory / "b", classic),
        }


@pytest.mark.parametrize(("protocol", "name"), MODERN + CLASSIC)
def test_what_is_held_stays_the_reason_is_named_and_the_next_attempt_succeeds(
    hosts: dict[str, Host], protocol: str, name: str
) -> None:
    host = hosts[protocol]
    fault, code, words = CASES[name]
    authority = host.authority
    assert isinstance(authority, Misbehaving)
    before = host.tree()
    leaf = ca_material.split((host.output / "cert-chain.pem").read_bytes())[0]
    authority.misbehave(fault)
    try:
        start = time.monotonic()
        answer = host.run("renew", timeout_s=SHORT_S if name in SILENT else 40.0)
        assert time.monotonic() - start < SLACK_S
    finally:
        authority.misbehave(Fault())
        authority.drop_connections()
    assert host.tree() == before
    assert held_of(answer)["serial"] == f"{leaf.serial_number:x}"
    again = held_of(host.run("renew"))
    assert (again["obtained"], again["identity"]) == (True, WEB)
    error = error_of(answer)
    assert error["code"] == code
    assert re.search(words, f"{error['message']} ({error['hint']})"), error


@pytest.mark.parametrize("kind", [Istiod, Citadel])
def test_a_new_root_midway_is_taken_once_the_operator_trusts_it(
    tmp_path: Path, kind: type[Misbehaving]
) -> None:
    ca_material.create(tmp_path / "ca")
    root = wrongcertificates.authority(None)

    def issue(asked: wrongcertificates.Issuing) -> wrongcertificates.Issued:
        chain = (wrongcertificates.leaf(asked, signer=root),)
        return wrongcertificates.Issued(chain, (asked.root.certificate, root.certificate))

    with kind(tmp_path / "ca") as authority:
        host = make_host(tmp_path, authority)
        before = host.tree()
        authority.misbehave(Fault(issue=issue))
        assert "is no root that we trust" in error_of(host.run("renew"))["message"]
        assert host.tree() == before
        both = tmp_path / "roots.pem"
        old = (host.output / "root-cert.pem").read_bytes()
        both.write_bytes(old + wrongcertificates.pem(root.certificate))
        assert held_of(host.run("renew", root_file=str(both)))["obtained"] is True
        assert (host.output / "root-cert.pem").read_bytes() == both.read_bytes()
        # The CA's own certificate is still of the old root, and so may the next one be.
        authority.misbehave(Fault())
        assert held_of(host.run("renew"))["obtained"] is True
