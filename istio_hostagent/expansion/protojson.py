"""Messages of Istio's API as JSON has them, read and made canonical as Istio's own tools do.

A message is a dict by JSON name, with nothing in it that has its default. Numbers may come as
texts, enumerations as numbers, names as in the .proto file. Fields that nobody knows are passed
over.
Source: github.com/golang/protobuf 1.5 jsonpb/{decode,encode}.go; protobuf.dev, "ProtoJSON format".
"""

import re
from collections.abc import Mapping
from typing import Any

from .messages import ENUMERATIONS, MESSAGES, ONE_OF

_LIMITS = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
}
_DEFAULTS = {"string": "", "bool": False, "int32": 0, "uint32": 0, "int64": 0, "double": 0}
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
Message = dict[str, Any]


def read(kind: str, value: object, where: str = "") -> Message:
    """Return a message of this kind, canonical.

    `where`: the field in which it is, for the message of the ValueError that is raised.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or kind} must have fields")
    read_fields: Message = {}
    for name, kind_of_field in MESSAGES[kind].items():
        json_name = _camel(name)
        given = value.get(json_name)
        if given is None:
            given = value.get(name)
        if given is None:
            continue
        path = f"{where}.{json_name}" if where else json_name
        made = _read_field(kind_of_field, given, path)
        group = next((each for each in ONE_OF.get(kind, ()) if name in each), ())
        for other in group:
            read_fields.pop(_camel(other), None)
        # Which of several is there is said even by a default.
        if group or not _is_default(kind_of_field, made):
            read_fields[json_name] = made
    return read_fields


def apply(kind: str, message: Message, value: object, where: str = "") -> Message:
    """Return `message` with those fields that `value` has: each replaces the one before whole."""
    made = read(kind, value, where)
    kept = dict(message)
    for group in ONE_OF.get(kind, ()):
        if any(_camel(name) in made for name in group):
            for name in group:
                kept.pop(_camel(name), None)
    assert isinstance(value, Mapping)
    for name in MESSAGES[kind]:
        # What says a default takes away what was there.
        if value.get(name) is not None or value.get(_camel(name)) is not None:
            kept.pop(_camel(name), None)
    return kept | made


def _read_field(kind: str, value: object, where: str) -> Any:
    shape, _, of = kind.partition(" ")
    if shape == "list":
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        return [_read_one(of, each, where) for each in value]
    if shape == "map":
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must have fields")
        return {str(key): _read_one(of, each, f"{where}.{key}") for key, each in value.items()}
    return _read_one(kind, value, where)


def _read_one(kind: str, value: object, where: str) -> Any:
    if kind in MESSAGES:
        return read(kind, value, where)
    if kind in ENUMERATIONS:
        return _read_enumeration(kind, value, where)
    if kind == "duration":
        return _read_duration(value, where)
    if kind == "string":
        if not isinstance(value, str):
            raise ValueError(f"{where} must be a text (in quotes), and is {value!r}")
        return value
    base, _, wrapper = kind.partition(" ")
    if base == "bool":
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false, and is {value!r}")
        return value
    number = _read_number(base, value, where)
    # JSON has no numbers of 64 bits.
    return str(number) if wrapper and base == "int64" else number


def _read_number(kind: str, value: object, where: str) -> int | float:
    if isinstance(value, str):
        try:
            value = float(value) if kind == "double" else int(value)
        except ValueError:
            raise ValueError(f"{where} must be a number, and is {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number, and is {value!r}")
    if kind == "double":
        return value
    low, high = _LIMITS[kind]
    if value != int(value) or not low <= value <= high:
        raise ValueError(f"{where} must be a whole number from {low} to {high}, and is {value!r}")
    return int(value)


def _read_enumeration(kind: str, value: object, where: str) -> str | int:
    known = ENUMERATIONS[kind]
    if isinstance(value, int) and not isinstance(value, bool):
        return next((name for name, number in known.items() if number == value), value)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{where} must be one of {', '.join(known)}, and is {value!r}")
    return value


def _read_duration(value: object, where: str) -> str:
    nanoseconds = parse_duration(value) if isinstance(value, str) else None
    if nanoseconds is None:
        raise ValueError(f"{where} must be a duration as 45s or 1m30s, and is {value!r}")
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    text = f"{sign}{seconds}.{rest:09d}"
    for ending in ("000", "000", ".000"):
        text = text.removesuffix(ending)
    return f"{text}s"


def parse_duration(text: str) -> int | None:
    """Return a duration as Go has them (`1h30m`, `1.5s`) in nanoseconds, or None."""
    words = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if words == "0":
        return 0
    total, end = 0.0, 0
    for part in _PART.finditer(words):
        if part.start() != end:
            return None
        whole, _, fraction = part[1].partition(".")
        unit = _UNITS_NS[part[2]]
        total += int(whole or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        end = part.end()
    if not words or end != len(words):
        return None
    return -int(total) if text.startswith("-") else int(total)


def _is_default(kind: str, value: Any) -> bool:
    shape = kind.partition(" ")[0]
    if shape in ("list", "map"):
        return not value
    if kind in ENUMERATIONS:
        return bool(ENUMERATIONS[kind].get(value, value) == 0)
    return kind in _DEFAULTS and bool(value == _DEFAULTS[kind])


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each[:1].upper() + each[1:] for each in others)
