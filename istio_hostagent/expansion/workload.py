"""What a host of today's Istio is given: the files that a WorkloadGroup makes for it.

Byte for byte what `istioctl x workload entry configure` writes for the same objects, but for two
things: where that writes several inbound ports in an order of chance these are sorted, and a
proxyMetadata in an annotation is taken where the mesh has none, on which that gives up.
Source: istio istioctl/pkg/workload/workload.go.
"""

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from . import goyaml, protojson

ANNOTATION = "proxy.istio.io/config"
AUDIENCE = "istio-ca"
ROOT_CONFIG_MAP, ROOT_KEY = "istio-ca-root-cert", "root-cert.pem"
GATEWAY = "istio-eastwestgateway"
_NAME_LABEL = "service.istio.io/canonical-name"
_REVISION_LABEL = "service.istio.io/canonical-revision"
_NAME_LABELS = (_NAME_LABEL, "app.kubernetes.io/name", "app")
_REVISION_LABELS = (_REVISION_LABEL, "app.kubernetes.io/version", "version")
PORT = 15012
# What needs no quotes, as that program has it: nearly everything gets some.
_BARE = frozenset("\\w@%+=:,./-")
# Ports of the agent that are kept from capture; the status port is 15020 if nobody says so.
_KEPT = ("22", "15090", "15021")


class Group(NamedTuple):
    """A WorkloadGroup. `annotations`: of the object; `spec`: canonical (protojson)."""

    name: str
    namespace: str
    annotations: Mapping[str, str]
    spec: protojson.Message

    @property
    def account(self) -> str:
        """The service account of its members."""
        return str(self.spec.get("template", {}).get("serviceAccount") or "default")


class Wishes(NamedTuple):
    """What the operator says on the command line."""

    cluster_id: str = ""
    revision: str = ""
    istio_namespace: str = "istio-system"
    internal_address: str = ""
    external_address: str = ""
    captures_names: bool = True
    registers_itself: bool = False

    @property
    def is_revisioned(self) -> bool:
        """Whether the control plane has a name of its own."""
        return self.revision not in ("", "default")

    @property
    def control_plane(self) -> str:
        """The host name of istiod."""
        ending = f"-{self.revision}" if self.is_revisioned else ""
        return f"istiod{ending}.{self.istio_namespace}.svc"


class Files(NamedTuple):
    """Two of the files, as texts."""

    cluster_env: str
    mesh_yaml: str


def read_group(item: object) -> Group:
    """Return a WorkloadGroup; raises ValueError that names the field."""
    if not isinstance(item, Mapping):
        raise ValueError("is no WorkloadGroup: it has no fields")
    if item.get("kind") != "WorkloadGroup":
        raise ValueError(f"kind is {item.get('kind')!r}, and not WorkloadGroup")
    metadata = item.get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata is missing")
    for field in ("name", "namespace"):
        if not isinstance(metadata.get(field), str) or not metadata[field]:
            raise ValueError(f"metadata.{field} is missing")
    annotations = metadata.get("annotations") or {}
    spec = protojson.read("WorkloadGroup", item.get("spec") or {}, "spec")
    return Group(metadata["name"], metadata["namespace"], annotations, spec)


def build(group: Group, mesh: object, annotated: tuple[object, ...], wishes: Wishes) -> Files:
    """Return the files of a group. Raises ValueError that names the field.

    `mesh`: the mesh configuration as YAML has it; `annotated`: that of ANNOTATION of the object
    and of its spec, those that there are.
    """
    config, trust_domain = _mesh_config(mesh)
    if wishes.is_revisioned and not config.get("discoveryAddress"):
        config["discoveryAddress"] = f"{wishes.control_plane}:{PORT}"
    metadata = dict(config.get("proxyMetadata", {}))
    for each in annotated:
        config = protojson.apply("ProxyConfig", config, each, ANNOTATION)
        metadata |= config.get("proxyMetadata", {})
    config.pop("readinessProbe", None)
    if "probe" in group.spec:
        config["readinessProbe"] = group.spec["probe"]
    metadata |= _metadata(group, config, trust_domain, wishes)
    config["proxyMetadata"] = metadata
    mesh_yaml = goyaml.dump({"defaultConfig": config})
    environment = metadata | _environment(group, config, wishes)
    lines = sorted(f"{key}={quote(value)}" for key, value in environment.items())
    return Files("\n".join(lines) + "\n", mesh_yaml)


