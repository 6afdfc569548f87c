"""A system call that the kernel refuses to some processes, as a limit of the machine would.

    refusal.without_inotify(host.start)

The limit itself is one number for the whole machine: lowering it would disturb everybody else.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import threading
from collections.abc import Callable

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# struct seccomp_data: the number of the call, and its first argument, of 8 bytes each.
_NUMBER, _ARGUMENTS = 0, 16
# inotify_init and inotify_init1; newer architectures have the second alone.
_INOTIFY = {"x86_64": (253, 294), "aarch64": (26,)}


# socket(2), and NETLINK_NETFILTER as its third argument.
_SOCKET = {"x86_64": 41, "aarch64": 198}
_NETLINK_NETFILTER = 12


def without_inotify(start: Callable[[], None]) -> None:
    """Call `start`; what it starts, and all that comes of that, can have no inotify instance."""
    _confine(start, lambda: _refuse(_INOTIFY[platform.machine()], errno.EMFILE))


def without_nftables(start: Callable[[], None]) -> None:
    """The same for sockets of nf_tables, as on a kernel that was built without."""
    _confine(start, _refuse_nftables)


def _confine(start: Callable[[], None], refuse: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def confined() -> None:
        try:
            refuse()
            start()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    # A filter is the thread's and its children's, and nobody can take it off again.
    thread = threading.Thread(target=confined)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _refuse(numbers: tuple[int, ...], number: int) -> None:
    program = [_load(_NUMBER)]
    for each in numbers:
        program += [_unless(each, 1), _give(_ERRNO | number)]
    _install([*program, _give(_ALLOW)])


def _refuse_nftables() -> None:
    refused = _give(_ERRNO | errno.EPROTONOSUPPORT)
    _install(
        [
            *(_load(_NUMBER), _unless(_SOCKET[platform.machine()], 5)),
            *(_load(_ARGUMENTS), _unless(socket.AF_NETLINK, 3)),
            *(_load(_ARGUMENTS + 16), _unless(_NETLINK_NETFILTER, 1), refused),
            _give(_ALLOW),
        ]
    )


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", _LOAD, 0, 0, offset)


def _unless(value: int, skipped: int) -> bytes:
    """Skip so many of the following if what was loaded is another value."""
    return struct.pack("HBBI", _JUMP_IF_EQUAL, 0, skipped, value)


def _give(result: int) -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, result)


def _install(program: list[bytes]) -> None:
    text = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
