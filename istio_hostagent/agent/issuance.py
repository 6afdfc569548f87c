"""What the certificate worker is asked, and what it answers, as values."""

from typing import Any

from ..config import model

# How long one conversation with the CA may take.
TIMEOUT_S = 20.0


def make_request(settings: model.IdentitySettings, operation: str, store: str) -> dict[str, Any]:
    """The certificate worker's request, without any secret in it."""
    return {
        "op": operation,
        "ca_host": settings.ca_host,
        "ca_port": settings.ca_port,
        "server_name": settings.server_name,
        "spiffe_id": settings.spiffe_id,
        "cluster_id": settings.cluster_id,
        "token_file": settings.token_file,
        "root_file": settings.root_file,
        "has_public_roots": settings.has_public_roots,
        "output_dir": settings.output_dir,
        "store_dir": store,
        "ttl_s": int(settings.ttl_s),
        "grace_ratio": settings.grace_ratio,
        "headers": [list(header) for header in settings.headers],
        "timeout_s": TIMEOUT_S,
    }
