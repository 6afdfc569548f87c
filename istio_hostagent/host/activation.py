"""The socket that systemd has started a process for (sd_listen_fds(3))."""

import os
import socket
from collections.abc import Mapping

_FIRST_DESCRIPTOR = 3


def take_listener(environment: Mapping[str, str]) -> socket.socket | None:
    """Give it; None if systemd has started us for none."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return None
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    return socket.socket(fileno=_FIRST_DESCRIPTOR)
