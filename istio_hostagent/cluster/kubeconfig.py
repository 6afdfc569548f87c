"""A kubeconfig file as values: clusters, users and contexts by name, and the line of each.

Not here: which files count and which context is meant (access.py), and what is done with a
user's credential. Fields that nobody needs here are passed over, as kubectl does.
Source: kubernetes.io, "kubeconfig (v1)"; client-go tools/clientcmd/api/v1/{types,conversion}.go.
"""

import base64
import binascii
import os
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ..errors import Problem
from . import yamltext

EXEC_VERSIONS = (
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
)
INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")


class Place(NamedTuple):
    """Where something is written."""

    file: str
    line: int


class Cluster(NamedTuple):
    """How an API server is reached and known."""

    place: Place
    server: str
    authority_file: str
    authority_data: bytes
    skips_verification: bool
    server_name: str
    proxy_url: str


class Exec(NamedTuple):
    """A program that tells the credential (client.authentication.k8s.io)."""

    place: Place
    version: str
    command: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    install_hint: str
    wants_cluster: bool
    interactive_mode: str


class User(NamedTuple):
    """How the API server knows who asks; of a file and data the data count."""

    place: Place
    certificate_file: str = ""
    certificate_data: bytes = b""
    key_file: str = ""
    key_data: bytes = b""
    token: str = ""
    token_file: str = ""
    name: str = ""
    password: str = ""
    plugin: Exec | None = None
    acts_as: str = ""
    acts_as_groups: tuple[str, ...] = ()


class Context(NamedTuple):
    """A cluster and a user by their names, and a namespace or ""."""

    place: Place
    cluster: str
    user: str
    namespace: str


class Kubeconfig(NamedTuple):
    """One file, or several that were merged."""

    current: str
    current_place: Place
    contexts: dict[str, Context]
    clusters: dict[str, Cluster]
    users: dict[str, User]


T = TypeVar("T")


def parse(file: str, text: str) -> tuple[Kubeconfig, list[Problem]]:
    """Return what a file says and what is wrong in it. Raises ConfigInvalid if it is no YAML.

    Paths in it are relative to its directory, and absolute from here on.
    """
    document, top = yamltext.parse(file, text)
    current = top.field("current-context")
    parsed = Kubeconfig(
        current=current.text(),
        current_place=_place(current),
        contexts=_by_name(document, top.field("contexts"), "context", _context),
        clusters=_by_name(document, top.field("clusters"), "cluster", _cluster),
        users=_by_name(document, top.field("users"), "user", _user),
    )
    kind = top.field("kind")
    if kind.text() not in ("", "Config"):
        kind.complain(f"is {kind.text()!r}, and not Config: this is no kubeconfig")
    return parsed, document.problems


def _by_name(
    document: yamltext.Document,
    node: yamltext.Node,
    field: str,
    read: Callable[[yamltext.Node], T],
) -> dict[str, T]:
    found: dict[str, T] = {}
    for each in node.items():
        name = each.field("name").text()
        if name in found:
            document.add_problem(each.line, f"a second {field} is called {name!r}")
        found[name] = read(each.field(field))
    return found


def _context(node: yamltext.Node) -> Context:
    return Context(
        place=_place(node),
        cluster=node.field("cluster").text(),
        user=node.field("user").text(),
        namespace=node.field("namespace").text(),
    )


def _cluster(node: yamltext.Node) -> Cluster:
    return Cluster(
        place=_place(node),
        server=node.field("server").text(),
        authority_file=_path(node.field("certificate-authority")),
        authority_data=_data(node.field("certificate-authority-data")),
        skips_verification=node.field("insecure-skip-tls-verify").flag(),
        server_name=node.field("tls-server-name").text(),
        proxy_url=node.field("proxy-url").text(),
    )


def _user(node: yamltext.Node) -> User:
    provider = node.field("auth-provider")
    if not provider.is_absent:
        provider.complain("Kubernetes 1.26 took it out; an exec plugin is its successor")
    plugin = node.field("exec")
    return User(
        place=_place(node),
        certificate_file=_path(node.field("client-certificate")),
        certificate_data=_data(node.field("client-certificate-data")),
        key_file=_path(node.field("client-key")),
        key_data=_data(node.field("client-key-data")),
        token=node.field("token").text(),
        token_file=_path(node.field("tokenFile")),
        name=node.field("username").text(),
        password=node.field("password").text(),
        plugin=None if plugin.is_absent else _exec(plugin),
        acts_as=node.field("as").text(),
        acts_as_groups=tuple(each.text() for each in node.field("as-groups").items()),
    )


def _exec(node: yamltext.Node) -> Exec:
    version, command = node.field("apiVersion"), node.field("command")
    mode = node.field("interactiveMode")
    if version.text() not in EXEC_VERSIONS:
        version.complain(f"{version.text()!r} is none of {', '.join(EXEC_VERSIONS)}")
    if not command.text():
        command.complain("is missing: it names the program to run")
    if not mode.text() and version.text() == EXEC_VERSIONS[0]:
        mode.complain(f"is missing: {', '.join(INTERACTIVE_MODES)} are possible")
    elif mode.text() and mode.text() not in INTERACTIVE_MODES:
        mode.complain(f"{mode.text()!r} is none of {', '.join(INTERACTIVE_MODES)}")
    text = command.text()
    # As a shell does: a name by itself is looked up in PATH.
    program = _path(command) if "/" in text else text
    return Exec(
        place=_place(node),
        version=version.text(),
        command=program,
        arguments=tuple(each.text() for each in node.field("args").items()),
        environment=tuple(
            (each.field("name").text(), each.field("value").text())
            for each in node.field("env").items()
        ),
        install_hint=node.field("installHint").text(),
        wants_cluster=node.field("provideClusterInfo").flag(),
        interactive_mode=mode.text() or "IfAvailable",
    )


def _place(node: yamltext.Node) -> Place:
    return Place(node.file, node.line)


def _path(node: yamltext.Node) -> str:
    text = node.text()
    return os.path.join(os.path.dirname(os.path.abspath(node.file)), text) if text else ""


def _data(node: yamltext.Node) -> bytes:
    try:
        # Long texts are folded.
        return base64.b64decode("".join(node.text().split()), validate=True)
    except (binascii.Error, ValueError):
        node.complain("is not base64")
        return b""
