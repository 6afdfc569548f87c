"""What the files say, for one verb."""

from collections.abc import Mapping

from ...config import model
from ...errors import ConfigInvalid, Problem
from .. import reload


def load(environment: Mapping[str, str]) -> tuple[reload.Loaded, model.HostFacts, reload.Sources]:
    """Read and judge the files; nothing is raised for what is wrong with them.

    Raises NotPermitted if only root can read them as they have to be read.
    """
    facts, sources = reload.probe_host(environment)
    return reload.load(sources, facts, ()), facts, sources


def require(environment: Mapping[str, str]) -> tuple[model.Config, model.HostFacts]:
    """The configuration, or ConfigInvalid with every problem."""
    loaded, facts, sources = load(environment)
    if loaded.config is None:
        missing = Problem(sources.cluster, 0, "no configuration yet: missing or empty")
        raise ConfigInvalid(loaded.problems or (missing,))
    return loaded.config, facts
