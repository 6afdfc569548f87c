"""The kinds of objects that are asked for, and where the API server has them."""

import urllib.parse
from typing import NamedTuple


class Resource(NamedTuple):
    """One kind of object. `version`: `v1`, or group and version as `networking.istio.io/v1`."""

    version: str
    kind: str
    plural: str
    is_namespaced: bool = True


NAMESPACES = Resource("v1", "Namespace", "namespaces", is_namespaced=False)
SERVICES = Resource("v1", "Service", "services")
ENDPOINTS = Resource("v1", "Endpoints", "endpoints")
SECRETS = Resource("v1", "Secret", "secrets")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SERVICE_ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")
NODES = Resource("v1", "Node", "nodes", is_namespaced=False)
SERVICE_CIDRS = Resource("networking.k8s.io/v1", "ServiceCIDR", "servicecidrs", False)
WORKLOAD_GROUPS = Resource("networking.istio.io/v1", "WorkloadGroup", "workloadgroups")
WORKLOAD_ENTRIES = Resource("networking.istio.io/v1", "WorkloadEntry", "workloadentries")
SERVICE_ENTRIES = Resource("networking.istio.io/v1", "ServiceEntry", "serviceentries")


def path(resource: Resource, namespace: str = "", name: str = "", part: str = "") -> str:
    """Return the path of a collection, an object or with `part` a subresource.

    A namespaced collection without namespace is that of all namespaces.
    """
    group = "api" if "/" not in resource.version else "apis"
    parts = [group, resource.version]
    if namespace and resource.is_namespaced:
        parts += ["namespaces", _quoted(namespace)]
    parts.append(resource.plural)
    parts += [_quoted(each) for each in (name, part) if each]
    return "/" + "/".join(parts)


def title(resource: Resource, namespace: str, name: str) -> str:
    """Return an object in words: `Service dns-ilb in namespace kube-system`."""
    words = f"{resource.kind} {name}" if name else f"{resource.kind} objects"
    return f"{words} in namespace {namespace}" if namespace and resource.is_namespaced else words


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
