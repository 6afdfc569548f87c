"""The answer of the worker that changes legacy tables."""

from typing import Any, NamedTuple

from . import checks, formats


class Changed(NamedTuple):
    """The tables are as asked, or why not."""

    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Changed:
    return Changed(checks.read_error(checks.read_object(value, "answer")))


FORMAT = formats.Format(1 << 14, 100, _read)
