"""The answer of the worker that keeps the certificate."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...config import model
from ...identity import credentials, rotation
from . import checks, formats

_MAX_IDENTITY = 2048  # the longest SPIFFE ID
_SERIAL = r"-?[0-9a-f]{1,256}"
_VIA = ("", *credentials.KINDS, credentials.FILES, credentials.SOCKET)
_PROTOCOLS = ("", *(each.value for each in model.CaProtocol))


class Certificate(NamedTuple):
    """What the certificate worker holds after it has done its work, or why it could not."""

    held: rotation.Report | None = None
    error: rotation.Failure | None = None
    is_obtained: bool = False  # by this call
    via: str = ""
    protocol: str = ""
    looked: tuple[credentials.Credential, ...] = ()  # what may be shown, in this order


def _read(value: Any, _request: Any) -> Certificate:
    answer = checks.read_object(value, "answer")
    found_error = checks.read_error(answer)
    error = rotation.Failure(*found_error) if found_error is not None else None
    looked = _read_credentials(answer.get("credentials", []))
    found = answer.get("held")
    if found is None:
        return Certificate(error=error, looked=looked)
    held = checks.read_object(found, "held")
    via, protocol = held.get("via", ""), held.get("protocol", "")
    if via not in _VIA or protocol not in _PROTOCOLS:
        raise checks.Wrong("held.via or held.protocol is not known")
    report = rotation.Report(
        checks.read_printable(held, "held", "identity", _MAX_IDENTITY),
        checks.read_matching(held, "held", "serial", _SERIAL),
        checks.read_moment(held, "held", "not_before"),
        checks.read_moment(held, "held", "not_after"),
        checks.read_moment(held, "held", "received"),
        _flag(held, "copied"),
    )
    if report.not_after <= report.not_before:
        raise checks.Wrong("held.not_after is not after held.not_before")
    return Certificate(report, error, _flag(held, "obtained"), via, protocol, looked)


def _read_credentials(found: Any) -> tuple[credentials.Credential, ...]:
    if not isinstance(found, list) or len(found) > len(credentials.KINDS):
        raise checks.Wrong("credentials is not a list of the kinds there are")
    looked = []
    for value in found:
        each = checks.read_object(value, "credentials")
        via = each.get("via")
        if via not in credentials.KINDS:
            raise checks.Wrong("credentials.via is not known")
        until = (
            None if each.get("until") is None else checks.read_moment(each, "credentials", "until")
        )
        reason = checks.read_words(each, "credentials", "reason")
        looked.append(credentials.Credential(via, reason, until))
    return tuple(looked)


def _flag(found: Mapping[str, Any], key: str) -> bool:
    value = found.get(key, False)
    if not isinstance(value, bool):
        raise checks.Wrong(f"held.{key} is neither true nor false")
    return value


FORMAT = formats.Format(1 << 20, 1000, _read)
