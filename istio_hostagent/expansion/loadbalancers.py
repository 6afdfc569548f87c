"""The Services by which hosts outside the cluster reach a classic control plane.

As mesh-expansion.yaml has them, with what never worked mended: the Service of kube-dns is where
its pods are (0.2), and every port is there that the host's agent of that release asks for (0.3:
15003, 0.7: 15010).
Source: istio install/kubernetes/mesh-expansion.yaml at 0.2.7, 0.3.0, 0.4.0, 0.5.1, 0.7.1, 0.8.0.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .releases import Release

INTERNAL = {"cloud.google.com/load-balancer-type": "internal"}
DNS_NAMESPACE = "kube-system"


class Port(NamedTuple):
    """A port of a Service; a Service of one port needs no name for it."""

    number: int
    name: str = ""
    protocol: str = "TCP"


class LoadBalancer(NamedTuple):
    """A Service of type LoadBalancer, for one component of the control plane."""

    role: str  # pilot, dns, mixer or ca
    name: str
    namespace: str
    selector: dict[str, str]
    ports: tuple[Port, ...]


def of_release(release: Release, namespace: str) -> tuple[LoadBalancer, ...]:
    """Return the four Services, with the control plane in `namespace`."""
    mixer = {"istio": "mixer"}
    if release.has_citadel:
        mixer["istio-mixer-type"] = "telemetry"
    authority = "citadel" if release.has_citadel else "istio-ca"
    mixer_port = 9091 if release.line <= (0, 3) else 15004
    return (
        LoadBalancer(
            "pilot", "istio-pilot-ilb", namespace, {"istio": "pilot"}, _pilot_ports(release)
        ),
        LoadBalancer(
            "dns", "dns-ilb", DNS_NAMESPACE, {"k8s-app": "kube-dns"}, (Port(53, "", "UDP"),)
        ),
        LoadBalancer("mixer", "mixer-ilb", namespace, mixer, (Port(mixer_port),)),
        LoadBalancer("ca", f"{authority}-ilb", namespace, {"istio": authority}, (Port(8060),)),
    )


def _pilot_ports(release: Release) -> tuple[Port, ...]:
    plain = Port(8080, "http-pilot")
    if release.line == (0, 2):
        return (Port(8080),)
    if release.line == (0, 3):
        return (Port(15003, "https-pilot"), plain)
    if release.line == (0, 4):
        return (Port(15003),)
    if release.line <= (0, 6):
        return (Port(15003, "https-pilot"), plain)
    discovery = (Port(15005, "https-pilot"), plain, Port(15010, "grpc-pilot"))
    return discovery if release.line == (0, 7) else (*discovery, Port(15011, "tls-grpc-pilot"))


def service(balancer: LoadBalancer, annotations: Mapping[str, str]) -> dict[str, Any]:
    """Return it as an object of Kubernetes."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": balancer.name,
            "namespace": balancer.namespace,
            "annotations": dict(annotations),
            "labels": dict(balancer.selector),
        },
        "spec": {
            "type": "LoadBalancer",
            "ports": [_port(each) for each in balancer.ports],
            "selector": dict(balancer.selector),
        },
    }


def _port(port: Port) -> dict[str, Any]:
    named = {"name": port.name} if port.name else {}
    return {"port": port.number, "protocol": port.protocol, **named}
