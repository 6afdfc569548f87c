"""A new certificate is taken from the swap of `..data`, with traffic going on."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from . import authority, proxy
from .test_traffic import PORT, SECRET, Mesh, Serve, answer_http, ask_http, is_closed

pytestmark = pytest.mark.envoy


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def serial(host: proxy.Proxy) -> str:
    certificates = json.loads(host.ask("/certs"))["certificates"]
    return str(certificates[0]["cert_chain"][0]["serial_number"])


def test_renewal_under_traffic_fails_no_connection(
    mesh: Mesh, serve: Serve, closing: contextlib.ExitStack
) -> None:
    a, b = mesh
    serve(b.host, PORT, answer_http)
    held = a.host.connect(b.host.v4, PORT)
    closing.callback(held.close)
    pids, failures, answers = (a.pid, b.pid), [], 0
    done = threading.Event()

    def ask_on() -> None:
        nonlocal answers
        while not done.is_set():
            try:
                if SECRET not in ask_http(a.host.connect(b.host.v4, PORT)):
                    failures.append("empty answer")
            except OSError as error:
                failures.append(repr(error))
            answers += 1

    def wait_for_answers(number: int) -> None:
        proxy.wait_until(lambda: answers > number, "requests with the new certificate")

    traffic = threading.Thread(target=ask_on)
    traffic.start()
    try:
        for host in (a, b, a, b):
            rotate_and_wait(host)
            wait_for_answers(answers + 3)
    finally:
        done.set()
        traffic.join(10)
    assert failures == []
    assert (a.pid, b.pid) == pids
    # A connection from before all this still works.
    assert SECRET in ask_http(held)


def rotate_and_wait(host: proxy.Proxy) -> None:
    before = serial(host)
    host.rotate()
    proxy.wait_until(lambda: serial(host) != before, "new serial number in use")


def test_new_roots_are_taken(mesh: Mesh, serve: Serve) -> None:
    a, b = mesh
    serve(b.host, PORT, answer_http)
    assert SECRET in ask_http(a.host.connect(b.host.v4, PORT))
    successor = authority.Authority("successor")
    b.rotate(successor)

    def is_refused() -> bool:
        with contextlib.suppress(socket.timeout):
            return is_closed(a.host.connect(b.host.v4, PORT))
        return False

    # No resumed session lets the old root live on.
    proxy.wait_until(is_refused, "a, of the old root, refused")
    a.rotate(successor)
    proxy.wait_until(
        lambda: SECRET in quietly(lambda: ask_http(a.host.connect(b.host.v4, PORT))),
        "both of the new root",
    )


def quietly(ask: Callable[[], bytes]) -> bytes:
    with contextlib.suppress(OSError):
        return ask()
    return b""
