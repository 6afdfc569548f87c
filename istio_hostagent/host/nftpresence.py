"""Whether nf_tables can be used here: a kernel may lack it, and a confinement refuse it."""

import errno
import socket

from ..errors import HostAgentError, KernelBusy, describe
from .nfnetlink import connection

# What passes is no refusal: the choice made of it lasts as long as the process.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_TRIES = 3


def open_socket(kept: socket.socket | None = None) -> tuple[socket.socket | None, str]:
    """Give a socket that answers, `kept` from an earlier process if there is one, or why not.

    Raises KernelBusy if the machine is short of something.
    """
    if kept is not None and kept.family != socket.AF_NETLINK:
        kept.close()  # the store had something else under its name
        kept = None
    try:
        sock = kept or connection.open_socket()
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise KernelBusy(f"asking for nf_tables: {describe(error)}") from error
        return None, describe(error)
    link = connection.Connection(sock)
    why = ""
    for _ in range(_TRIES):
        try:
            link.generation()
        except (HostAgentError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else error.message
        else:
            return sock, ""
    sock.close()
    return None, why
