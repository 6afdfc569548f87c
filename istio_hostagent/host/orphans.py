"""Processes whose parents have ended become ours where we are the first of a PID namespace.

So it is in a container, and in a task of Nomad's driver exec; else the service manager takes them.
Until somebody takes the status of one that has ended it stays in the table of processes. Not here:
children that we have started (`processes`), whose status is waited for.
"""

import contextlib
import os

from . import processes, procstate

_INIT = 1


def may_come() -> bool:
    """Whether orphans become this process's children (pid_namespaces(7))."""
    return os.getpid() == _INIT


def bury() -> None:
    """Take the status of those that have ended."""
    for pid in procstate.find_children(_INIT):
        if pid not in processes.CHILDREN:
            # None of ours can have this number: its own process has it until its status is taken.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
