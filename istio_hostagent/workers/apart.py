"""A process that root forks and that becomes another user for good, for what root must not parse.

It starts no program, so nobody but root can look into it, although that user runs it
(`secrecy.become`): it may be shown what the user must not see. What it says is checked by whoever
asks. It ends with the worker that has forked it.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import ChildFailed
from ..host import processes, secrecy

# It ends so once it has written of what kind its error was. With any other status what it wrote is
# a part of an answer, which may be secret.
_TOLD = 1
_MAX_WORDS = 200


def run(uid: int, gid: int, work: Callable[[], object], *, name: str, max_bytes: int) -> Any:
    """Return what `work` returns there, a JSON value; raises ChildFailed.

    `name`: of the process in an error. Without root it stays the user that it is.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status, answer = 2, b""
        try:
            try:
                _leave_descriptors()
                if os.geteuid() == 0:
                    secrecy.become(uid, gid, parent=parent)
                answer = json.dumps(work()).encode()
            finally:
                error = sys.exc_info()[1]
                with open(writing, "wb") as out:
                    out.write(answer if error is None else _describe(error).encode())
                status = 0 if error is None else _TOLD
        finally:
            # Whatever happens here must not run on as root's code.
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as source:
        data = source.read(max_bytes + 1)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        number = os.waitstatus_to_exitcode(status)
        text = data[:_MAX_WORDS].decode(errors="replace") if number == _TOLD else ""
        words = "".join(each if each.isprintable() else " " for each in text)
        raise ChildFailed(name, processes.outcome(number), [words] if words else [])
    try:
        return json.loads(data)
    except ValueError as error:
        raise ChildFailed(name, "gave a wrong answer: it is no JSON value") from error


def _describe(error: BaseException) -> str:
    """Of what kind and where; its words may be of what nobody is to read."""
    number = error.errno if isinstance(error, OSError) else None
    words = os.strerror(number) if number else type(error).__name__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{words} in {frame.name}, line {frame.lineno}"


def _leave_descriptors() -> None:
    """Root's request and root's answer are not for this process."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
