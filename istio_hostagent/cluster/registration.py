"""Services of hosts outside a cluster, as objects in it: two forms, kept apart from each other.

`Classic`: a Service without selector and its Endpoints, as `istioctl register` of Istio 0.2 to 1.0
made them (istio/istio pilot/pkg/serviceregistry/kube/register.go); mended where that failed: no
address twice, a conflict is tried again on what is there then, ports and labels reach objects that
are there, what has become empty goes, an address that is not there is an error.
`Entries`: a ServiceEntry and a WorkloadEntry for each address, as since 1.6. Each address is an
object of its own, so that writers do not meet at all.

What others have put into an object stays; an object that others have made is never deleted.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..config import services
from ..errors import NotRegistered, RegistryRefused
from . import endpoints, failures, resources
from .client import Client
from .resources import Resource

# On objects that are ours to delete once they are empty.
MARK = "istio-hostagent/made-by"
MARKED = {MARK: "register"}
# The accounts whose certificates the service shows (Istio 0.2 to 1.0).
ACCOUNTS = "alpha.istio.io/kubernetes-serviceaccounts"
_LABEL = "app"
# An API server that goes away meanwhile is waited for; everything here may be done twice.
PATIENCE_S = 20.0
_PAUSE_S = 0.3
_ROUNDS = 20
Object = dict[str, Any]


class Form(Protocol):
    """One of the two forms."""

    def register(self, service: services.Registration) -> str:
        """Have it there; says `registered`, `changed` or `unchanged`. Raises HostAgentError."""

    def deregister(self, service: services.Registration) -> None:
        """Take it away, with these ports or, if none is named, with all; raises NotRegistered."""


def patiently(action: Callable[[], str | None]) -> str | None:
    """Do something that may be done twice, again while the API server is away for a moment.

    What was cut off may have been done: that nothing is left of it then is what was wanted.
    """
    until = time.monotonic() + PATIENCE_S
    was_cut_off = False
    while True:
        try:
            return action()
        except NotRegistered:
            if not was_cut_off:
                raise
            return None
        except failures.ClusterUnreachable:
            was_cut_off = True
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_S)


class Classic:
    """Service and Endpoints."""

    def __init__(self, client: Client, namespace: str) -> None:
        """In this namespace of a cluster."""
        self._client = client
        self._namespace = namespace

    def register(self, service: services.Registration) -> str:
        """As `Form.register`."""
        outcome = "unchanged"
        for _ in range(_ROUNDS):
            of_service = self._have_service(service)
            of_endpoints = self._have_endpoints(service)
            if outcome == "unchanged":
                # Whoever registers the first address makes both.
                outcome = of_endpoints if of_endpoints != "unchanged" else of_service
            # Somebody may have taken the last address, and the Service with it, in between.
            if self._find(resources.SERVICES, service.name) is not None:
                return outcome
        raise failures.ObjectConflict(f"{self._title(service)} is deleted again and again")

    def deregister(self, service: services.Registration) -> None:
        """As `Form.deregister`."""
        is_there = False
        numbers = frozenset(port.number for port in service.ports)

        def without(found: Object) -> Object | None:
            nonlocal is_there
            table = endpoints.read(found)
            is_there = endpoints.remove(table, service.address, numbers)
            return endpoints.write(found, table) if is_there else None

        try:
            left = self._client.change(resources.ENDPOINTS, service.name, self._namespace, without)
        except failures.ObjectMissing:
            # Somebody else has taken the last address, which may have been this one.
            left, is_there = {}, False
        if left and not left.get("subsets"):
            self._remove_empty(service, left)  # also what an earlier call was cut off before
        if not is_there:
            ports = "".join(f", port {number}" for number in sorted(numbers))
            raise NotRegistered(f"{self._title(service)} has no address {service.address}{ports}")

    def _remove_empty(self, service: services.Registration, left: Object) -> None:
        """What has no address any more, unless somebody is just about to give it one."""
        version = left["metadata"]["resourceVersion"]
        found = self._find(resources.SERVICES, service.name)
        if found is None or not _is_ours(found):
            return
        try:
            self._client.delete(
                resources.ENDPOINTS, service.name, self._namespace, version=version
            )
        except (failures.ObjectConflict, failures.ObjectMissing):
            return
        try:
            self._client.delete(
                resources.SERVICES,
                service.name,
                self._namespace,
                version=found["metadata"]["resourceVersion"],
            )
        except (failures.ObjectConflict, failures.ObjectMissing):
            return
        if self._find(resources.ENDPOINTS, service.name) is not None:
            self._create(resources.SERVICES, _again(found))

    def _have_service(self, service: services.Registration) -> str:
        found = self._find(resources.SERVICES, service.name)
        if found is None:
            ports = [_service_port(port) for port in service.ports]
            made = _object(resources.SERVICES, service, spec={"ports": ports})
            if self._create(resources.SERVICES, made):
                return "registered"
        return self._change(resources.SERVICES, service, _with_ports)

    def _have_endpoints(self, service: services.Registration) -> str:
        if self._find(resources.ENDPOINTS, service.name) is None:
            made = _object(resources.ENDPOINTS, service)
            table = endpoints.read(made)
            endpoints.add(table, service.address, service.ports)
            if self._create(resources.ENDPOINTS, endpoints.write(made, table)):
                return "registered"
        return self._change(resources.ENDPOINTS, service, _with_address)

    def _change(
        self,
        resource: Resource,
        service: services.Registration,
        make: Callable[[Object, services.Registration], Object],
    ) -> str:
        outcome = "unchanged"

        def changed(found: Object) -> Object | None:
            nonlocal outcome
            made = make(found, service)
            outcome = "unchanged" if made == found else "changed"
            return made if made != found else None

        try:
            self._client.change(resource, service.name, self._namespace, changed)
        except failures.ObjectMissing:
            return "changed"  # somebody has just deleted it: the next round sees that
        return outcome

    def _find(self, resource: Resource, name: str) -> Object | None:
        return self._client.find(resource, name, self._namespace)

    def _create(self, resource: Resource, made: Object) -> bool:
        """Whether it is this one that is there now, and not somebody else's."""
        try:
            self._client.create(resource, made, self._namespace)
        except failures.ObjectExists:
            return False
        return True

    def _title(self, service: services.Registration) -> str:
        return resources.title(resources.SERVICES, self._namespace, service.name)


