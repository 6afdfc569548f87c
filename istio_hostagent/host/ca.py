"""One call to istiod's certificate service: unary gRPC over HTTP/2, by libcurl.

Not here: which credential to show and what to think of the answer. Imported by workers alone.
pycurl costs a quarter of grpcio (measured). Every call has a deadline and a bounded answer, never
uses a proxy or the system's own trusted roots, and no message holds a token or a key.
Sources: github.com/grpc/grpc doc/PROTOCOL-HTTP2.md, statuscodes.md, http-grpc-status-mapping.md.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import pycurl

from ..errors import AuthorityUnavailable, CertificateRefused, CredentialMissing

MAX_ANSWER_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16
# Of the CA's own words we show this much.
MAX_WORDS = 300

_STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# No repetition of the same request helps against these.
_REFUSALS = frozenset(
    [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "UNAUTHENTICATED",
    ]
)
_HTTP_STATUSES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
# CURLE_HTTP2_STREAM of curl.h, which pycurl 7.45 does not name.
_E_HTTP2_STREAM = 92
# What libcurl reports when the other side ends a connection or refuses our certificate. With TLS
# 1.3 the server's alert arrives on the first read after a handshake that looked good to us.
_CLOSED_BY_PEER = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
        pycurl.E_HTTP2,
        _E_HTTP2_STREAM,
    }
)
# What to do where libcurl's words leave that open.
_HINTS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "add its address and this name to /etc/hosts, as istioctl's"
    " file hosts has them, or set CA_ADDR to a name that is known",
    pycurl.E_COULDNT_CONNECT: "if the CA runs, rules of somebody else may take this connection"
    " elsewhere: `nft list ruleset` and `iptables-legacy-save` show them",
}
_UNTRUSTED_SERVER = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})


class CredentialRejected(CertificateRefused):
    """The CA answered that it does not accept who we are; another credential may succeed."""


class CertificateIgnored(AuthorityUnavailable):
    """The connection ended after our certificate was shown.

    That is all that a TLS refusal of a client certificate shows, and what a dying CA shows too.
    """


@dataclass(frozen=True)
class Authority:
    """Where the CA is and how it is recognised.

    `server_name` is the name its certificate must carry, `host` what is dialled; `roots` is PEM.
    """

    host: str
    port: int
    server_name: str
    roots: bytes
    cluster_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """What was dialled, and under which name, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        name = "" if self.server_name == self.host else f" (as {self.server_name})"
        return f"{host}:{self.port}{name}"


@dataclass(frozen=True)
class Token:
    """A bearer token."""

    text: str = field(repr=False)

    def __str__(self) -> str:
        """The word for it in messages."""
        return "the token"


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate with its intermediates, leaf first, and its key; both PEM."""

    chain: bytes
    key: bytes = field(repr=False)

    def __str__(self) -> str:
        """The words for it in messages."""
        return "the held certificate"


Credential = Token | ClientCertificate


def call(
    authority: Authority, method: str, message: bytes, credential: Credential, *, timeout_s: float
) -> bytes:
    """Send one message to one gRPC method and return the answer's message.

    `timeout_s` bounds everything from the look-up of the name to the last byte. Raises
    CredentialRejected, CertificateIgnored, CertificateRefused or AuthorityUnavailable, each with
    what was tried.
    """
    tried = f"CA {authority} asked with {credential}"
    answer = _Answer()
    with contextlib.ExitStack() as stack:
        curl = stack.enter_context(contextlib.closing(pycurl.Curl()))
        _set_transport(curl, authority, timeout_s)
        curl.setopt(pycurl.CAINFO, stack.enter_context(_memory_file("roots", authority.roots)))
        if isinstance(credential, ClientCertificate):
            chain = stack.enter_context(_memory_file("chain", credential.chain))
            key = stack.enter_context(_memory_file("key", credential.key))
            curl.setopt(pycurl.SSLCERT, chain)
            curl.setopt(pycurl.SSLKEY, key)
        curl.setopt(pycurl.URL, _url(authority, method))
        curl.setopt(pycurl.HTTPHEADER, _headers(authority, credential, timeout_s))
        curl.setopt(pycurl.POSTFIELDS, struct.pack(">BI", 0, len(message)) + message)
        curl.setopt(pycurl.HEADERFUNCTION, answer.add_header)
        curl.setopt(pycurl.WRITEFUNCTION, answer.add_body)
        try:
            curl.perform()
        except pycurl.error as error:
            code, reason = error.args
            if answer.grpc_status is None:
                words = _words(reason or f"libcurl error {code}", credential)
                is_ignored = isinstance(credential, ClientCertificate) and not answer.is_begun
                raise _transport_error(tried, code, words, is_ignored=is_ignored) from error
        http_status = curl.getinfo(pycurl.RESPONSE_CODE)
    _check_status(tried, answer, http_status, credential)
    return answer.message(tried)


class _Answer:
    """Collects what comes back, up to a bound; trailers arrive like headers."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._headers: dict[str, str] = {}
        self._header_bytes = 0

    def add_header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > MAX_HEADER_BYTES:
            return 0
        name, separator, value = line.decode("latin-1").partition(":")
        if separator:
            self._headers[name.strip().lower()] = value.strip()
        return None

    def add_body(self, part: bytes) -> int | None:
        if len(self._body) + len(part) > MAX_ANSWER_BYTES:
            return 0
        self._body += part
        return None

    @property
    def is_begun(self) -> bool:
        return bool(self._headers)

    @property
    def content_type(self) -> str:
        return self._headers.get("content-type", "")

    @property
    def grpc_status(self) -> str | None:
        text = self._headers.get("grpc-status")
        if text is None:
            return None
        is_known = text.isascii() and text.isdigit() and int(text) < len(_STATUS_NAMES)
        return _STATUS_NAMES[int(text)] if is_known else "UNKNOWN"

    @property
    def grpc_message(self) -> str:
        text = self._headers.get("grpc-message", "")
        return unquote_to_bytes(text).decode("utf-8", "replace")

    def message(self, tried: str) -> bytes:
        if len(self._body) < 5:
            raise AuthorityUnavailable(f"{tried}: its answer is cut short")
        flag, length = struct.unpack_from(">BI", self._body)
        if flag != 0:
            raise AuthorityUnavailable(f"{tried}: its answer is compressed, which we never offer")
        if length != len(self._body) - 5:
            raise AuthorityUnavailable(f"{tried}: its answer is cut short")
        return bytes(self._body[5:])


