"""The checks of the fields of an answer, from JSON to values that are safe to use.

Of what passes, every number can be computed with and every text printed in one line. Whether it is
*true* is not known here.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_ERRNO = 4095
_MAX_WORDS = 1000
# The last second of the year 9999: what certificates without an end carry (RFC 5280, 4.1.2.5).
LAST_MOMENT = 253402300799
_CODE = r"[a-z][a-z-]{0,63}"


class Wrong(ValueError):
    """An answer does not fit; the text names the field."""


class Error(NamedTuple):
    """Why a worker could not do its work: a code of `errors`, a sentence, and what to do."""

    code: str
    message: str
    hint: str


def read_error(answer: Mapping[str, Any]) -> Error | None:
    """The error that an answer carries, if any; raises Wrong, like all below."""
    found = answer.get("error")
    if found is None:
        return None
    error = read_object(found, "error")
    return Error(
        read_matching(error, "error", "code", _CODE),
        read_words(error, "error", "message"),
        read_words(error, "error", "hint"),
    )


def read_object(value: Any, name: str) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise Wrong(f"{name} is not an object")
    return value


def read_list(value: Any, name: str, length: int) -> list[Any]:
    """A list of exactly this length."""
    if not isinstance(value, list) or len(value) != length:
        raise Wrong(f"{name} is not a list of {length}")
    return value


def _text(found: Mapping[str, Any], place: str, key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise Wrong(f"{place}.{key} is not a text")
    return value


def read_matching(found: Mapping[str, Any], place: str, key: str, form: str) -> str:
    """A text that matches this pattern as a whole; it is compiled with its first use."""
    value = _text(found, place, key)
    if not re.fullmatch(form, value):
        raise Wrong(f"{place}.{key} does not have its form")
    return value


def read_printable(found: Mapping[str, Any], place: str, key: str, longest: int) -> str:
    """One line for people that is not empty."""
    value = _text(found, place, key)
    if not value.isprintable() or not 0 < len(value) <= longest:
        raise Wrong(f"{place}.{key} is not a line of at most {longest} characters")
    return value


def read_words(found: Mapping[str, Any], place: str, key: str) -> str:
    """A sentence for people, perhaps with words of a CA: on one line, whatever it was."""
    text = _text(found, place, key)
    text = text if len(text) <= _MAX_WORDS else text[: _MAX_WORDS - 1] + "…"
    return "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)


def read_number(value: Any, name: str, least: int, most: int) -> int:
    """A whole number of this range."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Wrong(f"{name} is not a number from {least} to {most}")
    return value


def read_moment(found: Mapping[str, Any], place: str, key: str) -> float:
    """Seconds since 1970, as a number that every calendar function takes."""
    value = found.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Wrong(f"{place}.{key} is not a number")
    # Compared before it is converted: a whole number may be too long for a float.
    if not 0 <= value <= LAST_MOMENT:
        raise Wrong(f"{place}.{key} is no moment from 1970 to 9999")
    return float(value)
