"""YAML as Kubernetes' tools write it, byte for byte (sigs.k8s.io/yaml: go-yaml 2 behind JSON).

PyYAML's emitter and go-yaml's are both libyaml's; what differs is which texts are quoted, how
numbers are written, and the order of keys.
Source: go.yaml.in/yaml/v2 2.4.4 {resolve,encode,sorter}.go; sigs.k8s.io/yaml 1.6.0 yaml.go.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_WORDS = frozenset(
    word
    for text in (
        "y Y yes Yes YES true True TRUE on On ON n N no No NO false False FALSE off Off OFF",
        "~ null Null NULL .nan .NaN .NAN .inf .Inf .INF +.inf +.Inf +.INF -.inf -.Inf -.INF <<",
    )
    for word in text.split()
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|0|[1-9][0-9]*)")
_MOMENT = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}([Tt]\d{1,2}:\d{1,2}:\d{1,2}(\.\d+)?(Z|[-+]\d\d:\d\d)"
    r"| \d{1,2}:\d{1,2}:\d{1,2}(\.\d+)?)?"
)
_UNSIGNED_64, _SIGNED_64 = (1 << 64) - 1, 1 << 63
_TEXT, _PLAIN = "tag:yaml.org,2002:str", (True, True)


def dump(value: Mapping[str, Any]) -> str:
    """Return a document of maps, lists, texts, numbers, booleans and None."""
    emitted = yaml.emit(_document(value), allow_unicode=True)
    assert isinstance(emitted, str)
    return emitted


def _document(value: object) -> Iterator[Any]:
    yield yaml.StreamStartEvent()
    yield yaml.DocumentStartEvent(explicit=False)
    yield from _events(value)
    yield yaml.DocumentEndEvent(explicit=False)
    yield yaml.StreamEndEvent()


def _events(value: object) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield yaml.MappingStartEvent(None, None, implicit=True, flow_style=not value)
        for key in sorted(value, key=functools.cmp_to_key(compare_keys)):
            yield _scalar(key)
            yield from _events(value[key])
        yield yaml.MappingEndEvent()
    elif isinstance(value, list | tuple):
        yield yaml.SequenceStartEvent(None, None, implicit=True, flow_style=not value)
        for each in value:
            yield from _events(each)
        yield yaml.SequenceEndEvent()
    else:
        yield _scalar(value)


def _scalar(value: object) -> Any:
    if isinstance(value, str):
        style = None
        if "\n" in value:
            style = "|"
        elif _is_other_than_text(value):
            style = '"'
        return yaml.ScalarEvent(None, None, _PLAIN, value, style=style)
    words = {True: "true", False: "false", None: "null"}
    if isinstance(value, bool) or value is None:
        text = words[value]
    elif isinstance(value, int):
        text = str(value)
    elif isinstance(value, float):
        text = number(value)
    else:
        raise TypeError(f"no YAML for {type(value).__name__}")
    return yaml.ScalarEvent(None, None, _PLAIN, text)


def _is_other_than_text(text: str) -> bool:
    """Whether go-yaml would read it as something else than a text, if it had no quotes."""
    if not text or text in _WORDS:
        return True
    first = text[0]
    if first == ".":
        return bool(_FLOAT.fullmatch(text))
    if first not in "+-0123456789":
        return False
    plain = text.replace("_", "")
    if _MOMENT.fullmatch(text) or _BASE_60.fullmatch(text) or _FLOAT.fullmatch(plain):
        return True
    return bool(_INTEGER.fullmatch(plain))


def number(value: float) -> str:
    """Return a number as Go writes it, shortest that reads back the same (`%g`)."""
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    if math.isnan(value):
        return ".nan"
    if value == int(value) and abs(value) < 1e21:
        # A whole number came through JSON without a point.
        return str(int(value))
    digits, _, exponent_text = f"{value!r}".lower().partition("e")
    sign = "-" if digits.startswith("-") else ""
    whole, _, fraction = digits.lstrip("-").partition(".")
    exponent = int(exponent_text or 0) + len(whole) - 1
    mantissa = (whole + fraction).rstrip("0")
    stripped = mantissa.lstrip("0")
    exponent -= len(mantissa) - len(stripped)
    if -4 <= exponent < 21 and (exponent < 6 or exponent < len(stripped)):
        precision = max(len(stripped) - 1 - exponent, 0)
        return f"{value:.{precision}f}"
    tail = f".{stripped[1:]}" if len(stripped) > 1 else ""
    return f"{sign}{stripped[0]}{tail}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def compare_keys(one: str, other: str) -> int:
    """Return the order of two keys: letters by code, behind everything else; digits by value."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a == b:
            continue
        if a.isalpha() and b.isalpha():
            return -1 if a < b else 1
        if a.isalpha() or b.isalpha():
            return -1 if b.isalpha() else 1
        return _compare_digits(one, other, index)
    return len(one) - len(other)


def _compare_digits(one: str, other: str, index: int) -> int:
    start = 0
    if "0" in (one[index], other[index]):
        # Behind a digit that is not 0 a 0 counts.
        for each in reversed(one[:index]):
            if not each.isdigit():
                break
            if each != "0":
                start = 1
                break
    (a, a_end), (b, b_end) = _read_digits(one, index, start), _read_digits(other, index, start)
    if a != b:
        return -1 if a < b else 1
    if a_end != b_end:
        return -1 if a_end < b_end else 1
    return -1 if one[index] < other[index] else 1


def _read_digits(text: str, index: int, value: int) -> tuple[int, int]:
    end = index
    while end < len(text) and text[end].isdigit():
        value = value * 10 + ord(text[end]) - ord("0")
        end += 1
    return value, end
