"""One question for a certificate to another agent, by libcurl on a unix socket.

SPIRE's agent and Istio's own serve Envoy's SDS so; SPIRE's serves the Workload API as well. A call
of the kind that Envoy makes: the request is sent and the call is left open until the answer is
there, then the connection is closed. Everything has a deadline and a bound. Not here: what is
asked and answered (`sds`), and whether it is believed. Imported by workers alone.
"""

import contextlib
import errno
import os
import socket
import struct
import time

import pycurl

from ..errors import AuthorityUnavailable, CredentialMissing, NotPermitted
from ..sds import asking
from . import access, generations, grpcanswer, ownership, trust

MAX_ANSWER_BYTES = 1 << 20
_PREFIX = struct.Struct(">BI")
_PEER = struct.Struct("3i")
_MAX_WORDS = 300
# What libcurl would add by itself.
_NOT_SENT = ("accept:", "expect:", "transfer-encoding:")


class _Call:
    """What is sent, and what has come back so far."""

    def __init__(self, path: str, dialect: asking.Dialect, connected: socket.socket) -> None:
        self._path, self._parse, self._connected = path, dialect.parse, connected
        self.distrust: NotPermitted | None = None
        message = dialect.request
        self._outbox = _PREFIX.pack(0, len(message)) + message
        self._inbox = bytearray()
        self.found: asking.Texts = {}
        self.fault = ""

    @property
    def is_whole(self) -> bool:
        return self.found.keys() == {asking.KEY, asking.CHAIN, asking.ROOTS}

    def send(self, most: int) -> bytes | int:
        if not self._is_trusted():
            return int(pycurl.READFUNC_ABORT)
        part, self._outbox = self._outbox[:most], self._outbox[most:]
        # The end of what is sent would be the end of the call.
        return part or int(pycurl.READFUNC_PAUSE)

    def _is_trusted(self) -> bool:
        """Look who is there, before anything is said or heard: an answer may come unasked."""
        try:
            _require_trusted(self._path, self._connected)
        except NotPermitted as error:
            self.distrust = error
        return self.distrust is None

    def receive(self, data: bytes) -> int | None:
        """Take a part of the answer; 0 ends the transfer (libcurl)."""
        if not self._is_trusted():
            return 0
        self._inbox += data
        if len(self._inbox) > MAX_ANSWER_BYTES:
            self.fault = f"its answer is larger than {MAX_ANSWER_BYTES} bytes"
            return 0
        while len(self._inbox) >= _PREFIX.size:
            flag, size = _PREFIX.unpack_from(self._inbox)
            if flag:
                self.fault = "its answer is compressed, or no gRPC message"
                return 0
            if size > len(self._inbox) - _PREFIX.size:
                break
            message = bytes(self._inbox[_PREFIX.size : _PREFIX.size + size])
            del self._inbox[: _PREFIX.size + size]
            try:
                self.found |= self._parse(message)
            except ValueError as error:
                self.fault = f"its answer cannot be decoded: {error}"
                return 0
        return 0 if self.is_whole else None


def fetch(path: str, dialect: asking.Dialect, *, timeout_s: float) -> generations.Files:
    """Key, chain and roots that the server at a socket gives out, PEM.

    Raises AuthorityUnavailable where nobody answers, CredentialMissing where it says no, and
    NotPermitted where somebody else than root, this user or the owner of the socket's directory
    may answer.
    """
    tried = f"{dialect.title} at {path}"
    with contextlib.ExitStack() as stack:
        # libcurl connects it, and has a descriptor of its own for it.
        connected = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        curl = stack.enter_context(contextlib.closing(pycurl.Curl()))
        call, answer = _Call(path, dialect, connected), grpcanswer.Answer()
        _set_up(curl, path, dialect, connected)
        curl.setopt(pycurl.READFUNCTION, call.send)
        curl.setopt(pycurl.WRITEFUNCTION, call.receive)
        curl.setopt(pycurl.HEADERFUNCTION, answer.add_header)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(timeout_s * 1000)))
        words = ""
        try:
            curl.perform()
        except pycurl.error as error:
            words = _explain(path, curl, error)
    if call.distrust is not None:
        raise call.distrust
    if call.is_whole:
        key, chain, root = (call.found[name] for name in (asking.KEY, asking.CHAIN, asking.ROOTS))
        return generations.Files(key, chain, root, time.time())
    raise _failure(tried, dialect.lacking, call, answer, words)


def _set_up(
    curl: pycurl.Curl, path: str, dialect: asking.Dialect, connected: socket.socket
) -> None:
    curl.setopt(pycurl.OPENSOCKETFUNCTION, lambda *_: connected)
    curl.setopt(pycurl.UNIX_SOCKET_PATH, path)
    curl.setopt(pycurl.URL, f"http://localhost{dialect.method}")
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
    curl.setopt(pycurl.POST, 1)
    headers = ("content-type: application/grpc", "te: trailers", "user-agent: istio-hostagent")
    curl.setopt(pycurl.HTTPHEADER, [*headers, *dialect.headers, *_NOT_SENT])
    curl.setopt(pycurl.NOSIGNAL, 1)


def _failure(
    tried: str, lacking: str, call: _Call, answer: grpcanswer.Answer, words: str
) -> AuthorityUnavailable | CredentialMissing:
    if call.fault or answer.excess:
        return AuthorityUnavailable(f"{tried}: {call.fault or answer.excess}")
    status = answer.grpc_status
    if status is not None and status != "OK":
        told = "".join(each if each.isprintable() else " " for each in answer.grpc_message)
        what = f"{tried}: {status} {told[:_MAX_WORDS]}".rstrip()
        refusal = status in grpcanswer.REFUSALS
        return CredentialMissing(what) if refusal else AuthorityUnavailable(what)
    if not answer.is_begun:
        return AuthorityUnavailable(f"{tried}: {words or 'it ended without an answer'}")
    missing = sorted({asking.KEY, asking.CHAIN, asking.ROOTS} - call.found.keys())
    got = f"it gave no {' and no '.join(missing)} {lacking}"
    return AuthorityUnavailable(f"{tried}: {got}" + (f" ({words})" if words else ""))


def _explain(path: str, curl: pycurl.Curl, error: pycurl.error) -> str:
    code, text = error.args
    if code == pycurl.E_COULDNT_CONNECT:
        number = curl.getinfo(pycurl.OS_ERRNO)
        if number == errno.ECONNREFUSED:
            return "nobody listens there"
        if number in (errno.ENOENT, errno.EACCES):
            denied = OSError(number, os.strerror(number), path)
            return f"{path} {access.explain(path, denied)}"
        return os.strerror(number) if number else text
    return text or f"libcurl error {code}"


def _require_trusted(path: str, connected: socket.socket) -> None:
    """Who answers there is root, this user, or has a directory that nobody else could have made.

    In a directory like /tmp any user may be the first to listen, or to put a link there: keys of
    his choice would be ours.
    """
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, uid, _ = _PEER.unpack(credentials)
    if uid in (0, os.geteuid()):
        return
    owners = frozenset((0, os.geteuid(), uid))
    try:
        weak = ownership.find_weak(path, owners, is_end_free=True, is_sticky_trusted=False)
    except OSError as error:
        raise NotPermitted(f"{path}: {error.strerror}") from error
    if weak is not None:
        what = trust.describe(weak[0], weak[1].st_uid, weak[1].st_mode)
        raise NotPermitted(
            f"user {trust.user_name(uid)} answers at {path}, and others could have: {what}",
            hint="have its socket in a directory of its own below one of root's, as /run/spire",
        )
