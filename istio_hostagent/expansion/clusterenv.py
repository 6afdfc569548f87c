"""cluster.env of a classic mesh, as setupMeshEx.sh writes it for each release.

Source: istio install/tools/setupMeshEx.sh at 0.2.7, 0.4.0, 1.0.0.
"""

from collections.abc import Sequence

from .releases import Release

POLICIES = ("MUTUAL_TLS", "NONE")


def render(release: Release, networks: Sequence[str], namespace: str, policy: str) -> str:
    """Return the file; `networks`: those of the services, `policy`: one of POLICIES."""
    lines = [f"ISTIO_SERVICE_CIDR={','.join(networks)}"]
    if release.policy_key:
        lines += [f"ISTIO_SYSTEM_NAMESPACE={namespace}", f"{release.policy_key}={policy}"]
    return "\n".join(lines) + "\n"
