"""One entry of the journal with fields of its own, by which it can be searched for.

It never waits: an entry that is not taken is for the caller to say in another way.
Source: systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

import os
import socket
import struct
from collections.abc import Iterable, Mapping

_SOCKET = "/run/systemd/journal/socket"


def is_ours(environment: Mapping[str, str]) -> bool:
    """Whether standard error goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def render(fields: Iterable[tuple[str, str]]) -> bytes:
    """The datagram; a value of several lines is preceded by its length."""
    parts = []
    for name, value in fields:
        data = value.encode(errors="replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def send(
    fields: Mapping[str, str], path: str = _SOCKET, *, more: Iterable[tuple[str, str]] = ()
) -> bool:
    """Send one entry, and say whether the journal has taken it; `more`: names may be repeated."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
            line.sendto(render((*fields.items(), *more)), os.fsencode(path))
    except OSError:
        return False
    return True
