"""The answer of the worker that takes over from another agent's service."""

from typing import Any, NamedTuple

from . import checks, formats


class Answer(NamedTuple):
    """How long new connections were held until then, in seconds, and what went wrong.

    `is_held`: some still are.
    """

    held_s: float
    is_held: bool
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Answer:
    answer = checks.read_object(value, "answer")
    held_s = checks.read_moment(answer, "answer", "held_s")
    if not isinstance(answer.get("is_held"), bool):
        raise checks.Wrong("is_held is neither true nor false")
    return Answer(held_s, answer["is_held"], checks.read_error(answer))


FORMAT = formats.Format(4096, 16, _read)
