"""Both stand-ins for a CA, with a fault at any one stage of a conversation.

Tests only. A stage: TCP, the certificate shown, what is said inside TLS, HTTP/2 and gRPC framing,
the message, what is issued. At every other stage the CA is as it should be.
"""

import contextlib
import datetime
import select
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.demo import ca_http2, ca_server, ca_wire

from . import citadel, wrongcertificates

SERVER_NAMES = ("istiod.istio-system.svc", "istio-citadel")
RST_STREAM, NO_ERROR = 3, 0  # RFC 9113, 6.4 and 7
BEGIN = (("content-type", "application/grpc"),)
IDENTITY = "spiffe://cluster.local/ns/vms/sa/web"
# How fast a slow one speaks: a byte each time.
DRIP_S = 0.1


@dataclass(frozen=True)
class Fault:
    """What goes wrong; one of these."""

    tcp: Callable[[socket.socket], None] | None = None  # all that happens on the connection
    shown: str = ""  # what is wrong with the server's certificate
    tls: Callable[[ssl.SSLSocket], None] | None = None  # all that happens inside TLS
    reply: "Callable[[Connection, int, bytes], None] | None" = None  # `int`: the stream
    # Whether to say UNIMPLEMENTED to the headers alone and end the stream, as grpc-go does.
    is_early: Callable[[], bool] | None = None
    message: Callable[[bytes], bytes] | None = None  # of the answer as it should be
    issue: Callable[[wrongcertificates.Issuing], wrongcertificates.Issued] | None = None
    refusal: Callable[[str], ca_http2.Reply | None] | None = None  # "certificate" or "token"


class Connection(ca_http2.Connection):
    """One HTTP/2 connection on which an answer may be anything."""

    fault = Fault()

    def _take(self, event: h2.events.Event) -> None:
        super()._take(event)
        if not isinstance(event, h2.events.RequestReceived) or self.fault.is_early is None:
            return
        if self.fault.is_early():
            number = event.stream_id
            self._fail(
                number, ca_http2.Reply(status=ca_wire.UNIMPLEMENTED, text="unknown service")
            )
            # h2 takes the stream for ended and would send no reset. Both in one segment.
            reset = struct.pack(">IBBII", 4, RST_STREAM, 0, number, NO_ERROR)[1:]
            self._sock.sendall(self._h2.data_to_send() + reset)

    def _reply(self, number: int, stream: ca_http2._Stream) -> None:
        if self.fault.reply is None:
            super()._reply(number, stream)
            return
        request = ca_http2.Request(stream.path, stream.metadata, bytes(stream.body))
        stream.is_answered = True
        self.fault.reply(self, number, self._answer(request).message)

    def begin(self, number: int, *more: tuple[str, str], status: int = 200) -> None:
        """Send headers."""
        self._h2.send_headers(number, [(":status", str(status)), *(more or BEGIN)])

    def send(self, number: int, data: bytes) -> None:
        """Send a part of the body."""
        self._h2.send_data(number, data)

    def end(self, number: int, *trailers: tuple[str, str]) -> None:
        """End the answer."""
        if trailers:
            self._h2.send_headers(number, trailers, end_stream=True)
        else:
            self._h2.end_stream(number)

    def reset(self, number: int, code: int) -> None:
        """Break off this one call (RST_STREAM)."""
        self._h2.reset_stream(number, code)

    def leave(self, code: int) -> None:
        """Say goodbye to the whole connection (GOAWAY)."""
        self._h2.close_connection(code)
        self.cut()

    def cut(self) -> None:
        """Close once what was sent is out."""
        self._is_cut = True

    def garble(self) -> None:
        """Send what is no HTTP/2 frame at all."""
        self._flush()
        self._sock.sendall(b"\xff" * 64)
        self.cut()


