"""Which API server is meant, and as whom: kubeconfig files as kubectl finds and merges them.

An explicit path counts alone. Else the files of KUBECONFIG (those that are not there are passed
over), else ~/.kube/config, else the service account of the pod that this runs in. Of several files
the first that names something counts.
Source: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files"; client-go
tools/clientcmd/loader.go, rest/config.go (InClusterConfig).
"""

import ipaddress
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import ConfigInvalid, Problem, WrongUsage, describe
from . import kubeconfig
from .kubeconfig import Cluster, Kubeconfig, Place, User

IN_CLUSTER_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"
MAX_BYTES = 16 * 1024 * 1024


class Access(NamedTuple):
    """An API server, who asks, and the namespace of the context ("default" if it has none)."""

    context: str
    cluster: Cluster
    user: User
    namespace: str


def choose(environment: Mapping[str, str], *, path: str = "", context: str = "") -> Access:
    """Return what is meant.

    `path`, `context`: what the command line says, or "". Raises ConfigInvalid with file and line,
    and WrongUsage if nothing leads to a cluster.
    """
    files = find_files(environment, path)
    if not files:
        if not path and not context and (inside := _in_cluster(environment)) is not None:
            return inside
        where = environment.get("KUBECONFIG", "") or "~/.kube/config"
        raise WrongUsage(
            f"no cluster is known: there is no kubeconfig at {where}",
            hint="name one with --kubeconfig or KUBECONFIG",
        )
    merged = _merge(files)
    name = context or merged.current
    if not name:
        raise ConfigInvalid([_problem(merged.current_place, "there is no current-context")])
    if name not in merged.contexts:
        if context:
            known = ", ".join(sorted(merged.contexts)) or "there is none"
            raise WrongUsage(f"no context is called {context!r} (known: {known})")
        raise ConfigInvalid(
            [_problem(merged.current_place, f"current-context: no context is called {name!r}")]
        )
    return _resolve(merged, name)


def find_files(environment: Mapping[str, str], path: str = "") -> list[str]:
    """Return the kubeconfig files that count, those of a list only if they are there."""
    if path:
        return [path]
    listed = [each for each in environment.get("KUBECONFIG", "").split(":") if each]
    if not listed and (home := environment.get("HOME", "")):
        listed = [os.path.join(home, ".kube", "config")]
    # What is there and cannot be read is an error, not a reason to take another.
    return [each for each in dict.fromkeys(listed) if os.path.lexists(each)]


def _merge(files: Sequence[str]) -> Kubeconfig:
    merged = Kubeconfig("", Place(files[0], 0), {}, {}, {})
    problems: list[Problem] = []
    for file in files:
        try:
            parsed, found = kubeconfig.parse(file, _read(file))
        except ConfigInvalid as error:
            problems += error.problems
            continue
        problems += found
        current, place = merged.current, merged.current_place
        if not current and parsed.current:
            current, place = parsed.current, parsed.current_place
        merged = Kubeconfig(
            current,
            place,
            parsed.contexts | merged.contexts,
            parsed.clusters | merged.clusters,
            parsed.users | merged.users,
        )
    if problems:
        raise ConfigInvalid(problems)
    return merged


def _read(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {describe(error)}"
        raise ConfigInvalid([Problem(file, 0, problem)]) from error
    if len(data) > MAX_BYTES:
        raise ConfigInvalid([Problem(file, 0, f"is longer than {MAX_BYTES} bytes")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid([Problem(file, line, "is no UTF-8 text")]) from error


def _resolve(merged: Kubeconfig, name: str) -> Access:
    context = merged.contexts[name]
    cluster = merged.clusters.get(context.cluster)
    # A context without a user asks as nobody.
    user = merged.users.get(context.user) if context.user else User(context.place)
    problems = []
    if cluster is None:
        words = f"context {name!r}: no cluster is called {context.cluster!r}"
        problems.append(_problem(context.place, words))
    else:
        problems += _problems_of(cluster)
    if user is None:
        words = f"context {name!r}: no user is called {context.user!r}"
        problems.append(_problem(context.place, words))
    else:
        problems += _problems_of_user(user)
    if problems:
        raise ConfigInvalid(problems)
    assert cluster is not None and user is not None
    return Access(name, cluster, user, context.namespace or "default")


def _problems_of(cluster: Cluster) -> list[Problem]:
    problems = []
    try:
        server = urllib.parse.urlsplit(cluster.server)
        is_usable = server.scheme in ("http", "https") and bool(server.hostname)
        # Reading a port that is none raises.
        is_usable = is_usable and server.port != 0
    except ValueError:
        is_usable = False
    if not cluster.server:
        problems.append(_problem(cluster.place, "server: is missing: the URL of the API server"))
    elif not is_usable:
        words = f"server: {cluster.server!r} is no URL as https://HOST:PORT"
        problems.append(_problem(cluster.place, words))
    has_authority = cluster.authority_file or cluster.authority_data
    if cluster.skips_verification and has_authority:
        words = "insecure-skip-tls-verify excludes a certificate authority: take one of them out"
        problems.append(_problem(cluster.place, words))
    if cluster.proxy_url:
        scheme = urllib.parse.urlsplit(cluster.proxy_url).scheme
        if scheme not in ("http", "https", "socks5"):
            words = f"proxy-url: {cluster.proxy_url!r} begins with none of http, https, socks5"
            problems.append(_problem(cluster.place, words))
    return problems


def _problems_of_user(user: User) -> list[Problem]:
    problems = []
    has_certificate = bool(user.certificate_file or user.certificate_data)
    has_key = bool(user.key_file or user.key_data)
    if has_certificate != has_key:
        there, missing = ("client-certificate", "client-key")[:: 1 if has_certificate else -1]
        problems.append(_problem(user.place, f"{there}: there is no {missing} beside it"))
    if (user.token or user.token_file) and user.name:
        problems.append(_problem(user.place, "username: there is a token, too: take one out"))
    if len(user.acts_as_groups) > 1:
        words = "as-groups: one group is possible, with this program"
        problems.append(_problem(user.place, words))
    if user.acts_as_groups and not user.acts_as:
        problems.append(_problem(user.place, "as-groups: needs `as`, the user to act as"))
    return problems


def _problem(place: Place, message: str) -> Problem:
    return Problem(place.file, place.line, message)


def _in_cluster(environment: Mapping[str, str]) -> Access | None:
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    token = f"{IN_CLUSTER_FILES}/token"
    if not host or not port or not os.path.exists(token):
        return None
    place = Place(token, 0)
    namespace = _read(f"{IN_CLUSTER_FILES}/namespace").strip()
    cluster = Cluster(
        place=place,
        server=f"https://{_bracketed(host)}:{port}",
        authority_file=f"{IN_CLUSTER_FILES}/ca.crt",
        authority_data=b"",
        skips_verification=False,
        server_name="",
        proxy_url="",
    )
    user = User(place, token_file=token)
    return Access("in-cluster", cluster, user, namespace or "default")


def _bracketed(host: str) -> str:
    try:
        is_six = ipaddress.ip_address(host).version == 6
    except ValueError:
        is_six = False
    return f"[{host}]" if is_six else host
