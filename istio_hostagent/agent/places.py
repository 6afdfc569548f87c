"""Where the agent's own files lie, and what this machine is. Light: every verb imports it."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import model
from ..host import facts
from . import reload

# In the state directory: this host is joined; an attempt to join is under way; the guard's text;
# the address by which the mesh knows this host.
MARKER = "joined"
ATTEMPT = "joining"
GUARD = "guard.nft"
ADDRESS = "address"


@dataclass(frozen=True)
class Places:
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


def probe_host(environment: Mapping[str, str]) -> tuple[model.HostFacts, reload.Sources]:
    """What this machine is and where its files lie; raises HostUnsupported."""
    places = find_places(environment)
    found = facts.probe_facts(state_dir=places.state_dir, runtime_dir=places.runtime_dir)
    return found, reload.find_sources(environment, places.config_dir)
