"""HTTPS to one API server, as one user, by the library `requests`.

What the kubeconfig holds as data reaches OpenSSL by memory files: no key is written to a disk.
Nothing of the environment counts but the proxy variables (no netrc, no CA bundle), as with
kubectl.
"""

import base64
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import requests
from requests import adapters

from ..errors import describe
from . import execplugin
from .access import Access
from .failures import ClusterCredentialFailed, ClusterUnreachable
from .kubeconfig import Cluster, User

CONNECT_LIMIT_S = 10.0
# Before it expires, a plugin is asked again.
_MARGIN_S = 10.0


class Answer(NamedTuple):
    """Status and body of an answer, and the headers by name in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Session:
    """Requests to the API server of an Access. Raises ClusterCredentialFailed when made."""

    def __init__(
        self, access: Access, environment: Mapping[str, str], *, timeout_s: float
    ) -> None:
        """`timeout_s`: how long an answer may take once the connection is there."""
        self.access = access
        self._environment = environment
        self._timeout_s = timeout_s
        self._authority = _authority_of(access.cluster)
        self._files: list[int] = []
        self._credential: execplugin.Credential | None = None
        self._session = self._new_session()
        self._ask_plugin()

    def close(self) -> None:
        """Close connections and memory files."""
        self._session.close()
        for descriptor in self._files:
            os.close(descriptor)
        self._files.clear()

    def send(self, method: str, path: str, *, query: Mapping[str, str], body: bytes) -> Answer:
        """Send one request and return what came back, whatever its status.

        Raises ClusterUnreachable and ClusterCredentialFailed. A plugin whose credential is refused
        (401) is asked once more.
        """
        ends = self._credential.ends if self._credential else None
        # The API server's clock decides; this is to be early, not right.
        if ends is not None and ends < time.time() + _MARGIN_S:
            self._renew()
        answer = self._send(method, path, query, body)
        if answer.status == 401 and self._credential is not None:
            self._renew()
            answer = self._send(method, path, query, body)
        return answer

    def _send(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Answer:
        url = self.access.cluster.server.rstrip("/") + path
        headers = self._authorization()
        if body:
            headers["Content-Type"] = "application/json"
        try:
            answer = self._session.request(
                method,
                url,
                params=dict(query),
                data=body or None,
                headers=headers,
                timeout=(CONNECT_LIMIT_S, self._timeout_s),
                allow_redirects=False,
            )
        except (requests.RequestException, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        found = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status_code, answer.content, found)

    def _new_session(self) -> requests.Session:
        cluster, user = self.access.cluster, self.access.user
        session = requests.Session()
        session.trust_env = False
        session.headers["Accept"] = "application/json"
        session.headers["User-Agent"] = "istio-hostagent"
        if cluster.proxy_url:
            session.proxies = {"http": cluster.proxy_url, "https": cluster.proxy_url}
        else:
            session.proxies = requests.utils.get_environ_proxies(cluster.server)
        if cluster.skips_verification:
            session.verify = False
            requests.packages.urllib3.disable_warnings()  # type: ignore[attr-defined] # an alias
        elif self._authority:
            session.verify = self._as_file(self._authority)
        if cluster.server_name:
            session.mount("https://", _Named(cluster.server_name))
        certificate = user.certificate_data or _read(user.certificate_file, user)
        if certificate:
            key = user.key_data or _read(user.key_file, user)
            session.cert = (self._as_file(certificate), self._as_file(key))
        return session

    def _ask_plugin(self) -> None:
        user = self.access.user
        # What is written there counts more, as with kubectl.
        if user.plugin is None or user.token or user.token_file or user.name:
            return
        self._credential = execplugin.ask(
            user.plugin, self.access.cluster, self._authority, self._environment
        )
        if self._credential.certificate:
            files = (self._credential.certificate, self._credential.key)
            certificate, key = (self._as_file(text.encode()) for text in files)
            self._session.cert = (certificate, key)

    def _renew(self) -> None:
        self._session.close()
        self._ask_plugin()

    def _authorization(self) -> dict[str, str]:
        user = self.access.user
        token = user.token
        if user.token_file:
            # The file counts more, and is replaced by whoever renews it.
            token = _read(user.token_file, user).decode(errors="replace").strip()
        if self._credential is not None:
            token = self._credential.token
        headers = {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        elif user.name:
            pair = base64.b64encode(f"{user.name}:{user.password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        if user.acts_as:
            headers["Impersonate-User"] = user.acts_as
        if user.acts_as_groups:
            headers["Impersonate-Group"] = user.acts_as_groups[0]
        return headers

    def _as_file(self, data: bytes) -> str:
        descriptor = os.memfd_create("credential", os.MFD_CLOEXEC)
        self._files.append(descriptor)
        os.write(descriptor, data)
        return f"/proc/self/fd/{descriptor}"

    def _unreachable(self, error: Exception) -> ClusterUnreachable:
        server = self.access.cluster.server
        words, hint = _reason(error)
        return ClusterUnreachable(f"the API server {server} {words}", hint=hint)


class _Named(adapters.HTTPAdapter):
    """Connections whose server must have a certificate of this name, whatever its address."""

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **words: Any) -> None:
        """Hand the name to urllib3."""
        words |= {"server_hostname": self._name, "assert_hostname": self._name}
        super().init_poolmanager(*arguments, **words)  # type: ignore[no-untyped-call] # theirs

    def proxy_manager_for(self, *arguments: Any, **words: Any) -> Any:
        """Likewise behind a proxy."""
        words |= {"server_hostname": self._name, "assert_hostname": self._name}
        return super().proxy_manager_for(*arguments, **words)  # type: ignore[no-untyped-call] # theirs


def _authority_of(cluster: Cluster) -> bytes:
    if cluster.authority_data or not cluster.authority_file:
        return cluster.authority_data
    return _read(cluster.authority_file, cluster)


def _read(file: str, owner: User | Cluster) -> bytes:
    if not file:
        return b""
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        named = f"{owner.place.file}:{owner.place.line}"
        raise ClusterCredentialFailed(
            f"{file}, which {named} names, cannot be read: {describe(error)}"
        ) from error


_REFUSED = ("refuses the client certificate", "does it belong to this cluster?")
_TLS_WORDS = {
    "certificate has expired": (
        "shows a certificate that has expired",
        "its owner renews it; is the clock of this machine right?",
    ),
    "certificate is not yet valid": (
        "shows a certificate that is not valid yet",
        "is the clock of this machine right?",
    ),
    "doesn't match": (
        "shows a certificate of another name",
        "tls-server-name in the kubeconfig says which name it has",
    ),
    "IP address mismatch": (
        "shows a certificate of another address",
        "tls-server-name in the kubeconfig says which name it has",
    ),
    "Hostname mismatch": (
        "shows a certificate of another name",
        "tls-server-name in the kubeconfig says which name it has",
    ),
    "self-signed certificate": (
        "shows a certificate that is not from an authority we trust",
        "certificate-authority in the kubeconfig names the authority",
    ),
    "unable to get local issuer": (
        "shows a certificate that is not from an authority we trust",
        "certificate-authority in the kubeconfig names the authority",
    ),
    "WRONG_VERSION_NUMBER": ("speaks no TLS there", "is the port right?"),
    "alert unknown ca": _REFUSED,
    "alert access denied": _REFUSED,
    "alert bad certificate": _REFUSED,
    "alert certificate": _REFUSED,
    "alert unsupported certificate": _REFUSED,
    "PEM lib": (
        "is not asked: certificate, key or authority in the kubeconfig is no PEM",
        "",
    ),
    "key values mismatch": (
        "is not asked: the client's key does not belong to its certificate",
        "",
    ),
    "no certificate or crl found": (
        "is not asked: the certificate authority in the kubeconfig is no PEM",
        "",
    ),
}


def _reason(error: Exception) -> tuple[str, str]:
    """What a failed request means, as a predicate, and what to do about it."""
    text = str(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"is not reached through the proxy: {_innermost(error)}", "see proxy-url"
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in text:
        return "needs a SOCKS proxy", "install python3-socks"
    # urllib3 says with a ValueError of its own that the name is another one.
    of_tls = [str(each) for each in _causes(error) if isinstance(each, (ssl.SSLError, ValueError))]
    for words, meaning in _TLS_WORDS.items():
        if any(words in each for each in of_tls):
            return meaning
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "accepts connections and does not answer", ""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"does not answer within {CONNECT_LIMIT_S:g} s", ""
    return f"does not answer: {_innermost(error)}", ""


def _innermost(error: BaseException) -> str:
    """The words of the operating system below what three libraries have wrapped around them."""
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno is not None and each.strerror:
            return each.strerror
    return str(error).partition("\n")[0]


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and all that it was made from."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            reason = getattr(each, "reason", None)
            waiting += [*each.args, reason, each.__cause__, each.__context__]
    return seen
