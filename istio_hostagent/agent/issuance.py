"""What the certificate worker is asked, and what it answers, as values."""

from typing import Any

from ..config import model

# How long one conversation with the CA may take, at most.
TIMEOUT_S = 20.0


def make_request(
    settings: model.IdentitySettings, operation: str, store: str, call_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """The certificate worker's request, without any secret in it."""
    return {
        "op": operation,
        "ca_host": settings.ca_host,
        "ca_port": settings.ca_port,
        "server_name": settings.server_name,
        "server_names": list(settings.server_names),
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
        "named_parts": list(settings.named_parts),
        "protocols": [each.value for each in settings.protocols],
        "token_command": list(settings.token_command),
        "metadata_kind": settings.metadata.value if settings.metadata else "",
        "metadata_address": settings.metadata_host,
        "provisioned_dir": settings.provisioned_dir,
        "mounted_dir": settings.mounted_dir,
        "secret_source": settings.secret_source,
        "is_workload_api": settings.is_workload_api,
        "key_kind": settings.key_kind.value if settings.key_kind else "",
        "is_key_traditional": None if settings.is_pkcs8 is None else not settings.is_pkcs8,
        "timeout_s": call_s,
    }
