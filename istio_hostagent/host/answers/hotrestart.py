"""The answer of the worker that looks after an Envoy which takes over from another."""

from typing import Any, NamedTuple

from . import checks, formats

# As in 11.104; one that cannot be taken over from says "disabled".
_VERSION = r"[0-9a-z.]{1,40}"


class HotRestart(NamedTuple):
    """What was asked for, as far as it was; `error`: it could not be done or is not known."""

    is_ready: bool = False
    running: str = ""
    offered: str = ""
    error: checks.Error | None = None


def _read(value: Any, request: Any) -> HotRestart:
    answer = checks.read_object(value, "answer")
    if (error := checks.read_error(answer)) is not None:
        return HotRestart(error=error)
    match request["task"]:
        case "await":
            if not isinstance(answer.get("is_ready"), bool):
                raise checks.Wrong("answer.is_ready is not true or false")
            return HotRestart(is_ready=answer["is_ready"])
        case "compare":
            return HotRestart(
                running=checks.read_matching(answer, "answer", "running", _VERSION),
                offered=checks.read_matching(answer, "answer", "offered", _VERSION),
            )
        case _:
            return HotRestart()


FORMAT = formats.Format(4096, 8, _read)
