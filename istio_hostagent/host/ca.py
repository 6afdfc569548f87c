"""One call to a CA's certificate service: unary gRPC over HTTP/2, by libcurl.

Not here: messages (`identity.protocols`), which credential to show and what to think of the
answer. Imported by workers alone.
pycurl costs a quarter of grpcio (measured). Every call has a deadline and a bounded answer, never
uses a proxy or the system's own trusted roots, and no message holds a token or a key.
Source: github.com/grpc/grpc doc/PROTOCOL-HTTP2.md.
"""

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pycurl

from ..config import model
from ..errors import AuthorityUnavailable, CertificateRefused, CredentialMissing
from . import grpcanswer

# Of the CA's own words we show this much.
MAX_WORDS = 300

# CURLE_HTTP2_STREAM of curl.h, which pycurl 7.45 does not name.
_E_HTTP2_STREAM = 92
# A server may answer after the headers of a request and end the stream (grpc-go does for a service
# that it does not know). libcurl 7.88 loses that answer, without a word, if it comes before the
# message is sent: one call in ten over loopback. Nothing has been done for the request then.
_TRIES = 8
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
# What GnuTLS and OpenSSL say of a first answer that is no TLS.
_NO_TLS = ("unexpected TLS packet", "wrong version number")
_NO_TLS_HINT = (
    "what answers there does not speak TLS: is it the CA's port, and nothing between that answers"
    " for it?"
)
_NO_GRPC_HINT = (
    "what answers there does not speak gRPC: is it the CA's port, and nothing between that answers"
    " for it?"
)
_UNTRUSTED_SERVER = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})


class CredentialRejected(CertificateRefused):
    """The CA answered that it does not accept who we are; another credential may succeed."""


class ProtocolUnknown(CertificateRefused):
    """What answers there does not know the service that was asked for."""


class ServerUntrusted(AuthorityUnavailable):
    """Whoever answers there does not prove to be the CA; `shown` is its certificate, PEM."""

    shown = b""


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

    @property
    def is_plain(self) -> bool:
        """Whether the connection is not encrypted, and nobody's name is verified."""
        return self.port == model.PLAIN_PORT

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
    name: str = "the held certificate"

    def __str__(self) -> str:
        """The words for it in messages."""
        return self.name


@dataclass(frozen=True)
class Nothing:
    """No credential of the transport's: what proves who asks stands in the message."""

    def __str__(self) -> str:
        """The words for it in messages."""
        return "a document in the request"


NOTHING = Nothing()
Credential = Token | ClientCertificate | Nothing


def call(
    authority: Authority, method: str, message: bytes, credential: Credential, *, timeout_s: float
) -> bytes:
    """Send one message to one gRPC method and return the answer's message.

    `timeout_s` bounds everything from the look-up of the name to the last byte. Raises
    CredentialRejected, ProtocolUnknown, CertificateIgnored, ServerUntrusted, CertificateRefused
    or AuthorityUnavailable, each with what was tried.
    """
    tried = f"CA {authority} asked with {credential}"
    with contextlib.ExitStack() as stack:
        curl = stack.enter_context(contextlib.closing(pycurl.Curl()))
        _set_transport(curl, authority)
        curl.setopt(pycurl.CAINFO, stack.enter_context(memory_file("roots", authority.roots)))
        if isinstance(credential, ClientCertificate):
            chain = stack.enter_context(memory_file("chain", credential.chain))
            key = stack.enter_context(memory_file("key", credential.key))
            curl.setopt(pycurl.SSLCERT, chain)
            curl.setopt(pycurl.SSLKEY, key)
        curl.setopt(pycurl.URL, _url(authority, method))
        curl.setopt(pycurl.HTTPHEADER, _headers(authority, credential, timeout_s))
        curl.setopt(pycurl.POSTFIELDS, struct.pack(">BI", 0, len(message)) + message)
        answer, error = _perform(curl, timeout_s)
        if error:
            code, reason = error.args
            if answer.excess:
                raise AuthorityUnavailable(f"{tried}: {answer.excess}") from error
            if answer.grpc_status is None:
                words = _words(_reason(code, reason), credential)
                if code in _UNTRUSTED_SERVER:
                    raise _distrust(tried, words, _find_shown(curl)) from error
                is_ignored = isinstance(credential, ClientCertificate) and not answer.is_begun
                raise _transport_error(tried, code, words, is_ignored=is_ignored) from error
        http_status = curl.getinfo(pycurl.RESPONSE_CODE)
    _check_status(tried, answer, http_status, credential)
    return answer.message(tried)


def _perform(curl: pycurl.Curl, timeout_s: float) -> tuple[grpcanswer.Answer, pycurl.error | None]:
    """Make the call, again while its answer was lost; what came, and what libcurl made of it."""
    end = time.monotonic() + timeout_s
    answer, error = _perform_once(curl, end)
    for _ in range(_TRIES - 1):
        if error is None or error.args != (_E_HTTP2_STREAM, "") or answer.is_begun:
            break
        # What is left of that stream would break the next one.
        curl.setopt(pycurl.FRESH_CONNECT, 1)
        answer, error = _perform_once(curl, end)
    return answer, error