class Entries:
    """ServiceEntry and WorkloadEntry."""

    def __init__(self, client: Client, namespace: str) -> None:
        """In this namespace of a cluster."""
        self._client = client
        self._namespace = namespace

    def register(self, service: services.Registration) -> str:
        """As `Form.register`."""
        there = self._client.find(resources.SERVICE_ENTRIES, service.name, self._namespace)
        if there is not None:
            _with_entry_ports(there, self._service_entry(service))  # nothing is done if it refuses
        outcome = self._have(
            resources.WORKLOAD_ENTRIES, self._entry(service), entry_name(service), _with_workload
        )
        for _ in range(_ROUNDS):
            of_service = self._have(
                resources.SERVICE_ENTRIES,
                self._service_entry(service),
                service.name,
                _with_entry_ports,
            )
            outcome = outcome if outcome != "unchanged" else of_service
            if self._client.find(resources.SERVICE_ENTRIES, service.name, self._namespace):
                return outcome
        raise failures.ObjectConflict(f"ServiceEntry {service.name} is deleted again and again")

    def deregister(self, service: services.Registration) -> None:
        """As `Form.deregister`; a workload goes as a whole."""
        was_there = self._delete_workload(entry_name(service))
        self._remove_empty(service)  # also what an earlier call was cut off before
        if not was_there:
            raise NotRegistered(
                f"there is no WorkloadEntry {entry_name(service)} in namespace {self._namespace}"
            )

    def _delete_workload(self, name: str) -> bool:
        """Whether it was there; raises RegistryRefused for somebody else's."""
        found = self._client.find(resources.WORKLOAD_ENTRIES, name, self._namespace)
        if found is None:
            return False
        if not _is_ours(found):
            raise RegistryRefused(
                f"WorkloadEntry {name} in namespace {self._namespace} was made by somebody else",
                hint="whoever made it deletes it",
            )
        try:
            self._client.delete(resources.WORKLOAD_ENTRIES, name, self._namespace)
        except failures.ObjectMissing:
            return False
        return True

    def _remove_empty(self, service: services.Registration) -> None:
        found = self._client.find(resources.SERVICE_ENTRIES, service.name, self._namespace)
        if found is None or not _is_ours(found) or self._workloads(service):
            return
        version = found["metadata"]["resourceVersion"]
        try:
            self._client.delete(
                resources.SERVICE_ENTRIES, service.name, self._namespace, version=version
            )
        except (failures.ObjectConflict, failures.ObjectMissing):
            return
        if self._workloads(service):
            self._have(
                resources.SERVICE_ENTRIES, _again(found), service.name, lambda item, _: item
            )

    def _workloads(self, service: services.Registration) -> tuple[Object, ...]:
        label = f"{_LABEL}={service.name}"
        return self._client.list(resources.WORKLOAD_ENTRIES, self._namespace, labels=label)

    def _have(
        self,
        resource: Resource,
        made: Object,
        name: str,
        merge: Callable[[Object, Object], Object],
    ) -> str:
        if self._client.find(resource, name, self._namespace) is None:
            try:
                self._client.create(resource, made, self._namespace)
            except failures.ObjectExists:
                pass
            else:
                return "registered"
        outcome = "unchanged"

        def changed(found: Object) -> Object | None:
            nonlocal outcome
            merged = merge(found, made)
            outcome = "unchanged" if merged == found else "changed"
            return merged if merged != found else None

        try:
            self._client.change(resource, name, self._namespace, changed)
        except failures.ObjectMissing:
            return "changed"
        return outcome

    def _entry(self, service: services.Registration) -> Object:
        labels = {**dict(service.labels), _LABEL: service.name}
        spec: Object = {"address": service.address, "labels": labels}
        spec["ports"] = {port.name: port.number for port in service.ports}
        if service.account:
            spec["serviceAccount"] = service.account
        made = _object(resources.WORKLOAD_ENTRIES, service, spec=spec)
        made["metadata"] |= {"name": entry_name(service), "labels": labels}
        return made

    def _service_entry(self, service: services.Registration) -> Object:
        spec = {
            "hosts": [f"{service.name}.{self._namespace}.svc.cluster.local"],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [_entry_port(port) for port in service.ports],
            "workloadSelector": {"labels": {_LABEL: service.name}},
        }
        return _object(resources.SERVICE_ENTRIES, service, spec=spec)


