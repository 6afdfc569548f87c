"""`cert`: where the files say that the certificate of this host is, without an agent."""

from collections.abc import Mapping

from ...host import layers
from . import configuration


def perform(environment: Mapping[str, str], reading: layers.Reading) -> dict[str, str]:
    """Give the directory, and that in which somebody else renews it; raises ConfigInvalid."""
    _, config, _ = configuration.require(environment, reading)
    identity = config.identity
    renewed = {"renewed_in": identity.renewed_in, "renewed_by": identity.renewed_by}
    return {"directory": identity.output_dir, **renewed}
