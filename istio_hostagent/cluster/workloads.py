"""What a WorkloadGroup's hosts need of the cluster: mesh configuration, root, token, gateway.

Objects and names are those that `istioctl x workload entry configure` asks for.
Source: istio istioctl/pkg/workload/workload.go.
"""

import ipaddress
import json
from typing import Any, NamedTuple

from ..errors import ConfigInvalid, HostAgentError, Problem
from ..expansion import workload
from . import failures, resources, yamltext
from .client import Client, Object

_MESH_KEY, _VALUES_KEY = "mesh", "values"
_INJECTOR = "istio-sidecar-injector"
# Shorter ones the API server does not give.
SHORTEST_TOKEN_S = 600


class MeshIncomplete(HostAgentError):
    """The cluster lacks what hosts of the mesh need, or holds something else there."""

    code = "mesh-incomplete"
    exit_status = 69


class Gateway(NamedTuple):
    """The address by which hosts reach istiod; "" with the reason why there is none."""

    address: str
    missing: str = ""


def parse_group(file: str, text: str, namespace: str = "") -> workload.Group:
    """Return the WorkloadGroup of a file; `namespace`: for one that names none.

    Raises ConfigInvalid.
    """
    documents = yamltext.load(file, text)
    groups = [each for each in documents if _kind(each) == "WorkloadGroup"]
    if len(groups) > 1 or not groups:
        words = (
            f"{len(groups)} WorkloadGroups are in it" if groups else "no WorkloadGroup is in it"
        )
        raise ConfigInvalid([Problem(file, 0, words)])
    group = groups[0]
    metadata = group.get("metadata")
    if namespace and isinstance(metadata, dict):
        metadata.setdefault("namespace", namespace)
    try:
        return workload.read_group(group)
    except ValueError as error:
        raise ConfigInvalid([Problem(file, 0, str(error))]) from error


def get_group(client: Client, name: str, namespace: str) -> workload.Group:
    """Return the WorkloadGroup of the cluster; raises ObjectMissing."""
    try:
        found = client.get(resources.WORKLOAD_GROUPS, name, namespace)
    except failures.ObjectMissing as error:
        if not client.has(resources.WORKLOAD_GROUPS):
            raise MeshIncomplete(
                "the cluster has no WorkloadGroups: Istio's custom resources are not installed",
                hint="`istioctl install`, or the Helm chart istio/base, brings them",
            ) from error
        raise failures.ObjectMissing(
            f"there is no WorkloadGroup {name} in namespace {namespace}",
            hint="`kubectl get workloadgroups -A` shows those that there are",
        ) from error
    try:
        return workload.read_group(found)
    except ValueError as error:
        title = resources.title(resources.WORKLOAD_GROUPS, namespace, name)
        raise MeshIncomplete(f"{title}: {error}") from error


def make_files(client: Client, group: workload.Group, wishes: workload.Wishes) -> workload.Files:
    """Return cluster.env and mesh.yaml. Raises MeshIncomplete."""
    name = _revisioned("istio", wishes)
    text = _datum(client, name, wishes.istio_namespace, _MESH_KEY)
    mesh = _yaml(f"ConfigMap {name}, key {_MESH_KEY}", text)
    annotated = tuple(
        _yaml(f"annotation {workload.ANNOTATION} of WorkloadGroup {group.name}", each)
        for each in workload.annotations_of(group)
    )
    try:
        return workload.build(group, mesh, annotated, wishes)
    except ValueError as error:
        raise MeshIncomplete(
            f"WorkloadGroup {group.name} and ConfigMap {name} do not make a configuration: {error}"
        ) from error


def find_cluster_id(client: Client, wishes: workload.Wishes) -> str:
    """Return what the injector calls this cluster. Raises MeshIncomplete."""
    name = _revisioned(_INJECTOR, wishes)
    try:
        text = _datum(client, name, wishes.istio_namespace, _VALUES_KEY)
    except MeshIncomplete as error:
        raise MeshIncomplete(error.message, hint="--cluster-id says the cluster's name") from error
    try:
        values: Any = json.loads(text)
        for key in ("global", "multiCluster", "clusterName"):
            values = (values or {}).get(key)
    except (ValueError, AttributeError) as error:
        raise MeshIncomplete(f"ConfigMap {name}, key {_VALUES_KEY}, is no JSON") from error
    return values if isinstance(values, str) else ""


def root(client: Client, namespace: str) -> str:
    """Return the certificates that a host trusts. Raises MeshIncomplete."""
    return _datum(client, workload.ROOT_CONFIG_MAP, namespace, workload.ROOT_KEY)


def create_token(client: Client, group: workload.Group, life_s: int) -> str:
    """Return a token that istiod takes. Raises MeshIncomplete."""
    try:
        return client.create_token(
            group.account, group.namespace, audience=workload.AUDIENCE, life_s=life_s
        )
    except failures.ObjectMissing as error:
        command = f"kubectl create serviceaccount {group.account} -n {group.namespace}"
        raise MeshIncomplete(
            f"there is no service account {group.account} in namespace {group.namespace}",
            hint=f"`{command}`",
        ) from error


def find_gateway(client: Client, service: str, istio_namespace: str) -> Gateway:
    """Return the address of a Service, called NAME or NAME.NAMESPACE."""
    name, _, namespace = service.partition(".")
    namespace = namespace or istio_namespace
    title = f"Service {name} in namespace {namespace}"
    found = client.find(resources.SERVICES, name, namespace)
    if found is None:
        return Gateway("", f"there is no {title}")
    address, host = _outside(found)
    if not address:
        why = f"{title} has the name {host} and no address" if host else f"{title} has no address"
        return Gateway("", why)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return Gateway("", f"{title} has {address!r}, which is no address")
    return Gateway(address)


def _outside(service: Object) -> tuple[str, str]:
    """The address of a Service as istioctl takes it, and the host name that may be there."""
    entries = (service.get("status") or {}).get("loadBalancer", {}).get("ingress") or ()
    if entries:
        return entries[0].get("ip", ""), entries[0].get("hostname", "")
    addresses = service.get("spec", {}).get("externalIPs") or ("",)
    return addresses[0], ""


def _revisioned(name: str, wishes: workload.Wishes) -> str:
    return f"{name}-{wishes.revision}" if wishes.is_revisioned else name


def _datum(client: Client, name: str, namespace: str, key: str) -> str:
    """One text of a ConfigMap."""
    found = client.find(resources.CONFIG_MAPS, name, namespace)
    if found is None:
        raise MeshIncomplete(
            f"there is no ConfigMap {name} in namespace {namespace}: istiod makes it",
            hint="does istiod run there? --istio-namespace and --revision say which is meant",
        )
    text = (found.get("data") or {}).get(key)
    if not isinstance(text, str):
        raise MeshIncomplete(f"ConfigMap {name} in namespace {namespace} has no key {key}")
    return text


def _yaml(title: str, text: str) -> object:
    try:
        documents = yamltext.load(title, text)
    except ConfigInvalid as error:
        raise MeshIncomplete(error.message) from error
    return documents[0] if documents else None


def _kind(document: object) -> str:
    return str(document.get("kind", "")) if isinstance(document, dict) else ""
