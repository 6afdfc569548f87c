"""The answer of the worker that finds out who has a socket."""

from typing import Any, NamedTuple

from . import checks, formats

_LONGEST = 64
_MOST_PIDS = 1 << 22  # PID_MAX_LIMIT


class PortOwner(NamedTuple):
    """Names are empty, and the pid is 0, where nothing is known."""

    user: str
    pid: int
    program: str


def _read(value: Any, _request: Any) -> PortOwner:
    answer = checks.read_object(value, "answer")
    pid = checks.read_number(answer.get("pid"), "answer.pid", 0, _MOST_PIDS)
    return PortOwner(_read_name(answer, "user"), pid, _read_name(answer, "program"))


def _read_name(answer: Any, key: str) -> str:
    """A name that others have chosen: what cannot be printed is no part of it."""
    found = answer.get(key)
    if not isinstance(found, str):
        raise checks.Wrong(f"answer.{key} is not a text")
    return "".join(each if each.isprintable() else "?" for each in found)[:_LONGEST]


FORMAT = formats.Format(4096, 16, _read)
