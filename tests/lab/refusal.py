"""A system call that the kernel refuses to some processes, as a limit of the machine would.

    refusal.without_inotify(host.start)

The limit itself is one number for the whole machine: lowering it would disturb everybody else.
"""

import ctypes
import errno
import os
import platform
import struct
import threading
from collections.abc import Callable

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# inotify_init and inotify_init1; newer architectures have the second alone.
_INOTIFY = {"x86_64": (253, 294), "aarch64": (26,)}


def without_inotify(start: Callable[[], None]) -> None:
    """Call `start`; what it starts, and all that comes of that, can have no inotify instance."""
    errors: list[BaseException] = []

    def confined() -> None:
        try:
            _refuse(_INOTIFY[platform.machine()], errno.EMFILE)
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
    program = [struct.pack("HBBI", _LOAD_NUMBER, 0, 0, 0)]
    for each in numbers:
        program.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, each))
        program.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | number))
    program.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    text = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
