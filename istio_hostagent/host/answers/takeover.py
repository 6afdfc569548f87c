"""The answer of the worker that takes out what Istio's scripts have left."""

from typing import Any, NamedTuple

from ...redirect import takeover
from . import checks, formats

_MOST_RULES = 1 << 24
_MOST_PLACES = 8
_LONGEST = 64


class Answer(NamedTuple):
    """What was there, what still is, and why."""

    found: tuple[takeover.Remains, ...]
    left: tuple[takeover.Remains, ...]
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Answer:
    answer = checks.read_object(value, "answer")
    error = checks.read_error(answer)
    return Answer(_read_places(answer, "found"), _read_places(answer, "left"), error)


def _read_places(answer: Any, key: str) -> tuple[takeover.Remains, ...]:
    found = answer.get(key)
    if not isinstance(found, list) or len(found) > _MOST_PLACES:
        raise checks.Wrong(f"answer.{key} is no list of at most {_MOST_PLACES}")
    return tuple(map(_read_place, found))


def _read_place(value: Any) -> takeover.Remains:
    place = checks.read_object(value, "place")
    return takeover.Remains(
        checks.read_number(place.get("rules"), "place.rules", 0, _MOST_RULES),
        checks.read_printable(place, "place", "author", _LONGEST),
        checks.read_printable(place, "place", "place", _LONGEST),
    )


# It is root, and its answer says how many rules there are, not which.
FORMAT = formats.Format(1 << 14, 256, _read)
