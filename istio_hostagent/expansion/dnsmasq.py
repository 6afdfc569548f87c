"""kubedns: the lines by which dnsmasq on a host answers for the control plane and the services.

Source: istio install/tools/setupMeshEx.sh at 0.2.7, 0.2.9, 0.8.0; dnsmasq(8), --server, --address.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .releases import Release

DOMAIN = "svc.cluster.local"


class Target(NamedTuple):
    """Where a component is reached; `port` only where that is not its own (a NodePort)."""

    address: str
    port: int = 0


def render(
    release: Release, targets: Mapping[str, Target], namespace: str, *, domain: str = DOMAIN
) -> str:
    """Return the file: `targets` by role (pilot, dns, mixer, ca)."""
    server = targets["dns"]
    port = f"#{server.port}" if server.port else ""
    lines = [f"server=/{domain}/{server.address}{port}"]
    names = _names(release)
    for ending in ("", f".{namespace}"):
        lines += [f"address=/{name}{ending}/{targets[role].address}" for name, role in names]
    return "\n".join(lines) + "\n"


def _names(release: Release) -> tuple[tuple[str, str], ...]:
    """The names of each release in its order, and whose they are."""
    if release.has_citadel:
        return (
            ("istio-policy", "mixer"),
            ("istio-telemetry", "mixer"),
            ("istio-pilot", "pilot"),
            ("istio-citadel", "ca"),
            ("istio-ca", "ca"),
        )
    if release.has_mixer_server:
        return (
            ("istio-mixer", "mixer"),
            ("mixer-server", "mixer"),
            ("istio-pilot", "pilot"),
            ("istio-ca", "ca"),
        )
    return ("istio-mixer", "mixer"), ("istio-pilot", "pilot"), ("istio-ca", "ca")
