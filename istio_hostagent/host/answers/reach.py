"""The answer of the worker that looks at the way to the control plane."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from . import checks, formats

_MOST_ROOTS = 1024
_MOST_ADDRESSES = 8
_LONGEST_S = 3600
_STAGES = "name|connection|tls|answer|done"


class Roots(NamedTuple):
    """By which the CA is known: how many, when the last of them ends, and why there is none."""

    number: int
    until: float | None
    error: str


class Token(NamedTuple):
    """What is wrong with the file, or nothing, and until when the token says that it is good."""

    error: str
    until: float | None


class Call(NamedTuple):
    """How far one call got (`stage`), and what was seen on the way.

    `name`: by which the other side is known. `since`, `until`: of the certificate that it shows,
    `shown` as whom, where it is not known. `date`: its clock, where it tells.
    """

    addresses: tuple[str, ...]
    address: str
    took_s: float
    stage: str
    error: str
    name: str
    since: float | None
    until: float | None
    date: float | None
    shown: str

    @property
    def is_done(self) -> bool:
        """Whether it got to the end."""
        return self.stage == "done"


class Reached(NamedTuple):
    """Everything; `calls` in the order of the request."""

    roots: Roots
    token: Token | None
    calls: tuple[Call, ...]


def _read(value: Any, request: Any) -> Reached:
    answer = checks.read_object(value, "answer")
    roots = checks.read_object(answer.get("roots"), "roots")
    found = answer.get("token")
    return Reached(
        Roots(
            checks.read_number(roots.get("number"), "roots.number", 0, _MOST_ROOTS),
            _moment(roots, "roots", "until"),
            checks.read_words(roots, "roots", "error"),
        ),
        None if found is None else _read_token(checks.read_object(found, "token")),
        tuple(
            map(_read_call, checks.read_list(answer.get("calls"), "calls", len(request["calls"])))
        ),
    )


def _read_token(found: Mapping[str, Any]) -> Token:
    return Token(checks.read_words(found, "token", "error"), _moment(found, "token", "until"))


def _read_call(value: Any) -> Call:
    found = checks.read_object(value, "call")
    addresses = found.get("addresses")
    if not isinstance(addresses, list) or len(addresses) > _MOST_ADDRESSES:
        raise checks.Wrong(f"call.addresses is not a list of at most {_MOST_ADDRESSES}")
    named = ({"address": each} for each in addresses)
    took_s = found.get("took_s")
    if not isinstance(took_s, int | float) or not 0 <= took_s <= _LONGEST_S:
        raise checks.Wrong("call.took_s is no length of time")
    return Call(
        addresses=tuple(checks.read_words(each, "call", "address") for each in named),
        address=checks.read_words(found, "call", "address"),
        took_s=float(took_s),
        stage=checks.read_matching(found, "call", "stage", _STAGES),
        error=checks.read_words(found, "call", "error"),
        name=checks.read_words(found, "call", "name"),
        since=_moment(found, "call", "since"),
        until=_moment(found, "call", "until"),
        date=_moment(found, "call", "date"),
        shown=checks.read_words(found, "call", "shown"),
    )


def _moment(found: Mapping[str, Any], place: str, key: str) -> float | None:
    return None if found.get(key) is None else checks.read_moment(found, place, key)


FORMAT = formats.Format(1 << 16, 2000, _read)