def _set_transport(curl: pycurl.Curl, authority: Authority, timeout_s: float) -> None:
    host = f"[{authority.host}]" if ":" in authority.host else authority.host
    # The URL carries the name that is verified; this is the address that is dialled instead.
    curl.setopt(pycurl.CONNECT_TO, [f"::{host}:{authority.port}"])
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.SSL_VERIFYPEER, 1)
    curl.setopt(pycurl.SSL_VERIFYHOST, 2)
    # Debian's libcurl would trust the web's roots beside ours.
    curl.unsetopt(pycurl.CAPATH)
    # No SIGALRM and no signal handlers: this is a library call.
    curl.setopt(pycurl.NOSIGNAL, 1)
    # libcurl takes 0 for "no limit".
    curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout_s * 1000)))


def _url(authority: Authority, method: str) -> str:
    name = authority.server_name
    return f"https://{f'[{name}]' if ':' in name else name}:{authority.port}{method}"


def _headers(authority: Authority, credential: Credential, timeout_s: float) -> list[str]:
    pairs = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", f"{max(1, int(timeout_s * 1000))}m"),
        ("user-agent", "istio-hostagent"),
        ("accept", ""),
        *authority.headers,
    ]
    if authority.cluster_id:
        pairs.append(("clusterid", authority.cluster_id))
    if isinstance(credential, Token):
        pairs.append(("authorization", f"Bearer {credential.text}"))
    for name, value in pairs:
        if not (name + value).isprintable() or not (name + value).isascii():
            raise CredentialMissing(
                f"the header {name!r} for the CA holds characters that no header may hold"
            )
    return [f"{name}: {value}" for name, value in pairs]


def _transport_error(
    tried: str, code: int, words: str, *, is_ignored: bool
) -> AuthorityUnavailable:
    if code in _UNTRUSTED_SERVER:
        return AuthorityUnavailable(
            # What follows with GnuTLS is the path of our memory file.
            f"{tried}: {words.partition(' CAfile: ')[0]}",
            hint="the CA's own certificate is not for this name or not from a root that we trust;"
            " compare the root file and the CA's address",
        )
    if code == pycurl.E_WRITE_ERROR:
        return AuthorityUnavailable(f"{tried}: its answer is larger than {MAX_ANSWER_BYTES} bytes")
    if code in _CLOSED_BY_PEER and is_ignored:
        return CertificateIgnored(
            f"{tried}: the connection ended after it was shown ({words})",
            hint="the CA may not trust this certificate any more",
        )
    return AuthorityUnavailable(f"{tried}: {words}", hint=_HINTS.get(code, ""))


def _check_status(tried: str, answer: _Answer, http_status: int, credential: Credential) -> None:
    status = answer.grpc_status
    words = _words(answer.grpc_message, credential)
    if status is None:
        status = _HTTP_STATUSES.get(http_status, "UNKNOWN")
        words = f"HTTP status {http_status} and no gRPC status"
    if status == "OK":
        if not answer.content_type.startswith("application/grpc"):
            raise AuthorityUnavailable(f"{tried}: what answers there does not speak gRPC")
        return
    what = f"{tried}: {status} {words}".rstrip()
    if status == "UNAUTHENTICATED":
        raise CredentialRejected(what)
    if status in _REFUSALS:
        raise CertificateRefused(what)
    raise AuthorityUnavailable(what)


def _words(text: str, credential: Credential) -> str:
    """Make somebody else's words fit to be shown: one line, bounded, without our token."""
    if isinstance(credential, Token):
        text = text.replace(credential.text, "(token)")
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_WORDS].strip()


@contextlib.contextmanager
def _memory_file(name: str, data: bytes) -> Iterator[str]:
    """Give a path to bytes that never reach a disk: libcurl with GnuTLS reads files only."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as out:
            out.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
