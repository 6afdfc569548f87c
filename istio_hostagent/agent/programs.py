"""Which program is this host's proxy, and where it is looked for."""

import os

from ..config import model
from ..supervise import specs


def places(settings: model.ProxySettings, kind: model.ProxyKind) -> tuple[str, ...]:
    """The places where the program is looked for, the first one first."""
    found = specs.binary_candidates(settings, kind.value)
    if settings.kind is model.ProxyKind.AUTO:
        found = (*specs.binary_candidates(settings, specs.PILOT_AGENT), *found)
    return found


def find(
    settings: model.ProxySettings, *, is_envoy_kept: bool = False
) -> tuple[model.ProxyKind, str | None]:
    """Which proxy this host runs, and its program: the first that is there, None if none is.

    `is_envoy_kept`: where either may run, an Envoy that is there comes first.
    """
    pilot = _first_program(specs.binary_candidates(settings, specs.PILOT_AGENT))
    if settings.kind is model.ProxyKind.PILOT_AGENT:
        return model.ProxyKind.PILOT_AGENT, pilot
    envoy = _first_program(specs.binary_candidates(settings, specs.ENVOY))
    is_pilot = settings.kind is model.ProxyKind.AUTO and pilot is not None
    if is_pilot and not (is_envoy_kept and envoy is not None):
        return model.ProxyKind.PILOT_AGENT, pilot
    return model.ProxyKind.ENVOY, envoy


def _first_program(candidates: tuple[str, ...]) -> str | None:
    return next(
        (path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), None
    )
