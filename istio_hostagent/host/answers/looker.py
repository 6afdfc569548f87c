"""The answer of the worker that looks at files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import files
from . import checks, formats

_MAX_NUMBER = 1 << 64


class Sight(NamedTuple):
    """A path as it looks: what it leads to, and the entry itself, which may be a link."""

    target: files.Fingerprint | None
    entry: files.Fingerprint | None
    is_program: bool


def _read(value: Any, request: Any) -> tuple[Sight, ...]:
    return tuple(map(_read_sight, checks.read_list(value, "answer", len(request))))


def _read_sight(value: Any) -> Sight:
    found = checks.read_object(value, "file")
    is_program = found.get("is_program")
    if not isinstance(is_program, bool):
        raise checks.Wrong("file.is_program is neither true nor false")
    return Sight(_fingerprint(found, "target"), _fingerprint(found, "entry"), is_program)


def _fingerprint(found: Mapping[str, Any], key: str) -> files.Fingerprint | None:
    value = found.get(key)
    if value is None:
        return None
    name = f"file.{key}"
    inode, changed_ns, size = (
        checks.read_number(each, name, -_MAX_NUMBER, _MAX_NUMBER)
        for each in checks.read_list(value, name, 3)
    )
    return inode, changed_ns, size


FORMAT = formats.Format(1 << 16, 1000, _read)
