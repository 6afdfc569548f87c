"""The answer of the worker that keeps the certificate."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...identity import rotation
from . import checks, formats

# The last second of the year 9999: what certificates without an end carry (RFC 5280, 4.1.2.5).
LAST_MOMENT = 253402300799
_MAX_IDENTITY = 2048  # the longest SPIFFE ID
_SERIAL = r"-?[0-9a-f]{1,256}"
_VIA = ("", "token", "certificate")


class Certificate(NamedTuple):
    """What the certificate worker holds after it has done its work, or why it could not."""

    held: rotation.Report | None = None
    error: rotation.Failure | None = None
    is_obtained: bool = False  # by this call
    via: str = ""


def _read(value: Any, _request: Any) -> Certificate:
    answer = checks.read_object(value, "answer")
    found_error = checks.read_error(answer)
    error = rotation.Failure(*found_error) if found_error is not None else None
    found = answer.get("held")
    if found is None:
        return Certificate(error=error)
    held = checks.read_object(found, "held")
    via = held.get("via", "")
    if via not in _VIA:
        raise checks.Wrong("held.via is not known")
    report = rotation.Report(
        checks.read_printable(held, "held", "identity", _MAX_IDENTITY),
        checks.read_matching(held, "held", "serial", _SERIAL),
        _moment(held, "not_before"),
        _moment(held, "not_after"),
        _moment(held, "received"),
        _flag(held, "copied"),
    )
    if report.not_after <= report.not_before:
        raise checks.Wrong("held.not_after is not after held.not_before")
    return Certificate(report, error, _flag(held, "obtained"), via)


def _flag(found: Mapping[str, Any], key: str) -> bool:
    value = found.get(key, False)
    if not isinstance(value, bool):
        raise checks.Wrong(f"held.{key} is neither true nor false")
    return value


def _moment(found: Mapping[str, Any], key: str) -> float:
    """Seconds since 1970, as a number that every calendar function takes."""
    value = found.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise checks.Wrong(f"held.{key} is not a number")
    # Compared before it is converted: a whole number may be too long for a float.
    if not 0 <= value <= LAST_MOMENT:
        raise checks.Wrong(f"held.{key} is no moment from 1970 to 9999")
    return float(value)


FORMAT = formats.Format(1 << 20, 1000, _read)
