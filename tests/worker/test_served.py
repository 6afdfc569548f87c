"""The worker that asks Envoy which certificates it shows, against whatever may answer there."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from istio_hostagent.host.answers import formats
from istio_hostagent.workers import served
from tests.envoy.authority import Authority


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers is a thread of this process."""
    for each in (served.ask, served.shake_hands):
        monkeypatch.setattr(each, "__defaults__", (60.0,))


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


class Listener:
    """Answers handshakes with a certificate, and counts those that come to an end."""

    def __init__(self, directory: Path, authority: Authority, name: str) -> None:
        directory.mkdir()
        for file, data in authority.issue(name).items():
            (directory / file).write_bytes(data)
        self.root = str(directory / "root-cert.pem")
        chain = (directory / "cert-chain.pem").read_bytes()
        self.serial = f"{x509.load_pem_x509_certificate(chain).serial_number:x}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "cert-chain.pem", directory / "key.pem")
        context.load_verify_locations(self.root)
        context.verify_mode = ssl.CERT_REQUIRED
        self.completed = 0
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                self._context.wrap_socket(client, server_side=True).close()
                self.completed += 1

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    authority = Authority()
    with contextlib.ExitStack() as opened:

        def make(name: str = OWN, by: Authority = authority) -> Listener:
            made = Listener(tmp_path / f"listener{len(list(tmp_path.iterdir()))}", by, name)
            opened.callback(made.close)
            return made

        yield make


def question(*listeners: Listener) -> dict[str, Any]:
    shown_at = [["127.0.0.1", each.port] for each in listeners]
    return {"shown_at": shown_at, "root_file": listeners[0].root, "identity": OWN}


def test_what_a_listener_shows_in_a_handshake_counts(listen: Callable[..., Listener]) -> None:
    listener = listen()
    assert served.find_shown(question(listener), ["77", listener.serial]) == [listener.serial]
    # It was shown no certificate, so no application hears of it.
    assert listener.completed == 0


def test_a_listener_that_shows_another_one_is_named(listen: Callable[..., Listener]) -> None:
    listener = listen()
    with pytest.raises(served.NotShown, match=f"port {listener.port} .* shows certificate"):
        served.find_shown(question(listener), ["77"])


def test_a_listener_of_somebody_else_is_named(listen: Callable[..., Listener]) -> None:
    own, other = listen(), listen("spiffe://cluster.local/ns/default/sa/other")
    with pytest.raises(served.NotShown, match=r"answers as spiffe:.*/sa/other"):
        served.find_shown(question(own, other), [own.serial])
    stranger = listen(OWN, Authority("stranger"))
    with pytest.raises(served.NotShown, match="does not answer with a certificate of this mesh"):
        served.find_shown(question(own, stranger), [own.serial])


def test_a_port_on_which_nobody_listens_is_named(listen: Callable[..., Listener]) -> None:
    listener = listen()
    request = question(listener) | {"shown_at": [["127.0.0.1", 1]]}
    with pytest.raises(served.NotShown, match=r"port 1 at 127\.0\.0\.1 does not answer"):
        served.find_shown(request, [listener.serial])
