"""What workers answer, believed only as far as it fits: type, range and size of every field.

Some workers run as istio-proxy, and so may whoever has taken the proxy over: it can write into the
memory file of a worker's answer. So nothing of an answer is used before it was read here, once;
what is read is a frozen value, in which every number can be computed with and every text printed
in one line. Whether an answer is *true* is not known here.
"""

import binascii
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from ..identity import rotation
from ..redirect import exchange, model
from . import files

# The last second of the year 9999: what certificates without an end carry (RFC 5280, 4.1.2.5).
LAST_MOMENT = 253402300799
_MAX_ERRNO = 4095
_MAX_WORDS = 1000
_MAX_IDENTITY = 2048  # the longest SPIFFE ID
_SERIAL = re.compile(r"-?[0-9a-f]{1,256}")
_CODE = re.compile(r"[a-z][a-z-]{0,63}")
_VIA = ("", "token", "certificate")


class Wrong(ValueError):
    """An answer does not fit; the text names the field."""


@dataclass(frozen=True)
class Certificate:
    """What the certificate worker holds after it has done its work, or why it could not."""

    held: rotation.Report | None = None
    trouble: rotation.Trouble | None = None
    is_obtained: bool = False  # by this call
    via: str = ""


@dataclass(frozen=True)
class ProbeSockets:
    """Of each kind of socket 0, or the number of the error that kept it from being made."""

    errnos: tuple[int, ...]


@dataclass(frozen=True)
class SecondReading:
    """What the other decoder saw, or why it could not look."""

    observed: model.Observed | None = None
    trouble: rotation.Trouble | None = None


@dataclass(frozen=True)
class FileRead:
    """A file's content, or the number of the error that reading it gave."""

    data: bytes | None = None
    errno: int = 0


class Format(NamedTuple):
    """The bounds of one worker's answer, and what reads it.

    `max_items`: lists, objects and their members; they take a hundred times the room of the text.
    """

    max_bytes: int
    max_items: int
    read: Callable[[Any, Any], Any]


def read(module: str, data: bytes, request: Any) -> Any:
    """Read the answer of one worker to this request; raises Wrong."""
    known = FORMATS[module]
    if len(data) > known.max_bytes:
        raise Wrong(f"it is longer than {known.max_bytes} bytes")
    if sum(map(data.count, (b"[", b"{", b","))) > known.max_items:
        raise Wrong(f"it has more than {known.max_items} parts")
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Wrong("it is no JSON") from error
    return known.read(value, request)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


# -- the answers ----------------------------------------------------------------------------------


def _read_certificate(value: Any, _request: Any) -> Certificate:
    answer = _object(value, "answer")
    trouble = _trouble(answer)
    found = answer.get("held")
    if found is None:
        return Certificate(trouble=trouble)
    held = _object(found, "held")
    via = held.get("via", "")
    if via not in _VIA:
        raise Wrong("held.via is not known")
    report = rotation.Report(
        _printable(held, "held", "identity", _MAX_IDENTITY),
        _matching(held, "held", "serial", _SERIAL),
        _moment(held, "not_before"),
        _moment(held, "not_after"),
        _moment(held, "received"),
    )
    if report.not_after <= report.not_before:
        raise Wrong("held.not_after is not after held.not_before")
    is_obtained = held.get("obtained", False)
    if not isinstance(is_obtained, bool):
        raise Wrong("held.obtained is neither true nor false")
    return Certificate(report, trouble, is_obtained, via)


def _read_probe_sockets(value: Any, request: Any) -> ProbeSockets:
    length = len(request["groups"]) + 1
    found = _list(_object(value, "answer").get("errnos"), "errnos", length)
    return ProbeSockets(tuple(_number(each, "errnos", 0, _MAX_ERRNO) for each in found))


def _read_second_reading(value: Any, _request: Any) -> SecondReading:
    answer = _object(value, "answer")
    if (trouble := _trouble(answer)) is not None:
        return SecondReading(trouble=trouble)
    try:
        return SecondReading(exchange.from_json(answer.get("observed")))
    except ValueError as error:
        raise Wrong(str(error)) from error


def _read_files(value: Any, request: Any) -> tuple[FileRead, ...]:
    return tuple(map(_read_file, _list(value, "answer", len(request["paths"]))))


def _read_file(value: Any) -> FileRead:
    found = _object(value, "file")
    if "data" not in found:
        return FileRead(errno=_number(found.get("errno"), "file.errno", 0, _MAX_ERRNO))
    try:
        data = binascii.a2b_base64(found["data"], strict_mode=True)
    except (ValueError, TypeError) as error:
        raise Wrong("file.data is not base64") from error
    if len(data) > files.MAX_BYTES:
        raise Wrong(f"file.data is longer than {files.MAX_BYTES} bytes")
    return FileRead(data)


# Files may have a MiB each, there are three of them, and base64 makes four bytes of three. The
# second reader, who is root, hands over all networks of up to three tables: 0.9 MiB of 10 000.
FORMATS: Mapping[str, Format] = {
    "certificate": Format(1 << 20, 1000, _read_certificate),
    "probe_sockets": Format(4096, 1000, _read_probe_sockets),
    "reader": Format((4 << 20) + 4096, 1000, _read_files),
    "second_reader": Format(32 << 20, sys.maxsize, _read_second_reading),
}


# -- their parts ----------------------------------------------------------------------------------


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Wrong(f"{name} is not an object")
    return value


def _list(value: Any, name: str, length: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise Wrong(f"{name} is not a list of {length}")
    return value


def _trouble(answer: Mapping[str, Any]) -> rotation.Trouble | None:
    found = answer.get("error")
    if found is None:
        return None
    error = _object(found, "error")
    return rotation.Trouble(
        _matching(error, "error", "code", _CODE),
        _words(error, "error", "message"),
        _words(error, "error", "hint"),
    )


def _text(found: Mapping[str, Any], place: str, key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise Wrong(f"{place}.{key} is not a text")
    return value


def _matching(found: Mapping[str, Any], place: str, key: str, form: re.Pattern[str]) -> str:
    value = _text(found, place, key)
    if not form.fullmatch(value):
        raise Wrong(f"{place}.{key} does not have its form")
    return value


def _printable(found: Mapping[str, Any], place: str, key: str, longest: int) -> str:
    value = _text(found, place, key)
    if not value.isprintable() or not 0 < len(value) <= longest:
        raise Wrong(f"{place}.{key} is not a line of at most {longest} characters")
    return value


def _words(found: Mapping[str, Any], place: str, key: str) -> str:
    """A sentence for people, perhaps with words of a CA: on one line, whatever it was."""
    return printable(_text(found, place, key))


def printable(text: str, *, longest: int = _MAX_WORDS) -> str:
    """Make one line of a text, without anything that a terminal or a log would act on."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)


def _number(value: Any, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Wrong(f"{name} is not a number from {least} to {most}")
    return value


def _moment(found: Mapping[str, Any], key: str) -> float:
    """Seconds since 1970, as a number that every calendar function takes."""
    value = found.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Wrong(f"held.{key} is not a number")
    # Compared before it is converted: a whole number may be too long for a float.
    if not 0 <= value <= LAST_MOMENT:
        raise Wrong(f"held.{key} is no moment from 1970 to 9999")
    return float(value)
