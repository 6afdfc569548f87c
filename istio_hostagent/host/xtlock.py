"""The lock under which legacy tables (x_tables) are changed, which iptables-legacy takes too."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ..errors import KernelBusy, describe

# As iptables(8) says of it.
LOCK = "/run/xtables.lock"
TIME_S = 5.0  # so long another program may hold it
# flock(2) waits for ever or not at all; iptables(8) asks again and again as well.
_PAUSE_S = 0.02


@contextlib.contextmanager
def locked(most_s: float = TIME_S) -> Iterator[None]:
    """Hold it; raises KernelBusy if another program does for longer than `most_s`."""
    try:
        descriptor = os.open(LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KernelBusy(f"the lock of xtables: {LOCK}: {describe(error)}") from error
    try:
        end = time.monotonic() + most_s
        while not _take(descriptor):
            if time.monotonic() >= end:
                raise KernelBusy(
                    f"another program holds the lock of xtables ({LOCK})",
                    hint=f"`fuser -v {LOCK}` names it",
                )
            time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
