"""Ask a loopback port whether the proxy behind it is ready."""

import socket

MAX_ANSWER = 64


def is_ready(port: int, timeout_s: float) -> bool:
    """Whether GET /healthz/ready on 127.0.0.1:`port` answers 200 within `timeout_s` seconds.

    Only the first 64 bytes of the answer are looked at: the resident process parses nothing that
    a proxy sends.
    """
    request = b"GET /healthz/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    try:
        # Not create_connection: it asks the resolver, which loads idna and its tables for ever.
        with socket.socket(socket.AF_INET) as connection:
            connection.settimeout(timeout_s)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request)
            answer = connection.recv(MAX_ANSWER)
    except OSError:
        return False
    return answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
