"""Whether nf_tables can be used here: a kernel may lack it, and a confinement refuse it."""

import socket

from ..errors import HostAgentError, describe
from .nfnetlink import connection


def open_socket(kept: socket.socket | None = None) -> tuple[socket.socket | None, str]:
    """Give a socket that answers, `kept` from an earlier process if there is one, or why not.

    Raises NotPermitted for who may not change rules at all.
    """
    try:
        sock = kept or connection.open_socket()
    except OSError as error:
        return None, describe(error)
    link = connection.Connection(sock)
    try:
        link.generation()
    except (HostAgentError, OSError) as error:
        sock.close()
        return None, describe(error) if isinstance(error, OSError) else error.message
    return sock, ""
