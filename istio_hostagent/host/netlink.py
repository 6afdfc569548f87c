"""One question to the kernel over netlink, and its whole answer.

Not here: what messages mean (`rtnetlink`, `sockdiag`), and nf_tables, whose transactions need a
socket that lives on (`nfnetlink.connection`).
An answer is complete or it is an error: a refusal, silence, and a table that changed while it was
read never look like "there is nothing". Every question has a socket of its own, so the rest of an
answer that was given up is never taken for that to the next.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator

from ..errors import HostAgentError, HostUnsupported, KernelBusy, NotPermitted
from .nfnetlink import framing

NETLINK_ROUTE, NETLINK_SOCK_DIAG = 0, 4
SOL_NETLINK = 270
_GET_STRICT_CHK = 12  # NETLINK_GET_STRICT_CHK: what a dump is asked to leave out is left out
_RECEIVE_SIZE = 1 << 16  # a dump fills at most 32 KiB at a time
_TIMEOUT_S = 5
# A dump of thousands of objects is interrupted by any change; so many in a row are no coincidence.
_MAX_TRIES = 20
_STATUS = struct.Struct("=i")
_UNKNOWN = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT)


def open_socket(protocol: int, *, groups: int = 0) -> socket.socket:
    """Open a socket that hears the multicast `groups` (a mask); raises OSError."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        made.settimeout(_TIMEOUT_S)
        made.setsockopt(SOL_NETLINK, _GET_STRICT_CHK, 1)
        made.bind((0, groups))
    except OSError:
        made.close()
        raise
    return made


def ask(protocol: int, kind: int, body: bytes, *, flags: int = 0) -> bytes:
    """Give the body of the one answer; of an acknowledgement it is empty.

    Raises OSError with the kernel's errno, KernelBusy.
    """
    with open_socket(protocol) as sock:
        sock.send(framing.pack_message(kind, flags | framing.NLM_F_REQUEST, 1, body))
        for message in _receive(sock):
            if message.kind == framing.NLMSG_ERROR:
                _raise_refusal(framing.read_error(message)[0])
                return b""
            return message.body
    raise KernelBusy("the kernel broke off an answer over netlink")


def dump(
    protocol: int, kind: int, body: bytes, *, connect: Callable[[int], socket.socket] = open_socket
) -> list[bytes]:
    """Give the body of every object, as they were at one moment.

    Raises OSError with the kernel's errno; KernelBusy if it does not answer or the objects
    changed whenever they were read.
    """
    flags = framing.NLM_F_REQUEST | framing.NLM_F_DUMP
    for _ in range(_MAX_TRIES):
        with connect(protocol) as sock:
            sock.send(framing.pack_message(kind, flags, 1, body))
            found = _collect(sock)
        if found is not None:
            return found
    raise KernelBusy("what the kernel was asked for kept changing while it was read")


def _collect(sock: socket.socket) -> list[bytes] | None:
    """Take a dump up to its end; None if something changed meanwhile."""
    found: list[bytes] = []
    is_interrupted = False
    while True:
        for message in _receive(sock):
            is_interrupted |= bool(message.flags & framing.NLM_F_DUMP_INTR)
            if message.kind == framing.NLMSG_ERROR:
                _raise_refusal(framing.read_error(message)[0])
            if message.kind != framing.NLMSG_DONE:
                found.append(message.body)
                continue
            # A dump that fails on the way ends like any other, but for this number.
            if len(message.body) >= _STATUS.size:
                _raise_refusal(-int(_STATUS.unpack_from(message.body)[0]))
            return None if is_interrupted else found


def _receive(sock: socket.socket) -> Iterator[framing.Received]:
    try:
        data = sock.recv(_RECEIVE_SIZE)
    except TimeoutError as error:
        raise KernelBusy("the kernel did not answer a question over netlink") from error
    if not data:
        raise KernelBusy("the kernel broke off an answer over netlink")
    return framing.split_messages(data)


def _raise_refusal(code: int) -> None:
    if code > 0:
        raise OSError(code, os.strerror(code))


def explain(error: OSError, doing: str) -> HostAgentError:
    """Make of a refusal the error of whoever must act; `doing`: "reading addresses"."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{doing} is not permitted: {error.strerror}")
    if error.errno in _UNKNOWN:
        return HostUnsupported(f"{doing}: the kernel cannot: {error.strerror}")
    return KernelBusy(f"{doing}: {error.strerror}")
