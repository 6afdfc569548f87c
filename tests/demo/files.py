"""The two small files of each host, and what their lines mean."""

from tests.demo import stage

MEANINGS = {
    "CA_ADDR": "who signs certificates",
    "TRUST_DOMAIN": "the mesh that is trusted",
    "ISTIO_NAMESPACE": "whose hosts these are",
    "ISTIO_SERVICE_CIDR": "outgoing traffic to here is captured",
    "ISTIO_HOSTAGENT_MESH_CIDR": "and encrypted: other members live here",
    "SERVICE_ACCOUNT": "who this host is",
    "ISTIO_INBOUND_PORTS": "incoming traffic to here is captured",
}


def cluster_env() -> dict[str, str]:
    """What both hosts share, by key."""
    return {
        "CA_ADDR": f"{stage.CA}:{stage.CA_PORT}",
        "TRUST_DOMAIN": stage.TRUST_DOMAIN,
        "ISTIO_NAMESPACE": stage.SERVICES,
        "ISTIO_SERVICE_CIDR": stage.NETWORK,
        "ISTIO_HOSTAGENT_MESH_CIDR": stage.NETWORK,
    }


def sidecar_env(member: stage.Member, *ports: int) -> dict[str, str]:
    """What is a host's own, by key."""
    return {
        "SERVICE_ACCOUNT": member.label,
        "ISTIO_INBOUND_PORTS": ",".join(map(str, ports)),
    }


def render(keys: dict[str, str]) -> str:
    """The text of an environment file."""
    return "".join(f"{key}={value}\n" for key, value in keys.items())


def explain(keys: dict[str, str]) -> list[tuple[str, str]]:
    """The lines of an environment file, each with what it means."""
    return [(f"{key}={value}", MEANINGS[key]) for key, value in keys.items()]
