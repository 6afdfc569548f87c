"""What the files say, for one verb."""

from collections.abc import Mapping

from ...config import model
from ...errors import ConfigInvalid, Problem
from ...host import controlgroups, layers
from .. import here, places, reload


def load(
    environment: Mapping[str, str], reading: layers.Reading
) -> tuple[reload.Loaded, model.HostFacts, places.Sources]:
    """Take the files that are being read; nothing is raised for what is wrong with them.

    Raises HostUnsupported, KernelBusy.
    """
    facts, sources = here.probe_host(environment)
    loaded = reload.load(reading.finish(), facts, ())
    if loaded.config is not None:
        owners = loaded.config.redirection.owners
        facts = model.of_named_proxy(facts, owners)
        facts = facts._replace(control_groups=controlgroups.find(owners.units))
    return loaded, facts, sources


def require(
    environment: Mapping[str, str], reading: layers.Reading
) -> tuple[reload.Loaded, model.Config, model.HostFacts]:
    """What was loaded, the configuration and the facts; ConfigInvalid with every problem."""
    loaded, facts, sources = load(environment, reading)
    if loaded.config is None:
        raise unusable(loaded, sources)
    return loaded, loaded.config, facts


def unusable(loaded: reload.Loaded, sources: places.Sources) -> ConfigInvalid:
    """Why there is no configuration: every problem, or that the files set nothing."""
    missing = Problem(
        sources.cluster, 0, f"no configuration yet: it and {sources.sidecar} set nothing"
    )
    return ConfigInvalid(loaded.problems or (missing,))