class Misbehaving(ca_server.DemoAuthority):
    """What both have in common; `misbehave` says how the next connections go."""

    fault = Fault()

    def __enter__(self) -> Self:
        self.start()
        return self

    def misbehave(self, fault: Fault) -> None:
        """From the next connection on."""
        if not hasattr(self, "_good_context"):
            self._good_context = self._context
        self.fault = fault
        self._context = self._good_context if not fault.shown else self._show(fault.shown)

    def _render(self, parts: list[bytes]) -> bytes:
        raise NotImplementedError

    def _signers(self) -> tuple[wrongcertificates.Signer, wrongcertificates.Signer]:
        """The root, and who signs below it."""
        raise NotImplementedError

    def _read_request(self, request: ca_http2.Request) -> x509.CertificateSigningRequest:
        message = ca_wire.parse_frame(request.body)
        return x509.load_pem_x509_csr(ca_wire.parse_call(message).csr)

    def _serve(self, raw: socket.socket, peer: str) -> None:
        if self.fault.tcp is None:
            super()._serve(raw, peer)
            return
        with self._registered(raw), contextlib.suppress(OSError):
            raw.settimeout(ca_server.HANDSHAKE_LIMIT_S)
            self.fault.tcp(raw)

    def _serve_tls(self, sock: ssl.SSLSocket) -> str:
        if self.fault.tls is None:
            return super()._serve_tls(sock)
        with contextlib.suppress(OSError):
            self.fault.tls(sock)
        return "as told"

    def _connect(self, sock: ssl.SSLSocket, answer: ca_server.Answerer) -> Connection:
        made = Connection(sock, answer)
        made.fault = self.fault
        return made

    def _answer(self, request: ca_http2.Request, held: str | None) -> ca_http2.Reply:
        fault = self.fault
        if fault.refusal is not None:
            refused = fault.refusal("certificate" if held else "token")
            if refused is not None:
                return refused
        reply = super()._answer(request, held)
        if fault.issue is not None:
            key = self._read_request(request).public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
            asked = wrongcertificates.Issuing(key, IDENTITY, *self._signers())
            return ca_http2.Reply(self._render(fault.issue(asked).parts))
        return reply if fault.message is None else ca_http2.Reply(fault.message(reply.message))

    def _show(self, kind: str) -> ssl.SSLContext:
        """A server that shows something else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([] if kind == "no h2" else ["h2"])
        chain, key = self._make_shown(kind)
        path = self.material.directory / f"shown-{kind.replace(' ', '-')}.pem"
        path.write_bytes(key + b"".join(chain))
        context.load_cert_chain(path)
        return context

    def _make_shown(self, kind: str) -> tuple[list[bytes], bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        _, signer = self._signers()
        if kind == "another root":
            signer = wrongcertificates.authority(None)
        life = (-2, -1) if kind == "expired" else (1, 2) if kind == "not yet valid" else (-1, 1)
        names = ["elsewhere.example"] if kind == "another name" else list(SERVER_NAMES)
        made = _server_certificate(key, names, life, signer)
        above = [] if kind == "no intermediate" else [wrongcertificates.pem(signer.certificate)]
        return [made, *above], _key_pem(key)


class Istiod(Misbehaving):
    """The stand-in for istiod."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        certificate = x509.load_pem_x509_certificate(self.material.root_bundle)
        key = serialization.load_pem_private_key((directory / "root-key.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        own = self.material.intermediate
        self._both = (
            wrongcertificates.Signer(certificate, key),
            wrongcertificates.Signer(own.certificate, own.key),
        )

    def _signers(self) -> tuple[wrongcertificates.Signer, wrongcertificates.Signer]:
        return self._both

    def _render(self, parts: list[bytes]) -> bytes:
        return ca_wire.render_chain(parts)


class Citadel(Misbehaving, citadel.Citadel):
    """The stand-in for a classic CA with an intermediate that signs."""

    def __init__(self, directory: Path) -> None:
        citadel.Citadel.__init__(self, directory, is_plugged=True)

    def _signers(self) -> tuple[wrongcertificates.Signer, wrongcertificates.Signer]:
        root, signer = (
            wrongcertificates.Signer(each.certificate, each.key)
            for each in (self.root, self.signer)
        )
        return root, signer

    def _render(self, parts: list[bytes]) -> bytes:
        # The root is never in it.
        rest = b"".join(parts[1:-1])
        chain = ca_wire.render_field(4, rest) if rest else b""
        return b"\x08\x01" + ca_wire.render_field(3, parts[0]) + chain


def silent(sock: socket.socket) -> None:
    """Read and say nothing."""
    while sock.recv(65536):
        pass


def closing(sock: socket.socket) -> None:
    """Read the first words and leave without one."""
    sock.recv(65536)


def resetting(sock: socket.socket) -> None:
    """Break the connection (RST)."""
    sock.recv(65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def saying(text: bytes) -> Callable[[socket.socket], None]:
    """Answer the first words with these and leave."""

    def say(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(text)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        silent(sock)

    return say


def dripping(sock: socket.socket) -> None:
    """Begin an HTTP/2 frame, and send a byte of it now and then."""
    while not (select.select([sock], [], [], DRIP_S)[0] and not sock.recv(65536)):
        sock.sendall(b"\0")


def half_open(sock: socket.socket) -> None:
    """Say that nothing more comes from here, and go on reading."""
    sock.recv(65536)
    sock.shutdown(socket.SHUT_WR)
    silent(sock)


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    names: list[str],
    life: tuple[int, int],
    signer: wrongcertificates.Signer,
) -> bytes:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    dns = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    return wrongcertificates.server(
        key.public_key(),
        dns,
        now + life[0] * wrongcertificates.DAY,
        now + life[1] * wrongcertificates.DAY,
        signer,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