def _perform_once(curl: pycurl.Curl, end: float) -> tuple[grpcanswer.Answer, pycurl.error | None]:
    answer = grpcanswer.Answer()
    curl.setopt(pycurl.HEADERFUNCTION, answer.add_header)
    curl.setopt(pycurl.WRITEFUNCTION, answer.add_body)
    # libcurl takes 0 for "no limit".
    curl.setopt(pycurl.TIMEOUT_MS, max(1, int((end - time.monotonic()) * 1000)))
    try:
        curl.perform()
    except pycurl.error as error:
        return answer, error
    return answer, None


def _set_transport(curl: pycurl.Curl, authority: Authority) -> None:
    host = f"[{authority.host}]" if ":" in authority.host else authority.host
    # The URL carries the name that is verified; this is the address that is dialled instead.
    curl.setopt(pycurl.CONNECT_TO, [f"::{host}:{authority.port}"])
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    if authority.is_plain:
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    else:
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.SSL_VERIFYPEER, 1)
    curl.setopt(pycurl.SSL_VERIFYHOST, 2)
    # Debian's libcurl would trust the web's roots beside ours.
    curl.unsetopt(pycurl.CAPATH)
    # What the CA has shown, for the message if it is not trusted.
    curl.setopt(pycurl.OPT_CERTINFO, 1)
    # No SIGALRM and no signal handlers: this is a library call.
    curl.setopt(pycurl.NOSIGNAL, 1)


def _url(authority: Authority, method: str) -> str:
    name = authority.server_name
    scheme = "http" if authority.is_plain else "https"
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{authority.port}{method}"


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


def _reason(code: int, reason: str) -> str:
    """What libcurl says of its error `code`; a time-out is always called one."""
    if code == pycurl.E_OPERATION_TIMEDOUT and "timed out" not in reason:
        return f"timed out: {reason}"
    return reason or f"libcurl error {code}"


def _transport_error(
    tried: str, code: int, words: str, *, is_ignored: bool
) -> AuthorityUnavailable:
    if any(said in words for said in _NO_TLS):
        return AuthorityUnavailable(f"{tried}: {words}", hint=_NO_TLS_HINT)
    if code in _CLOSED_BY_PEER and is_ignored:
        return CertificateIgnored(
            f"{tried}: the connection ended after it was shown ({words})",
            hint="the CA may not trust this certificate any more",
        )
    return AuthorityUnavailable(f"{tried}: {words}", hint=_HINTS.get(code, ""))


def _find_shown(curl: pycurl.Curl) -> bytes:
    """The certificate that the CA has shown, PEM; nothing if libcurl does not have it."""
    # Not as text: names in it may be in any encoding.
    for shown in curl.getinfo_raw(pycurl.INFO_CERTINFO)[:1]:
        text = dict(each for each in shown if len(each) == 2).get(b"Cert", b"")
        assert isinstance(text, bytes)
        return text
    return b""


def _distrust(tried: str, words: str, shown: bytes) -> ServerUntrusted:
    error = ServerUntrusted(
        # What follows with GnuTLS is the path of our memory file.
        f"{tried}: {words.partition(' CAfile: ')[0]}",
        hint="the CA's own certificate is not for this name or not from a root that we trust;"
        " compare the root file and the CA's address (ISTIOD_SAN names another one)",
    )
    error.shown = shown
    return error


def _check_status(
    tried: str, answer: grpcanswer.Answer, http_status: int, credential: Credential
) -> None:
    status = answer.grpc_status
    hint = "" if answer.content_type.startswith("application/grpc") else _NO_GRPC_HINT
    words = _words(answer.grpc_message, credential)
    if status is None:
        status = grpcanswer.HTTP_STATUSES.get(http_status, "UNKNOWN")
        words = f"HTTP status {http_status} and no gRPC status"
    if status == "OK":
        if hint:
            raise AuthorityUnavailable(f"{tried}: no gRPC answer", hint=hint)
        return
    what = f"{tried}: {status} {words}".rstrip()
    if status == "UNAUTHENTICATED":
        raise CredentialRejected(what)
    if status == "UNIMPLEMENTED":
        raise ProtocolUnknown(what)
    if status in grpcanswer.REFUSALS:
        raise CertificateRefused(what)
    raise AuthorityUnavailable(what, hint=hint)


def _words(text: str, credential: Credential) -> str:
    """Make somebody else's words fit to be shown: one line, bounded, without our token."""
    if isinstance(credential, Token):
        text = text.replace(credential.text, "(token)")
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_WORDS].strip()


@contextlib.contextmanager
def memory_file(name: str, data: bytes) -> Iterator[str]:
    """Give a path to bytes that never reach a disk: libcurl with GnuTLS reads files only."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as out:
            out.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
