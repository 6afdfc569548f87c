"""Which program is this host's proxy, and where it is looked for."""

from collections.abc import Callable

from ..config import model
from ..supervise import specs


def places(settings: model.ProxySettings, kind: model.ProxyKind) -> tuple[str, ...]:
    """The places where the program is looked for, the first one first."""
    found = specs.binary_candidates(settings, kind.value)
    if settings.kind is model.ProxyKind.AUTO:
        found = (*specs.binary_candidates(settings, specs.PILOT_AGENT), *found)
    return found


def find(
    settings: model.ProxySettings,
    is_program: Callable[[str], bool],
    *,
    is_envoy_kept: bool = False,
) -> tuple[model.ProxyKind, str | None]:
    """Which proxy this host runs, and its program: the first that is there, None if none is.

    `is_program` says whether one is there. `is_envoy_kept`: where either may run, an Envoy that is
    there comes first.
    """
    pilots = specs.binary_candidates(settings, specs.PILOT_AGENT)
    pilot = next(filter(is_program, pilots), None)
    if settings.kind is model.ProxyKind.PILOT_AGENT:
        return model.ProxyKind.PILOT_AGENT, pilot
    envoy = next(filter(is_program, specs.binary_candidates(settings, specs.ENVOY)), None)
    is_pilot = settings.kind is model.ProxyKind.AUTO and pilot is not None
    if is_pilot and not (is_envoy_kept and envoy is not None):
        return model.ProxyKind.PILOT_AGENT, pilot
    return model.ProxyKind.ENVOY, envoy
