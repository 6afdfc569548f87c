"""The answer of the worker that removes what says who this host is."""

from typing import Any, NamedTuple

from . import checks, formats


class Forgotten(NamedTuple):
    """What became of one file: gone by our hand, or why it is still there; else it was not."""

    is_removed: bool
    error: str


def _read(value: Any, request: Any) -> tuple[Forgotten, ...]:
    answer = checks.read_object(value, "answer")
    count = len(request["remove"])
    removed = checks.read_list(answer.get("removed"), "removed", count)
    errors = checks.read_list(answer.get("errors"), "errors", count)
    if not all(isinstance(each, bool) for each in removed):
        raise checks.Wrong("removed is neither true nor false")
    texts = [checks.read_words({"error": each}, "errors", "error") for each in errors]
    return tuple(map(Forgotten, removed, texts))


FORMAT = formats.Format(1 << 14, 64, _read)
