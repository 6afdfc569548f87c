"""The answer of the worker that asks the proxy which certificates it shows."""

from typing import Any, NamedTuple

from . import checks, formats

_MOST = 32
_SERIAL = r"-?[0-9a-f]{1,256}"


class Served(NamedTuple):
    """Serial numbers, hexadecimal, or why they are not known."""

    serials: tuple[str, ...] = ()
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> Served:
    answer = checks.read_object(value, "answer")
    if (error := checks.read_error(answer)) is not None:
        return Served(error=error)
    found = answer.get("serials")
    if not isinstance(found, list) or len(found) > _MOST:
        raise checks.Wrong(f"serials is not a list of at most {_MOST}")
    each_named = ({"serials": serial} for serial in found)
    return Served(
        tuple(checks.read_matching(each, "answer", "serials", _SERIAL) for each in each_named)
    )


FORMAT = formats.Format(1 << 14, 100, _read)
