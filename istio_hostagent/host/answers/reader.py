"""The answer of the worker that reads environment files."""

import binascii
from typing import Any, NamedTuple

from .. import files
from . import checks, formats

_MAX_PATH = 4096  # PATH_MAX of linux/limits.h


class Weak(NamedTuple):
    """The component of a path that others than root and the reader can change."""

    path: str
    uid: int
    mode: int


class FileRead(NamedTuple):
    """A file's content, or the number of the error that reading it gave."""

    data: bytes | None = None
    errno: int = 0
    weak: Weak | None = None


def _read(value: Any, request: Any) -> tuple[FileRead, ...]:
    return tuple(map(_read_file, checks.read_list(value, "answer", len(request))))


def _read_file(value: Any) -> FileRead:
    found = checks.read_object(value, "file")
    if "data" not in found:
        return FileRead(
            errno=checks.read_number(found.get("errno"), "file.errno", 0, checks.MAX_ERRNO)
        )
    try:
        data = binascii.a2b_base64(found["data"], strict_mode=True)
    except (ValueError, TypeError) as error:
        raise checks.Wrong("file.data is not base64") from error
    if len(data) > files.MAX_BYTES:
        raise checks.Wrong(f"file.data is longer than {files.MAX_BYTES} bytes")
    return FileRead(data, weak=_read_weak(found["weak"]) if "weak" in found else None)


def _read_weak(value: Any) -> Weak:
    weak = checks.read_object(value, "weak")
    return Weak(
        checks.read_printable(weak, "weak", "path", _MAX_PATH),
        checks.read_number(weak.get("uid"), "weak.uid", 0, (1 << 32) - 1),
        checks.read_number(weak.get("mode"), "weak.mode", 0, (1 << 32) - 1),
    )


# Files may have 4 MiB each, there are three of them, and base64 makes four bytes of three.
FORMAT = formats.Format((17 << 20) + 4 * _MAX_PATH, 1000, _read)
