"""A process that is brought to a standstill from which no signal but SIGKILL brings it back.

    deadlock.put(pid)

Every thread that returns from the wait of its event loop then sleeps in pause(2) for ever, which
looks from outside like a deadlock: its state is "sleeping", its ports accept and do not answer,
handlers of signals still run, and nobody holds it. Needs root, x86-64, and the common libc.
"""

import ctypes
import os
import platform
import signal
import time

LIMIT_S = 10.0
# Requests of ptrace, from linux/ptrace.h.
_ATTACH, _DETACH, _PEEKTEXT, _PEEKUSER, _POKETEXT = 16, 17, 1, 3, 4
_RIP = 16 * 8  # its offset in struct user, sys/user.h
_WALL = 0x40000000
_SYSCALL = bytes.fromhex("0f05")
# mov $34 (pause), %eax; syscall; jmp to the begin
_PAUSE = bytes.fromhex("b822000000 0f05 ebf7")


def missing() -> str:
    """Return why it cannot be done here, "" if it can: for tests to skip or fail."""
    return "" if platform.machine() == "x86_64" else "the instructions are those of x86-64"


def put(pid: int) -> None:
    """Write instructions behind the system call in which the first thread waits.

    All threads run the same copy of it, which is this process's own. Raises OSError, and
    TimeoutError if the thread is never found waiting.
    """
    end = time.monotonic() + LIMIT_S
    while not _try(pid):
        if time.monotonic() > end:
            raise TimeoutError(f"process {pid} does not wait in a system call")
        time.sleep(0.01)


def _try(pid: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def trace(request: int, address: int = 0, data: int = 0) -> int:
        ctypes.set_errno(0)
        result = int(libc.ptrace(request, pid, address, data))
        if result == -1 and ctypes.get_errno():
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    trace(_ATTACH)
    try:
        _, status = os.waitpid(pid, _WALL)
        assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
        where = trace(_PEEKUSER, _RIP) & (2**64 - 1)
        word = 8
        if trace(_PEEKTEXT, where - len(_SYSCALL)) & 0xFFFF != int.from_bytes(_SYSCALL, "little"):
            return False
        padded = _PAUSE.ljust(2 * word, b"\x90")
        for offset in range(0, len(padded), word):
            part = padded[offset : offset + word]
            trace(_POKETEXT, where + offset, int.from_bytes(part, "little"))
        return True
    finally:
        trace(_DETACH)
