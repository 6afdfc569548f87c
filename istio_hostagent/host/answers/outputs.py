"""The answer of the worker that writes the certificate for other programs."""

from typing import Any, NamedTuple

from . import checks, formats


class Written(NamedTuple):
    """What became of one output; `error` is empty where it is as it is to be."""

    is_changed: bool
    error: str


class Outputs(NamedTuple):
    """All of them, in the order asked for; `error`: there was nothing to write.

    Or what was `removed` that is not wanted any more, and sentences about what was `left`, being
    somebody's by now, and about what `failed`.
    """

    outputs: tuple[Written, ...] = ()
    error: checks.Error | None = None
    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def _read(value: Any, request: Any) -> Outputs:
    answer = checks.read_object(value, "answer")
    if (error := checks.read_error(answer)) is not None:
        return Outputs(error=error)
    if "kept" in request:
        return Outputs(
            removed=_read_texts(answer, "removed"),
            left=_read_texts(answer, "left"),
            failed=_read_texts(answer, "failed"),
        )
    found = checks.read_list(answer.get("outputs"), "outputs", len(request["outputs"]))
    return Outputs(tuple(map(_read_written, found)))


def _read_texts(answer: Any, key: str) -> tuple[str, ...]:
    found = answer.get(key)
    if not isinstance(found, list):
        raise checks.Wrong(f"{key} is not a list")
    return tuple(checks.read_words({key: each}, "answer", key) for each in found)


def _read_written(value: Any) -> Written:
    found = checks.read_object(value, "output")
    is_changed = found.get("is_changed")
    if not isinstance(is_changed, bool):
        raise checks.Wrong("output.is_changed is neither true nor false")
    return Written(is_changed, checks.read_words(found, "output", "error"))


FORMAT = formats.Format(1 << 17, 300, _read)
