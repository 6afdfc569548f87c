"""What this machine is at the start of a process, and where its files lie."""

from collections.abc import Mapping

from ..config import model
from ..host import facts, instances
from . import places


def probe_host(environment: Mapping[str, str]) -> tuple[model.HostFacts, places.Sources]:
    """What this machine is and where its files lie; raises HostUnsupported, KernelBusy."""
    own = instances.find_places(environment)
    found = facts.probe_facts(
        state_dir=own.state_dir,
        runtime_dir=own.runtime_dir,
        session_ports=places.find_session_ports(environment),
    )
    return found, places.find_sources(environment, own.config_dir, instances.own())
