"""The answer of the worker that registers services."""

from typing import Any, NamedTuple

from . import checks, formats

_MOST = 1024
_OUTCOMES = ("registered", "changed", "unchanged", "others", "deregistered")


class Instance(NamedTuple):
    """One instance of a service in the registry, and what became of it."""

    id: str
    outcome: str


class Registered(NamedTuple):
    """All of them; `error`: it could not be done, or not to its end."""

    instances: tuple[Instance, ...] = ()
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Registered:
    answer = checks.read_object(value, "answer")
    if (error := checks.read_error(answer)) is not None:
        return Registered(error=error)
    found = answer.get("instances")
    if not isinstance(found, list) or len(found) > _MOST:
        raise checks.Wrong(f"instances is not a list of at most {_MOST}")
    return Registered(tuple(map(_read_instance, found)))


def _read_instance(value: Any) -> Instance:
    found = checks.read_object(value, "instance")
    return Instance(
        checks.read_printable(found, "instance", "id", 512),
        checks.read_matching(found, "instance", "outcome", "|".join(_OUTCOMES)),
    )


FORMAT = formats.Format(1 << 18, 4000, _read)
