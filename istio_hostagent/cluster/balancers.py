"""Services through which hosts reach a control plane: applied, and where they lead by now."""

import ipaddress
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import HostAgentError
from ..expansion.loadbalancers import LoadBalancer
from . import failures, resources
from .client import Client, Object

CREATED, CHANGED, UNCHANGED = "created", "changed", "as it should be"
_PAUSE_S = 2.0
# So long after its last answer an API server may be away.
PATIENCE_S = 45.0
# What of a Service is ours; the rest is the cluster's and the cloud's.
_OURS = ("type", "ports", "selector")


class AddressesMissing(HostAgentError):
    """Services through which hosts reach the control plane have no address."""

    code = "addresses-missing"
    exit_status = 75


class Reached(NamedTuple):
    """Where a Service is reached: an address, a port if that is another than the Service's own.

    `name`: the host name that the address was looked up of, or "". `missing`: why there is no
    address yet, or "".
    """

    address: str = ""
    port: int = 0
    name: str = ""
    missing: str = ""


def apply(client: Client, wanted: Object) -> str:
    """Create a Service or make it what is wanted; return CREATED, CHANGED or UNCHANGED."""
    metadata = wanted["metadata"]
    name, namespace = metadata["name"], metadata["namespace"]
    if client.find(resources.SERVICES, name, namespace) is None:
        # Somebody else may be about to make it, too.
        with suppress(failures.ObjectExists):
            client.create(resources.SERVICES, wanted, namespace)
            return CREATED
    changes: list[bool] = []

    def make(found: Object) -> Object | None:
        made = _merged(found, wanted)
        changes.append(made != found)
        return made if made != found else None

    client.change(resources.SERVICES, name, namespace, make)
    return CHANGED if changes[-1] else UNCHANGED


def _merged(found: Object, wanted: Object) -> Object:
    """The Service that is there with our fields; a port keeps what was assigned to it."""
    spec = dict(found.get("spec", {}))
    ports = []
    for port in wanted["spec"]["ports"]:
        assigned = [each for each in spec.get("ports", ()) if _is_same(each, port)]
        ports.append({**(assigned[0] if assigned else {}), **port})
    spec |= {key: wanted["spec"][key] for key in _OURS} | {"ports": ports}
    metadata = dict(found["metadata"])
    for key in ("annotations", "labels"):
        metadata[key] = {**metadata.get(key, {}), **wanted["metadata"][key]}
    return {**found, "metadata": metadata, "spec": spec}


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    protocols = (one.get("protocol", "TCP"), other.get("protocol", "TCP"))
    return bool(one["port"] == other["port"] and protocols[0] == protocols[1])


def look(client: Client, balancer: LoadBalancer, node_address: str = "") -> Reached:
    """Return where a Service leads.

    `node_address`: that of a node, where the cluster has no load balancers and the Service's node
    ports count.
    """
    found = client.find(resources.SERVICES, balancer.name, balancer.namespace)
    if found is None:
        return Reached(missing="there is no such Service; `mesh load-balancers --apply` makes it")
    if node_address:
        return _node_port(found, balancer, node_address)
    entries = (found.get("status") or {}).get("loadBalancer", {}).get("ingress") or ()
    for entry in entries:
        if address := entry.get("ip"):
            return Reached(address)
        if name := entry.get("hostname"):
            return _look_up(name)
    if outside := found["spec"].get("externalIPs"):
        return Reached(outside[0])
    if found["spec"].get("type") != "LoadBalancer":
        kind = found["spec"].get("type")
        return Reached(missing=f"it is of type {kind}, and not LoadBalancer")
    return Reached(missing="no address yet: the cloud has not made its load balancer")


def wait(
    client: Client,
    wanted: Sequence[LoadBalancer],
    *,
    node_address: str,
    timeout_s: float,
    tell: Callable[[str], None],
) -> dict[str, Reached]:
    """Return where each Service leads, by role, once all of them do. Raises AddressesMissing.

    An API server that has answered may be away for a moment. `tell` gets a sentence for each that
    is missing, again when one of them changes.
    """
    end = time.monotonic() + timeout_s
    told: list[str] = []
    answered: float | None = None
    while True:
        found: dict[str, Reached] = {}
        try:
            found = {each.role: look(client, each, node_address) for each in wanted}
        except failures.ClusterUnreachable as error:
            now = time.monotonic()
            if answered is None or now >= min(end, answered + PATIENCE_S):
                raise
            missing = [error.message]
        else:
            answered = time.monotonic()
            missing = [_describe(each, found[each.role]) for each in wanted]
        missing = [each for each in missing if each]
        if not missing:
            return found
        if time.monotonic() >= end:
            raise AddressesMissing("; ".join(missing))
        for each in missing:
            if each not in told:
                tell(each)
        told = missing
        time.sleep(min(_PAUSE_S, timeout_s))


def _describe(balancer: LoadBalancer, found: Reached) -> str:
    if not found.missing:
        return ""
    return f"Service {balancer.name} in namespace {balancer.namespace}: {found.missing}"


def _node_port(found: Object, balancer: LoadBalancer, address: str) -> Reached:
    wanted = balancer.ports[-1]
    for port in found["spec"].get("ports", ()):
        is_it = port["port"] == wanted.number
        if is_it and port.get("protocol", "TCP") == wanted.protocol and port.get("nodePort"):
            return Reached(address, port["nodePort"])
    return Reached(missing=f"no node port for its port {wanted.number}")


def _look_up(name: str) -> Reached:
    """dnsmasq takes addresses; a load balancer of this kind has several, which may change."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Reached(missing=f"it is at {name}, a name that is not found here: {error.strerror}")
    addresses = sorted({ipaddress.ip_address(each[4][0]) for each in found}, key=_order)
    return Reached(str(addresses[0]), name=name)


def _order(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[int, int]:
    return address.version, int(address)
