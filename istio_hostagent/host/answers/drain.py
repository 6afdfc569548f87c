"""The answer of the worker that lets a proxy drain."""

from typing import Any

from . import checks, formats


def _read(value: Any, _request: Any) -> checks.Error | None:
    return checks.read_error(checks.read_object(value, "answer"))


FORMAT = formats.Format(4096, 8, _read)
