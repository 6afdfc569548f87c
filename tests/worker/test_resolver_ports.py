"""Where the resolver of mesh names listens: nobody else gets what is sent there."""

import socket

import pytest

from istio_hostagent.workers import resolver


def test_no_other_program_can_bind_the_port_for_queries() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bound = resolver.listen(port)
    try:
        for each in bound:
            with socket.socket(each.family, each.type) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="Address already in use"):
                    other.bind(each.getsockname())
    finally:
        for each in bound:
            each.close()