def annotations_of(group: Group) -> tuple[str, ...]:
    """Return the texts of ANNOTATION, that of the object first."""
    within = group.spec.get("metadata", {}).get("annotations", {})
    found = (each.get(ANNOTATION) for each in (group.annotations, within))
    return tuple(text for text in found if isinstance(text, str))


def hosts(address: str, wishes: Wishes) -> str:
    """Return the line of /etc/hosts for the control plane; "" for what is no address."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return ""
    return f"{address} {wishes.control_plane}\n"


def quote(text: str) -> str:
    """Return a value for a shell."""
    if text and all(each in _BARE for each in text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _mesh_config(mesh: object) -> tuple[protojson.Message, str]:
    if mesh is None:
        return {}, ""
    if not isinstance(mesh, Mapping):
        raise ValueError("the mesh configuration must have fields")
    given = mesh.get("defaultConfig", mesh.get("default_config"))
    config = protojson.read("ProxyConfig", given, "defaultConfig") if given is not None else {}
    domain = mesh.get("trustDomain") or mesh.get("trust_domain") or ""
    if not isinstance(domain, str):
        raise ValueError(f"trustDomain must be a text (in quotes), and is {domain!r}")
    return config, domain


def _metadata(
    group: Group, config: protojson.Message, trust_domain: str, wishes: Wishes
) -> dict[str, str]:
    template = group.spec.get("template", {})
    labels = dict(group.spec.get("metadata", {}).get("labels", {}))
    labels |= template.get("labels", {})
    service = _first(labels, _NAME_LABELS, group.name)
    revision = _first(labels, _REVISION_LABELS, "latest")
    labels |= {_NAME_LABEL: service, _REVISION_LABEL: revision}
    metadata = {
        "CANONICAL_SERVICE": service,
        "CANONICAL_REVISION": revision,
        "POD_NAMESPACE": group.namespace,
        "SERVICE_ACCOUNT": group.account,
        "TRUST_DOMAIN": trust_domain,
        "ISTIO_META_CLUSTER_ID": wishes.cluster_id,
        "ISTIO_META_MESH_ID": config.get("meshId", ""),
        "ISTIO_META_NETWORK": template.get("network", ""),
        "ISTIO_META_WORKLOAD_NAME": group.name,
        "ISTIO_METAJSON_LABELS": _json(dict(sorted(labels.items()))),
    }
    if ports := template.get("ports"):
        metadata["ISTIO_META_POD_PORTS"] = _json(
            [
                {**({"name": name} if name else {}), "containerPort": number, "protocol": ""}
                for name, number in sorted(ports.items())
            ]
        )
    if wishes.captures_names:
        metadata["ISTIO_META_DNS_CAPTURE"] = "true"
    if wishes.registers_itself:
        metadata["ISTIO_META_AUTO_REGISTER_GROUP"] = group.name
    return metadata


def _environment(group: Group, config: protojson.Message, wishes: Wishes) -> dict[str, str]:
    ports = group.spec.get("template", {}).get("ports", {})
    status_port = str(config.get("statusPort") or 15020)
    kept = [*_KEPT, *([] if status_port in _KEPT[1:] else [status_port])]
    environment = {
        "ISTIO_INBOUND_PORTS": ",".join(str(each) for each in sorted(ports.values())) or "*",
        "ISTIO_NAMESPACE": group.namespace,
        "ISTIO_SERVICE": f"{group.name}.{group.namespace}",
        "ISTIO_SERVICE_CIDR": "*",
        "ISTIO_LOCAL_EXCLUDE_PORTS": ",".join(kept),
        "SERVICE_ACCOUNT": group.account,
    }
    if wishes.is_revisioned:
        environment["CA_ADDR"] = f"{wishes.control_plane}:{PORT}"
    if wishes.internal_address:
        environment["ISTIO_SVC_IP"] = wishes.internal_address
    elif wishes.external_address:
        environment["ISTIO_SVC_IP"] = wishes.external_address
        environment["REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION"] = "true"
    return environment


def _first(labels: Mapping[str, str], names: tuple[str, ...], default: str) -> str:
    return next((labels[name] for name in names if name in labels), default)


def _json(value: Any) -> str:
    """JSON as Go writes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for each in "<>&\u2028\u2029":
        text = text.replace(each, f"\\u{ord(each):04x}")
    return text
