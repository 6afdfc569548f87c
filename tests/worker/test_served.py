"""The worker that asks Envoy which certificates it shows, against whatever may answer there."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from istio_hostagent.host.answers import formats
from istio_hostagent.workers import served

OWN = "spiffe://cluster.local/ns/default/sa/default"


def shown(serial: str, *names: str) -> dict[str, Any]:
    return {"serial_number": serial, "subject_alt_names": [{"uri": name} for name in names]}


CERTS: dict[str, Any] = {
    "certificates": [
        {"ca_cert": [shown("77", OWN)], "cert_chain": [shown("00Ab", OWN)]},
        {"ca_cert": [], "cert_chain": [shown("ab", OWN), shown("c", f"{OWN}2"), shown("d")]},
        {"ca_cert": [], "cert_chain": []},
        {"cert_chain": [{"serial_number": "e", "subject_alt_names": [{"dns": "a"}]}]},
        {"cert_chain": [shown("1f", "spiffe://a/b", OWN)]},
    ]
}


def response(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[bytes | None], dict[str, Any]]]:
    """Have one question answered so (None: not at all); gives the request."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "admin"))
        listening.listen()
        threads = []
        is_over = threading.Event()

        def serve(answer: bytes | None) -> dict[str, Any]:
            def run() -> None:
                client, _ = listening.accept()
                with client:
                    client.recv(4096)
                    if answer is None:
                        is_over.wait(30)
                    else:
                        client.sendall(answer)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            return {"socket": str(tmp_path / "admin"), "port": 0, "identity": OWN}

        yield serve
        is_over.set()
        for thread in threads:
            thread.join()


def test_the_serials_of_this_identity_each_once(
    answering: Callable[[bytes | None], dict[str, Any]],
) -> None:
    request = answering(response(json.dumps(CERTS).encode()))
    assert served.ask(request) == ["ab", "1f"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b'{"certificates": 3}',
        b'{"certificates": [3]}',
        b'{"certificates": [{"cert_chain": [{"subject_alt_names": [3]}]}]}',
        json.dumps({"certificates": [{"cert_chain": [shown("x", OWN)]}]}).encode(),
        json.dumps({"certificates": [{"cert_chain": [shown(7, OWN)]}]}).encode(),  # type: ignore[arg-type] # wrong on purpose
    ],
)
def test_an_answer_of_another_form_is_an_error(
    answering: Callable[[bytes | None], dict[str, Any]], body: bytes
) -> None:
    with pytest.raises(ValueError, match=r"."):
        served.ask(answering(response(body)))


def test_who_says_no_or_nothing_or_hangs_is_an_error(
    answering: Callable[[bytes | None], dict[str, Any]],
) -> None:
    with pytest.raises(ValueError, match="status 503"):
        served.ask(answering(response(b"{}", "503 Service Unavailable")))
    for answer in (b"", b"SSH-2.0-x\r\n"):
        with pytest.raises(http.client.HTTPException):
            served.ask(answering(answer))
    with pytest.raises(TimeoutError):
        served.ask(answering(None), timeout_s=0.1)
    with pytest.raises(FileNotFoundError):
        served.ask({"socket": "/nowhere", "port": 0, "identity": OWN})


def test_very_many_certificates_still_fit_into_an_answer(
    answering: Callable[[bytes | None], dict[str, Any]],
) -> None:
    chains = [{"cert_chain": [shown(f"{number:040x}", OWN)]} for number in range(1, 500)]
    found = served.ask(answering(response(json.dumps({"certificates": chains}).encode())))
    answer = json.dumps({"serials": found}).encode()
    assert len(formats.read(formats.find("served"), answer, {}).serials) == served.MAX_SERIALS