def entry_name(service: services.Registration) -> str:
    """The name of the WorkloadEntry of a service at an address."""
    return f"{service.name}-{service.address.replace(':', '-').strip('-')}".lower()


def _is_ours(item: Object) -> bool:
    annotations = item["metadata"].get("annotations") or {}
    return annotations.get(MARK) == MARKED[MARK]


def _annotations(service: services.Registration) -> dict[str, str]:
    found = {ACCOUNTS: service.account} if service.account else {}
    return found | dict(service.annotations)


def _object(
    resource: Resource, service: services.Registration, **content: Mapping[str, Any]
) -> Object:
    metadata: Object = {"name": service.name, "labels": dict(service.labels)}
    metadata["annotations"] = _annotations(service) | MARKED
    kind = {"apiVersion": resource.version, "kind": resource.kind}
    return {**kind, "metadata": metadata, **content}


def _again(item: Object) -> Object:
    """An object that was read, to be created anew."""
    kept = ("name", "labels", "annotations")
    metadata = {name: item["metadata"][name] for name in kept if name in item["metadata"]}
    return {**item, "metadata": metadata, "status": {}}


def _with_metadata(found: Object, service: services.Registration) -> Object:
    metadata = dict(found["metadata"])
    annotations = _annotations(service)
    there = (metadata.get("annotations") or {}).get(ACCOUNTS, "")
    if there and ACCOUNTS in annotations:
        # A list: each address may have an account of its own (istioctl register, 0.2 to 1.0).
        accounts = dict.fromkeys([*there.split(","), *annotations[ACCOUNTS].split(",")])
        annotations[ACCOUNTS] = ",".join(filter(None, accounts))
    for name, added in (("labels", dict(service.labels)), ("annotations", annotations)):
        if added:
            metadata[name] = {**(metadata.get(name) or {}), **added}
    return {**found, "metadata": metadata}


def _with_ports(found: Object, service: services.Registration) -> Object:
    """A Service with these ports as well; raises RegistryRefused for one that selects pods."""
    spec = found.get("spec") or {}
    if spec.get("selector"):
        raise RegistryRefused(
            f"Service {service.name} selects pods, and its addresses are theirs",
            hint="register under another name, or with --entry",
        )
    there = {each.get("port") for each in spec.get("ports") or ()}
    added = [_service_port(port) for port in service.ports if port.number not in there]
    _require_names(f"Service {service.name}", spec, map(_service_port, service.ports), "port")
    made = _with_metadata(found, service)
    if added:
        made["spec"] = {**spec, "ports": [*(spec.get("ports") or ()), *added]}
    return made


def _with_address(found: Object, service: services.Registration) -> Object:
    table = endpoints.read(found)
    made = _with_metadata(found, service)
    return (
        endpoints.write(made, table)
        if endpoints.add(table, service.address, service.ports)
        else made
    )


def _with_workload(found: Object, made: Object) -> Object:
    spec, wanted = found.get("spec") or {}, made["spec"]
    merged = {**spec, **wanted}
    for name in ("labels", "ports"):
        merged[name] = {**(spec.get(name) or {}), **wanted[name]}
    metadata = dict(found["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), **made["metadata"]["labels"]}
    return {**found, "metadata": metadata, "spec": merged}


def _with_entry_ports(found: Object, made: Object) -> Object:
    spec = found.get("spec") or {}
    there = {each.get("number") for each in spec.get("ports") or ()}
    added = [each for each in made["spec"]["ports"] if each["number"] not in there]
    title = f"ServiceEntry {found['metadata']['name']}"
    _require_names(title, spec, made["spec"]["ports"], "number")
    if not added:
        return found
    return {**found, "spec": {**spec, "ports": [*(spec.get("ports") or ()), *added]}}


def _require_names(title: str, spec: Object, wanted: Iterable[Object], key: str) -> None:
    """A name of a port means one number in a service; raises RegistryRefused for another one."""
    there = {each.get("name"): each.get(key) for each in spec.get("ports") or ()}
    for each in wanted:
        if there.get(each["name"], each[key]) != each[key]:
            raise RegistryRefused(
                f"in {title} port {there[each['name']]} has the name {each['name']} already",
                hint=f"give another one, as in {each['name']}-{each[key]}:{each[key]}",
            )


def _service_port(port: services.Port) -> Object:
    protocol = "UDP" if port.protocol == "udp" else "TCP"
    return {"name": port.name.lower(), "port": port.number, "protocol": protocol}


def _entry_port(port: services.Port) -> Object:
    return {"name": port.name, "number": port.number, "protocol": port.protocol.upper()}
