"""The demo authority as a running server: listener, TLS, callers, switches, memory.

Demo and tests only, no part of the product; see ca.py for the whole. Threads: one for the
listener, one for each connection; all end with stop(). The switches are read once at the start of
each call, so a call is answered by one consistent set of them.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509

from . import ca_http2, ca_material, ca_policy, ca_token, ca_wire
from .ca_policy import Mode

HANDSHAKE_LIMIT_S = 10.0
IDLE_LIMIT_S = 600.0
MAX_CONNECTIONS = 128
Answerer = Callable[[ca_http2.Request], ca_http2.Reply]


@dataclass(frozen=True)
class Seen:
    """One call as the authority saw it.

    at: seconds since 1970, by its own clock; identity: who it was, None if not authenticated;
    how: "certificate", "token" or "none"; ttl_s: life asked for (0: not said); status: gRPC
    status sent; cause: what went wrong, "" if nothing did (clients are told less).
    """

    at: float
    path: str
    identity: str | None
    how: str
    ttl_s: int
    status: int
    cause: str


class DemoAuthority:
    """The authority of one directory, serving in threads of this process between start and stop.

    Switches, to be set at any time, effective from the next call (MUTE: the next connection):
    `mode` (a Mode or its text), `life_s` (life of every certificate in seconds, whatever is asked
    for; None: as asked), `skew_s` (its clock runs that many seconds ahead), `max_ttl_s`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        bind: Callable[[str, int], socket.socket] | None = None,
        settings: ca_policy.Settings | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Load `directory`; nothing listens before start(), which picks a port for port 0.

        `bind(host, port)` returns a bound TCP socket; a socket made inside a network namespace
        stays in it, so lab.netns.Namespace.bind makes the authority serve there from a thread.
        """
        self.material = ca_material.load(directory)
        self._settings = settings or ca_policy.Settings()
        self._log = log or (lambda _line: None)
        self._host, self._port = host, port
        self._bind = bind or _bind
        self._listener: socket.socket | None = None
        self._context = _server_context(directory)
        self._news = threading.Condition()
        self._seen: list[Seen] = []
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    @classmethod
    def create(cls, directory: Path, trust_domain: str = "cluster.local") -> "DemoAuthority":
        """Make a new authority in `directory` and return it, not yet started."""
        ca_material.create(directory, trust_domain)
        return cls(directory)

    def __enter__(self) -> "DemoAuthority":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def mode(self) -> Mode:
        """How it behaves. Leaving MUTE ends the connections that were held in silence."""
        return self._settings.mode

    @mode.setter
    def mode(self, value: Mode | str) -> None:
        was, self._settings = self._settings.mode, replace(self._settings, mode=Mode(value))
        if was is Mode.MUTE:
            self.drop_connections()

    @property
    def life_s(self) -> float | None:
        """Life of every certificate from now on; None: as asked."""
        return self._settings.life_s

    @life_s.setter
    def life_s(self, value: float | None) -> None:
        self._settings = replace(self._settings, life_s=value)

    @property
    def skew_s(self) -> float:
        """How far its clock is ahead."""
        return self._settings.skew_s

    @skew_s.setter
    def skew_s(self, value: float) -> None:
        self._settings = replace(self._settings, skew_s=value)

    @property
    def max_ttl_s(self) -> int:
        """The longest life that may be asked for."""
        return self._settings.max_ttl_s

    @max_ttl_s.setter
    def max_ttl_s(self, value: int) -> None:
        self._settings = replace(self._settings, max_ttl_s=value)

    @property
    def address(self) -> str:
        """ADDR:PORT it listens on, an IPv6 address in brackets."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The TCP port, known from start() on; it stays the same over stop() and start()."""
        return self._port

    @property
    def root_file(self) -> Path:
        """The PEM file clients trust."""
        return self.material.directory / "root-cert.pem"

    @property
    def seen(self) -> tuple[Seen, ...]:
        """All calls so far, oldest first, those it refused included."""
        with self._news:
            return tuple(self._seen)

    def wait_for_calls(self, count: int, *, timeout_s: float = 60.0) -> tuple[Seen, ...]:
        """Wait until `count` calls were seen in all, and return them.

        Raises TimeoutError naming what was seen.
        """
        with self._news:
            if not self._news.wait_for(lambda: len(self._seen) >= count, timeout_s):
                raise TimeoutError(f"{len(self._seen)} of {count} calls seen: {self._seen}")
            return tuple(self._seen)

    def token(
        self,
        subject: str,
        *,
        ttl_s: float = 3600.0,
        audiences: Sequence[str] = (ca_token.AUDIENCE,),
    ) -> str:
        """Return a bootstrap token for `system:serviceaccount:NAMESPACE:ACCOUNT`."""
        key = self.material.token_key
        return ca_token.mint(key, subject, now=self._now(), ttl_s=ttl_s, audiences=audiences)

    def start(self) -> None:
        """Listen and serve in the background; connections are accepted when this returns.

        After a stop() it serves again, on the same port. Raises OSError if that is taken.
        """
        self._listener = self._bind(self._host, self._port)
        self._port = int(self._listener.getsockname()[1])
        self._listener.listen(64)
        self._stopping.clear()
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        """End every connection and thread; calling it twice is fine."""
        self._stopping.set()
        if self._listener is not None:
            # This wakes the thread in accept().
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
        self.drop_connections()
        for thread in list(self._threads):
            thread.join(HANDSHAKE_LIMIT_S)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def drop_connections(self) -> None:
        """End every connection now, as a restart of the server would."""
        with self._news:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                raw, peer = listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                self._log(f"accept: {error}")
                # Out of descriptors, most likely: without a pause this would spin.
                self._stopping.wait(0.05)
                continue
            if len(self._connections) >= MAX_CONNECTIONS:
                self._log(f"{peer[0]}: too many connections")
                raw.close()
                continue
            self._spawn(self._serve, raw, str(peer[0]))

    def _serve(self, raw: socket.socket, peer: str) -> None:
        with self._registered(raw):
            try:
                if self._settings.mode is Mode.MUTE:
                    raw.settimeout(IDLE_LIMIT_S)
                    while raw.recv(65536):
                        pass
                    return
                raw.settimeout(HANDSHAKE_LIMIT_S)
                with self._context.wrap_socket(raw, server_side=True) as sock:
                    sock.settimeout(IDLE_LIMIT_S)
                    self._log(f"{peer}: {self._serve_tls(sock)}")
            except OSError as error:
                self._log(f"{peer}: {error}")

    def _serve_tls(self, sock: ssl.SSLSocket) -> str:
        if sock.selected_alpn_protocol() != "h2":
            return "the client did not offer h2"
        identity = None
        if der := sock.getpeercert(binary_form=True):
            certificate = x509.load_der_x509_certificate(der)
            uris, end = ca_material.uris_of(certificate), ca_material.not_after(certificate)
            domain = self.material.trust_domain
            if problem := ca_policy.certificate_problem(uris, end, domain, now=self._now()):
                return problem
            identity = uris[0]
        return self._connect(sock, lambda request: self._answer(request, identity)).serve()

    def _connect(self, sock: ssl.SSLSocket, answer: Answerer) -> ca_http2.Connection:
        return ca_http2.Connection(sock, answer)

    def _answer(self, request: ca_http2.Request, held: str | None) -> ca_http2.Reply:
        settings, now = self._settings, self._now()
        identity, how, ttl_s = None, "none", 0
        try:
            if request.path != ca_wire.METHOD:
                raise ca_wire.Refused(ca_wire.UNIMPLEMENTED, _unimplemented(request.path))
            caller = ca_policy.Caller(held, request.metadata.get("authorization"))
            message = ca_wire.parse_frame(request.body)
            try:
                call = ca_wire.parse_call(message)
            except ValueError as error:
                text = f"grpc: error unmarshalling request: {error}"
                raise ca_wire.Refused(ca_wire.INTERNAL, text) from error
            ttl_s = call.ttl_s
            identity, how = ca_policy.authenticate(caller, self.material, now=now)
            answer = ca_policy.sign(call, identity, self.material, settings, now=now)
            reply = ca_http2.Reply(answer, is_cut=settings.mode is Mode.HALF_FRAME)
            cause = "" if settings.mode is Mode.OK else f"mode {settings.mode}"
        except ca_wire.Refused as refused:
            reply = ca_http2.Reply(status=refused.status, text=refused.text)
            cause = refused.cause
        seen = Seen(now, request.path, identity, how, ttl_s, reply.status, cause)
        self._log(f"{identity or 'nobody'} by {how}: {cause or 'signed'}")
        with self._news:
            self._seen.append(seen)
            self._news.notify_all()
        return reply

    @contextlib.contextmanager
    def _registered(self, raw: socket.socket) -> Iterator[None]:
        # A duplicate: shutting down the TLS socket from another thread would pull its state
        # away under the thread that reads from it.
        wire = raw.dup()
        with self._news:
            self._connections.add(wire)
        try:
            if not self._stopping.is_set():
                yield
        finally:
            with self._news:
                self._connections.discard(wire)
            wire.close()
            raw.close()

    def _now(self) -> float:
        return time.time() + self._settings.skew_s


def _unimplemented(path: str) -> str:
    service, _, method = path.removeprefix("/").rpartition("/")
    if service == ca_wire.SERVICE:
        return f"unknown method {method} for service {service}"
    return f"unknown service {service}"


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
    context.load_verify_locations(directory / "root-cert.pem")
    context.set_alpn_protocols(["h2"])
    # Every connection proves itself anew: no ticket may carry an old certificate along.
    context.num_tickets = 0
    return context
