"""Where the resolver of mesh names listens: nobody else gets what is sent there."""

import contextlib
import socket

import pytest

from istio_hostagent.workers import resolver


def listen_somewhere() -> tuple[socket.socket, ...]:
    """At a port that is free by UDP and TCP, at each loopback address."""
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with contextlib.suppress(OSError):  # it is somebody's by TCP, or has become somebody's
            return tuple(resolver.listen(port))
    raise AssertionError("no port is free")


def test_no_other_program_can_bind_the_port_for_queries() -> None:
    bound = listen_somewhere()
    try:
        for each in bound:
            with socket.socket(each.family, each.type) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    other.bind(each.getsockname())
    finally:
        for each in bound:
            each.close()
