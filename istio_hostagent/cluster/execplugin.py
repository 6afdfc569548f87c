"""Credentials that a program tells: what kubectl calls exec plugins.

The program gets KUBERNETES_EXEC_INFO and answers with an ExecCredential on standard output. What
it says on standard error is for the user. Its answer is kept for the life of this process, until
it expires or the API server refuses it.
Source: kubernetes.io, "Authentication", client-go credential plugins;
client-go plugin/pkg/client/auth/exec/exec.go.
"""

import base64
import datetime
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import programs
from .failures import ClusterCredentialFailed
from .kubeconfig import Cluster, Exec


class Credential(NamedTuple):
    """A token, or certificate and key (PEM), or both. `ends`: seconds since 1970, or None."""

    token: str
    certificate: str
    key: str
    ends: float | None


def ask(
    plugin: Exec, cluster: Cluster, authority: bytes, environment: Mapping[str, str]
) -> Credential:
    """Run the program; raises ClusterCredentialFailed, whose message names it and its place.

    `authority`: the certificates by which the API server is known, PEM, or b"".
    """
    is_interactive = plugin.interactive_mode != "Never" and os.isatty(0)
    if plugin.interactive_mode == "Always" and not is_interactive:
        raise _failed(plugin, "wants a terminal (interactiveMode: Always), and there is none")
    spec: dict[str, object] = {"interactive": is_interactive}
    if plugin.wants_cluster:
        spec["cluster"] = _cluster_words(cluster, authority)
    information = {"apiVersion": plugin.version, "kind": "ExecCredential", "spec": spec}
    given = {**environment, **dict(plugin.environment)}
    given["KUBERNETES_EXEC_INFO"] = json.dumps(information)
    try:
        done = programs.run(
            [plugin.command, *plugin.arguments],
            given,
            data=None if is_interactive else b"",
            shows_errors=True,
        )
    except programs.NotStarted as error:
        # What kubectl prints there is of several lines, for people.
        raise _failed(plugin, str(error), hint=" ".join(plugin.install_hint.split())) from error
    if done.status:
        how = f"signal {-done.status}" if done.status < 0 else f"status {done.status}"
        raise _failed(plugin, f"ended with {how}")
    return _parse(plugin, done.output)


def _cluster_words(cluster: Cluster, authority: bytes) -> dict[str, object]:
    words: dict[str, object] = {"server": cluster.server, "config": None}
    if authority:
        words["certificate-authority-data"] = base64.b64encode(authority).decode()
    if cluster.server_name:
        words["tls-server-name"] = cluster.server_name
    if cluster.skips_verification:
        words["insecure-skip-tls-verify"] = True
    if cluster.proxy_url:
        words["proxy-url"] = cluster.proxy_url
    return words


def _parse(plugin: Exec, output: bytes) -> Credential:
    try:
        answer = json.loads(output)
    except ValueError as error:
        raise _failed(plugin, "did not print an ExecCredential in JSON") from error
    if not isinstance(answer, dict) or answer.get("kind") != "ExecCredential":
        raise _failed(plugin, "did not print an ExecCredential")
    if answer.get("apiVersion") != plugin.version:
        said = f"answered with apiVersion {answer.get('apiVersion')!r}"
        raise _failed(plugin, f"{said}, and the kubeconfig says {plugin.version}")
    status = answer.get("status")
    if not isinstance(status, dict):
        raise _failed(plugin, "printed an ExecCredential without status")
    credential = Credential(
        token=_text(plugin, status, "token"),
        certificate=_text(plugin, status, "clientCertificateData"),
        key=_text(plugin, status, "clientKeyData"),
        ends=_end(plugin, _text(plugin, status, "expirationTimestamp")),
    )
    if not credential.token and not credential.certificate:
        raise _failed(plugin, "printed an ExecCredential with neither token nor certificate")
    if bool(credential.certificate) != bool(credential.key):
        raise _failed(plugin, "printed a certificate without key, or a key without certificate")
    return credential


def _text(plugin: Exec, status: Mapping[str, Any], field: str) -> str:
    value = status.get(field) or ""
    if not isinstance(value, str):
        raise _failed(plugin, f"printed an ExecCredential whose {field} is no text")
    return value


def _end(plugin: Exec, text: str) -> float | None:
    if not text:
        return None
    try:
        end = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        words = f"printed an expirationTimestamp that is no time: {text!r}"
        raise _failed(plugin, words) from error
    return (end if end.tzinfo else end.replace(tzinfo=datetime.timezone.utc)).timestamp()


def _failed(plugin: Exec, message: str, *, hint: str = "") -> ClusterCredentialFailed:
    place = f"{plugin.place.file}:{plugin.place.line}"
    return ClusterCredentialFailed(f"{place}: exec plugin {plugin.command} {message}", hint=hint)
