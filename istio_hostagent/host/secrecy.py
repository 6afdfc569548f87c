"""Keeping the memory of a process that holds a key to itself.

No core file, neither in a directory (RLIMIT_CORE) nor through a program such as systemd-coredump,
which the kernel starts whatever that limit is; and no look into the process by others of its user,
but by root (PR_SET_DUMPABLE: prctl(2), core(5), ptrace(2)).
"""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def keep_memory() -> None:
    """From now on nobody but root sees what this process has in memory; raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def become(uid: int, gid: int, *, parent: int) -> None:
    """Turn a fork of root's process into this user's for good; raises OSError.

    Nobody but root sees what it has in memory or what it has open, as long as it starts no program
    (proc(5), /proc/PID/fd). It ends when its parent does.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    # From here on the kernel keeps others out by itself, unless the sysctl fs.suid_dumpable is 1.
    os.setresuid(uid, uid, uid)
    keep_memory()
    # A change of the user clears it (prctl(2)), so it comes after that.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
