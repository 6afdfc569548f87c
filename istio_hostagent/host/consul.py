"""Consul's HTTP API, by libcurl. Imported by workers alone.

Never through a proxy, never redirected, bounded in time and size. A question that Consul could not
answer now (no connection, no leader, too many) is asked again until the time is over. No message
has a token.
requests is twice as slow to load, and what it needs for unix sockets, and for the name that a
certificate has to carry, is not the same in Debian 12 and 13.
Source: developer.hashicorp.com/consul/api-docs (agent/service, catalog, health).
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pycurl

from ..config import endpoints, services
from ..errors import NotPermitted, RegistryRefused, RegistryUnavailable, describe
from . import ca, files

MAX_BYTES = 8 << 20
MAX_WORDS = 300
_MAX_FILE = 1 << 20
_OK = 200
_LATER = frozenset({429, 500, 502, 503, 504})
# No other answer comes from asking again.
_WRONG_TLS = frozenset(
    {
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CONNECT_ERROR,
    }
)
_WRONG_PROTOCOL = frozenset({pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_FTP_WEIRD_SERVER_REPLY})
# Who has not answered one question for so long is not asked again.
PATIENCE_S = 8.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
_TOKEN_HINT = "the token (CONSUL_HTTP_TOKEN) needs a policy that allows it"  # noqa: S105 # no token

_TLS_HINT = (
    "see CONSUL_CACERT, CONSUL_CLIENT_CERT and CONSUL_TLS_SERVER_NAME, and whether this port"
    " speaks TLS"
)
_PORT_HINT = "is it the port of Consul's HTTP API?"
_AWAY_HINT = "does its agent run there? CONSUL_HTTP_ADDR names another one"
_SOCKET_HINT = "does its agent run there, and may this user connect to its socket?"


class Credentials(NamedTuple):
    """What the files of an `Access` hold."""

    token: str = ""
    roots: bytes = b""
    certificate: bytes = b""
    key: bytes = b""


def read_credentials(access: services.Access) -> Credentials:
    """Read the files, as whoever we are; raises NotPermitted."""
    token = access.token
    if access.token_file:
        token = _read(access.token_file).decode(errors="replace").strip()
    if not token.isprintable() or not token.isascii():
        raise NotPermitted("the token of Consul holds characters that no header may hold")
    return Credentials(
        token,
        _read_roots(access.roots),
        _read(access.certificate) if access.certificate else b"",
        _read(access.key) if access.key else b"",
    )


def _read_roots(path: str) -> bytes:
    """One file, or all of a directory (CONSUL_CAPATH)."""
    if not path:
        return b""
    if not os.path.isdir(path):
        return _read(path)
    return b"\n".join(_read(os.path.join(path, name)) for name in sorted(os.listdir(path)))


def _read(path: str) -> bytes:
    try:
        return files.read_bounded(path, _MAX_FILE)
    except OSError as error:
        raise NotPermitted(f"{path}: {describe(error)}") from error


class Api:
    """One conversation with an agent or server of Consul, on one connection."""

    def __init__(
        self, access: services.Access, credentials: Credentials, *, timeout_s: float
    ) -> None:
        """Nothing is sent yet; `timeout_s` bounds the whole conversation. Raises NotPermitted."""
        self.address = access.address
        # Of the last answer: the version of what it is about, where it has one, and whether it
        # leaves out what the token may not see.
        self.index = 0
        self.is_filtered = False
        self._deadline = time.monotonic() + timeout_s
        self._opened = contextlib.ExitStack()
        self._curl = self._opened.enter_context(contextlib.closing(pycurl.Curl()))
        self._headers = ["Expect:", "Accept:", "Content-Type: application/json"]
        if credentials.token:
            self._headers.append(f"X-Consul-Token: {credentials.token}")
        curl, scheme = self._curl, access.address.partition("://")[0]
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOPROXY, "*")
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.USERAGENT, "istio-hostagent")
        if access.user:
            curl.setopt(pycurl.USERPWD, access.user)
        self._base = access.address
        if scheme == "unix":
            self._base = "http://localhost"
            curl.setopt(pycurl.UNIX_SOCKET_PATH, access.address.removeprefix("unix://"))
        elif scheme == "https":
            self._set_tls(access, credentials)

    def _set_tls(self, access: services.Access, found: Credentials) -> None:
        curl = self._curl
        curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        curl.setopt(pycurl.SSL_VERIFYPEER, int(access.is_verified))
        curl.setopt(pycurl.SSL_VERIFYHOST, 2 if access.is_verified else 0)
        if found.roots:
            # Not the web's roots beside it.
            curl.unsetopt(pycurl.CAPATH)
            curl.setopt(pycurl.CAINFO, self._keep("roots", found.roots))
        if found.certificate:
            curl.setopt(pycurl.SSLCERT, self._keep("chain", found.certificate))
            curl.setopt(pycurl.SSLKEY, self._keep("key", found.key))
        if access.server_name:
            # The URL carries the name that is verified; this is what is dialled instead.
            dialled = access.address.partition("://")[2]
            _, port = endpoints.parse_host_port(dialled)
            self._base = f"https://{access.server_name}:{port}"
            curl.setopt(pycurl.CONNECT_TO, [f"::{dialled}"])

    def _keep(self, name: str, data: bytes) -> str:
        return self._opened.enter_context(ca.memory_file(name, data))

    def close(self) -> None:
        """End the connection."""
        self._opened.close()

    @property
    def left_s(self) -> float:
        """How much of the time is left."""
        return self._deadline - time.monotonic()

    def get(self, *path: str, **query: str) -> Any:
        """The JSON value at a path; raises RegistryUnavailable, RegistryRefused."""
        return self._ask(path, query, None)

    def put(self, *path: str, body: object = None, **query: str) -> Any:
        """Change something that may be changed twice; raises the same."""
        return self._ask(path, query, b"" if body is None else json.dumps(body).encode())

    def _ask(self, path: tuple[str, ...], query: Mapping[str, str], body: bytes | None) -> Any:
        url = f"{self._base}/v1/{'/'.join(quote(part, safe='') for part in path)}"
        url += f"?{urlencode(query)}" if query else ""
        pause_s = _FIRST_PAUSE_S
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._understand(*self._ask_once(url, body))
            except RegistryUnavailable:
                if self.left_s <= pause_s or time.monotonic() >= until:
                    raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _ask_once(self, url: str, body: bytes | None) -> tuple[int, bytes]:
        curl = self._curl
        content = bytearray()

        def take(part: bytes) -> int | None:
            content.extend(part)
            # Another length than that of the part ends the transfer (CURLOPT_WRITEFUNCTION(3)).
            return -1 if len(content) > MAX_BYTES else None

        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.HTTPHEADER, self._headers)
        curl.setopt(pycurl.WRITEFUNCTION, take)
        curl.setopt(pycurl.HEADERFUNCTION, self._take_header)
        curl.setopt(pycurl.TIMEOUT_MS, max(1, int(self.left_s * 1000)))
        if body is None:
            curl.setopt(pycurl.HTTPGET, 1)
        else:
            curl.setopt(pycurl.POSTFIELDS, body)
            curl.setopt(pycurl.CUSTOMREQUEST, "PUT")
        try:
            curl.perform()
        except pycurl.error as error:
            if len(content) > MAX_BYTES:
                raise RegistryRefused(
                    f"{self._tried}: its answer is longer than {MAX_BYTES} bytes"
                ) from error
            raise self._explain(*error.args) from error
        finally:
            curl.unsetopt(pycurl.CUSTOMREQUEST)
        return curl.getinfo(pycurl.RESPONSE_CODE), bytes(content)

    def _take_header(self, line: bytes) -> None:
        name, _, value = line.decode("latin-1").strip().partition(":")
        if name.startswith("HTTP/"):
            self.is_filtered = False
        elif name.lower() == "x-consul-index" and value.strip().isdigit():
            self.index = int(value)
        elif name.lower() == "x-consul-results-filtered-by-acls":
            self.is_filtered = value.strip() == "true"

    @property
    def _tried(self) -> str:
        return f"Consul at {self.address}"

    def _understand(self, status: int, content: bytes) -> Any:
        words = _clean(content[: 2 * MAX_WORDS].decode(errors="replace"))
        if status in _LATER:
            raise RegistryUnavailable(f"{self._tried}: HTTP status {status}: {words}")
        if status != _OK:
            hint = _TOKEN_HINT if status in (401, 403) else ""
            raise RegistryRefused(f"{self._tried}: HTTP status {status}: {words}", hint=hint)
        try:
            return json.loads(content) if content.strip() else None
        except (ValueError, RecursionError):
            raise RegistryRefused(
                f"{self._tried}: the answer is no JSON", hint=_PORT_HINT
            ) from None

    def _explain(self, code: int, words: str) -> RegistryUnavailable | RegistryRefused:
        # What follows with GnuTLS is the path of our memory file.
        text = f"{self._tried}: {_clean(words.partition(' CAfile: ')[0]) or f'libcurl: {code}'}"
        if code in _WRONG_TLS:
            return RegistryRefused(text, hint=_TLS_HINT)
        if code in _WRONG_PROTOCOL:
            return RegistryRefused(text, hint=_PORT_HINT)
        is_socket = self.address.startswith("unix:")
        return RegistryUnavailable(text, hint=_SOCKET_HINT if is_socket else _AWAY_HINT)


def _clean(text: str) -> str:
    """Somebody else's words on one line, bounded."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_WORDS].strip()
