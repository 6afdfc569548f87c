"""The networks from which a cluster gives addresses to its services, told by the API server.

Its ServiceCIDR objects say it (from 1.33 on in every cluster). Where there are none, or this user
may not see them, its own objection to an impossible address does: a Service that asks for one is
offered as a dry run, so nothing is ever created.
Source: kubernetes.io, "Virtual IPs and Service Proxies", IP address management;
pkg/registry/core/service/{storage/alloc,ipallocator/interfaces}.go.
"""

import ipaddress
import re
from typing import NamedTuple

from . import failures, resources
from .client import Client

# In no network of services: the whole of it is reserved for documentation (RFC 5737, RFC 3849).
_IMPOSSIBLE = ("192.0.2.1", "2001:db8::1")
_NETWORK = re.compile(r"[0-9a-fA-F.:]+/\d+")
_NAMESPACE = "default"


class Told(NamedTuple):
    """The networks as texts, and who says so; no networks: `how` is why not."""

    networks: tuple[str, ...]
    how: str


def ask(client: Client) -> Told:
    """Return the networks of services; raises ClusterUnreachable."""
    listed = _listed(client)
    return listed if listed.networks else _objected(client, listed.how)


def _listed(client: Client) -> Told:
    try:
        found = client.list(resources.SERVICE_CIDRS)
    except failures.ObjectMissing:
        return Told((), "the API server has no ServiceCIDR objects")
    except failures.ClusterRefused:
        return Told((), "this user may not list ServiceCIDR objects")
    networks = [text for each in found for text in each.get("spec", {}).get("cidrs", ())]
    return Told(tuple(dict.fromkeys(networks)), "ServiceCIDR objects of the API server")


def _objected(client: Client, before: str) -> Told:
    networks: list[str] = []
    refusal = ""
    for address in _IMPOSSIBLE:
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"generateName": "istio-hostagent-", "namespace": _NAMESPACE},
            "spec": {"clusterIP": address, "ports": [{"port": 1}]},
        }
        try:
            client.create(resources.SERVICES, service, _NAMESPACE, dry_run=True)
        except failures.ObjectInvalid as error:
            networks += read_objection(error.message)
        except failures.ClusterRefused:
            refusal = f", nor create Services in namespace {_NAMESPACE}"
    how = "the API server's objection to an impossible address"
    if networks:
        return Told(tuple(dict.fromkeys(networks)), how)
    return Told((), f"{before}{refusal or ', and its objection to an address names no network'}")


def read_objection(text: str) -> list[str]:
    """Return the networks that an API server's objection to an address names."""
    _, _, behind = text.partition("The range of valid IPs is ")
    found = []
    for each in _NETWORK.findall(behind):
        try:
            found.append(str(ipaddress.ip_network(each)))
        except ValueError:
            continue
    return found
