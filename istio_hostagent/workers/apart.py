"""A process that root forks and that becomes another user for good, for what root must not parse.

It starts no program, so nobody but root can look into it, although that user runs it
(`secrecy.become`): it may be shown what the user must not see. What it says is checked by whoever
asks. It ends with the worker that has forked it.
"""

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

from ..errors import ChildFailed
from ..host import processes, secrecy


def run(uid: int, gid: int, work: Callable[[], object], *, name: str, max_bytes: int) -> Any:
    """Return what `work` returns there, a JSON value; raises ChildFailed.

    `name`: of the process in an error. Without root it stays the user that it is.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 1
        # Whatever happens here must not run on as root's code.
        with contextlib.suppress(BaseException):
            _leave_descriptors()
            if os.geteuid() == 0:
                secrecy.become(uid, gid, parent=parent)
            with open(writing, "wb") as out:
                out.write(json.dumps(work()).encode())
            status = 0
        os._exit(status)
    os.close(writing)
    with open(reading, "rb") as source:
        data = source.read(max_bytes + 1)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise ChildFailed(name, processes.outcome(os.waitstatus_to_exitcode(status)))
    try:
        return json.loads(data)
    except ValueError as error:
        raise ChildFailed(name, "gave a wrong answer: it is no JSON value") from error


def _leave_descriptors() -> None:
    """Root's request and root's answer are not for this process."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
