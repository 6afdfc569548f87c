"""The answer of the worker that says rules of firewalls again for captured connections."""

from typing import Any, NamedTuple

from . import checks, formats

_MOST, _LONGEST = 256, 1000


class Answer(NamedTuple):
    """In which chains rules of ours are now, what was not done and why, whether any changed."""

    opened: tuple[str, ...]
    refused: tuple[str, ...]
    has_changed: bool
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Answer:
    answer = checks.read_object(value, "answer")
    has_changed = answer.get("has_changed")
    if not isinstance(has_changed, bool):
        raise checks.Wrong("answer.has_changed is neither true nor false")
    error = checks.read_error(answer)
    return Answer(_lines(answer, "opened"), _lines(answer, "refused"), has_changed, error)


def _lines(answer: Any, key: str) -> tuple[str, ...]:
    found = answer.get(key)
    if not isinstance(found, list) or len(found) > _MOST:
        raise checks.Wrong(f"answer.{key} is no list of at most {_MOST}")
    return tuple(checks.read_printable({"line": each}, key, "line", _LONGEST) for each in found)


# It is root, and repeats what a program said in one line of each refusal.
FORMAT = formats.Format(1 << 18, 1024, _read)
