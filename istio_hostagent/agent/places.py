"""Where the agent's own files lie. Light: every verb that works without an agent imports it."""

from collections.abc import Mapping
from typing import NamedTuple

# In the state directory: this host is joined; an attempt to join is under way; the guard's text;
# the address by which the mesh knows this host.
MARKER = "joined"
ATTEMPT = "joining"
GUARD = "guard.nft"
ADDRESS = "address"


class Places(NamedTuple):
    """The agent's own directories (systemd.exec(5): CONFIGURATION_, STATE_, RUNTIME_DIRECTORY)."""

    config_dir: str
    state_dir: str
    runtime_dir: str


def find_places(environment: Mapping[str, str]) -> Places:
    """Take systemd's variables, or the paths that its unit would have."""
    return Places(
        config_dir=environment.get("CONFIGURATION_DIRECTORY") or "/etc/istio-hostagent",
        state_dir=environment.get("STATE_DIRECTORY") or "/var/lib/istio-hostagent",
        runtime_dir=environment.get("RUNTIME_DIRECTORY") or "/run/istio-hostagent",
    )
