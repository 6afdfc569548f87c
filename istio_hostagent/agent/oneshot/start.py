"""A verb that needs the configuration: what there is to do first, and then the verb.

The worker that reads the files of istio-proxy takes about as long as it takes to load the rest of
the verb. So it is started before that, and this module imports what that needs and no more.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ...host import instances, layers, processes, users
from .. import places


def perform(verb: str, environment: Mapping[str, str], **options: object) -> Any:
    """Call `perform` of the verb's own module of this package, and return what it returns."""
    reading = begin(environment)
    module = importlib.import_module(f".{verb}", __package__)
    return module.perform(environment, reading, **options)


def begin(environment: Mapping[str, str]) -> layers.Reading:
    """Have the files read; raises HostUnsupported, and NotPermitted if that takes root."""
    own = instances.find_places(environment)
    sources = places.find_sources(environment, own.config_dir, instances.own())
    return layers.Reading(sources.paths, processes.User(*users.probe_user()))
