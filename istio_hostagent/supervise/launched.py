"""What was started, as JSON: how an agent recognises the proxy that the one before it has left.

Not here: where it is written. What a version before this one does not say has its default; what
cannot be read is an error, since nobody would know what it is that runs.
"""

from typing import Any

from . import liveness, specs


def render(spec: specs.ProcessSpec) -> dict[str, Any]:
    """Return a value for JSON."""
    return spec._asdict()


def parse(value: Any) -> specs.ProcessSpec:
    """Return what `render` was given; raises ValueError."""
    try:
        told = {name: value[name] for name in specs.ProcessSpec._fields if name in value}
        given = {name: _frozen(each) for name, each in told.items()}
        doors = tuple(liveness.Door(*each) for each in given.get("doors", ()))
        control_plane = given.get("control_plane")
        given |= {
            "doors": doors,
            "admin": specs.Admin(*given.get("admin", ())),
            "control_plane": control_plane and liveness.Door(*control_plane),
        }
        return specs.ProcessSpec(**given)
    except (TypeError, KeyError) as error:
        raise ValueError(f"not what was started: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
