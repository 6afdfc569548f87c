"""Objects of a cluster: read, listed, created, replaced and deleted, by name.

Objects are what JSON makes of them. Every failure is one of `failures`, its message names the
object, the namespace and the API server's own words. Nothing is tried again but what the server
itself wants later (429); `change` is the one that reads anew after a conflict.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from ..errors import HostAgentError
from . import failures, resources
from .access import Access
from .credentials import why_unknown
from .resources import Resource
from .session import Answer, Session

TIMEOUT_S = 30.0
PAGE = 500
MAX_LATER = 5
MAX_CONFLICTS = 50
_LONGEST_PAUSE_S = 5.0
Object = dict[str, Any]


class Client:
    """One API server, as one user. A context manager."""

    def __init__(
        self, access: Access, environment: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`environment`: PATH for plugins, and proxies. Raises ClusterCredentialFailed."""
        self.access = access
        self._session = Session(access, environment, timeout_s=timeout_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._session.close()

    @property
    def namespace(self) -> str:
        """The namespace of the context."""
        return self.access.namespace

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Return an object; raises ObjectMissing."""
        title = resources.title(resource, namespace, name)
        return self._ask("GET", resources.path(resource, namespace, name), title)

    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """Return an object, or None if there is none."""
        try:
            return self.get(resource, name, namespace)
        except failures.ObjectMissing:
            return None

    def list(
        self, resource: Resource, namespace: str = "", *, labels: str = ""
    ) -> tuple[Object, ...]:
        """Return all objects, of all namespaces if none is given; `labels` as kubectl's -l."""
        return tuple(self._pages(resource, namespace, labels))

    def has(self, resource: Resource) -> bool:
        """Return whether the API server knows this kind of object."""
        group = "api" if "/" not in resource.version else "apis"
        try:
            found = self._ask("GET", f"/{group}/{resource.version}", resource.version)
        except failures.ObjectMissing:
            return False
        return any(each.get("name") == resource.plural for each in found.get("resources", ()))

    def create(
        self, resource: Resource, item: Object, namespace: str = "", *, dry_run: bool = False
    ) -> Object:
        """Create an object and return it as it is now. Raises ObjectExists, ObjectInvalid.

        `dry_run`: all is checked and filled in, and nothing is kept.
        """
        name = str(item.get("metadata", {}).get("name", ""))
        title = resources.title(resource, namespace, name)
        query = {"dryRun": "All"} if dry_run else {}
        return self._ask("POST", resources.path(resource, namespace), title, item, query)

    def replace(
        self, resource: Resource, item: Object, namespace: str = "", *, part: str = ""
    ) -> Object:
        """Replace an object by one that was read; raises ObjectConflict if it has changed since.

        `part`: a subresource, as `status`. Without metadata.resourceVersion it is replaced,
        whatever it is now.
        """
        name = str(item["metadata"]["name"])
        title = resources.title(resource, namespace, name)
        return self._ask("PUT", resources.path(resource, namespace, name, part), title, item)

    def delete(
        self, resource: Resource, name: str, namespace: str = "", *, version: str = ""
    ) -> None:
        """Delete an object; raises ObjectMissing.

        `version`: only if its resourceVersion is still that; else ObjectConflict.
        """
        title = resources.title(resource, namespace, name)
        body = {"preconditions": {"resourceVersion": version}} if version else None
        self._ask("DELETE", resources.path(resource, namespace, name), title, body)

    def change(
        self,
        resource: Resource,
        name: str,
        namespace: str,
        make: Callable[[Object], Object | None],
    ) -> Object:
        """Read an object, replace it by what `make` returns of it, and return what is there then.

        `make` is called again with the new object after each conflict; None leaves it as it is.
        """
        left = MAX_CONFLICTS
        while True:
            found = self.get(resource, name, namespace)
            made = make(found)
            if made is None:
                return found
            try:
                return self.replace(resource, made, namespace)
            except failures.ObjectConflict:
                left -= 1
                if not left:
                    raise

    def create_token(self, account: str, namespace: str, *, audience: str, life_s: int) -> str:
        """Return a new token of a service account (TokenRequest)."""
        path = resources.path(resources.SERVICE_ACCOUNTS, namespace, account, "token")
        title = f"a token of {resources.title(resources.SERVICE_ACCOUNTS, namespace, account)}"
        spec = {"audiences": [audience], "expirationSeconds": life_s}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        return str(self._ask("POST", path, title, body)["status"]["token"])

    def version(self) -> str:
        """Return the version of the API server, for example v1.31.2."""
        return str(self._ask("GET", "/version", "its version").get("gitVersion", ""))

    def may(self, verb: str, resource: Resource, namespace: str = "", part: str = "") -> bool:
        """Return whether this user may do that (SelfSubjectAccessReview)."""
        group = resource.version.rpartition("/")[0]
        attributes = {"verb": verb, "group": group, "resource": resource.plural}
        attributes |= {"namespace": namespace, "subresource": part}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._ask("POST", path, "what this user may do", body)
        return bool(answer.get("status", {}).get("allowed"))

    def _pages(self, resource: Resource, namespace: str, labels: str) -> Iterator[Object]:
        title = resources.title(resource, namespace, "")
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = labels
        while True:
            path = resources.path(resource, namespace)
            found = self._ask("GET", path, title, query=query)
            for item in found.get("items") or ():
                # Members of a list have neither.
                yield {"apiVersion": resource.version, "kind": resource.kind, **item}
            rest = found.get("metadata", {}).get("continue")
            if not rest:
                return
            query["continue"] = rest

    def _ask(
        self,
        method: str,
        path: str,
        title: str,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        data = json.dumps(body).encode() if body is not None else b""
        answer = self._session.send(method, path, query=query or {}, body=data)
        for _ in range(MAX_LATER):
            if answer.status != 429:
                break
            time.sleep(_pause_s(answer))
            answer = self._session.send(method, path, query=query or {}, body=data)
        if not 200 <= answer.status < 300:
            self._fail(answer, method, title)
        try:
            found = json.loads(answer.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            server = self.access.cluster.server
            raise failures.ClusterUnreachable(
                f"what answers at {server} is no API server: it sent no JSON for {title}"
            )
        return found

    def _fail(self, answer: Answer, method: str, title: str) -> NoReturn:
        words, reason = _parse_status(answer)
        server = self.access.cluster.server
        if answer.status == 401:
            raise failures.ClusterCredentialFailed(
                f"the API server {server} does not know who asks (401)",
                hint=why_unknown(self.access, time.time()),
            )
        raise _error_of(answer.status, reason)(f"{title}: {words}")


def _error_of(status: int, reason: str) -> type[HostAgentError]:
    if status == 409:
        is_there = reason == "AlreadyExists"
        return failures.ObjectExists if is_there else failures.ObjectConflict
    if status == 403:
        return failures.ClusterRefused
    if status in (404, 405, 410):
        return failures.ObjectMissing
    if 400 <= status < 429:
        return failures.ObjectInvalid
    return failures.ClusterUnreachable


def _parse_status(answer: Answer) -> tuple[str, str]:
    """The API server's own sentence, and the reason's name."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("kind") == "Status":
        return str(found.get("message") or answer.status), str(found.get("reason", ""))
    text = answer.body.decode(errors="replace").strip().partition("\n")[0][:200]
    return f"{answer.status} {text}".strip(), ""


def _pause_s(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), _LONGEST_PAUSE_S) if text.isdigit() else 1.0


def decode(item: Mapping[str, Any], name: str) -> bytes | None:
    """Return one datum of a Secret, or None if it is not there or no base64."""
    text = (item.get("data") or {}).get(name)
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        return None
