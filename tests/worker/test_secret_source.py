"""The certificate worker where another agent's secret server gives the certificate out."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from istio_hostagent import protobuf
from istio_hostagent.errors import AuthorityUnavailable, NotPermitted
from istio_hostagent.host import secretclient
from istio_hostagent.identity import certificates
from istio_hostagent.sds import asking, connection, secrets
from tests.demo import ca_material
from tests.lab.secretserver import SecretServer
from tests.lab.waiting import eventually
from tests.lab.workers import NOBODY, run_worker

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs servers as other users")
WEB = "spiffe://cluster.local/ns/vms/sa/web"
NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")
DAEMON = 1
DISCOVERY = asking.make_dialect()


@dataclass
class Host:
    """Another agent with its secrets, and what our readers find."""

    directory: Path
    material: ca_material.Material

    @property
    def socket(self) -> Path:
        return self.directory / "other" / "api.sock"

    @property
    def shown(self) -> Path:
        return self.directory / "shown"

    def make(
        self, identity: str = WEB, *, life_s: float = 3600.0, age_s: float = 120.0
    ) -> dict[str, bytes]:
        chain, key = ca_material.pair(self.material, identity, life_s=life_s, age_s=age_s)
        return dict(zip(NAMES, (key, chain, self.material.root_bundle), strict=True))

    def put(self, files: dict[str, bytes], user: int, server: SecretServer | None = None) -> None:
        """Write them one after another, of which a `server` that runs sees the end alone."""
        if server is not None:
            os.kill(server.pid, signal.SIGSTOP)
        for name, data in files.items():
            path = self.socket.parent / f"{name}.new"
            path.write_bytes(data)
            os.chown(path, user, user)
            path.rename(self.socket.parent / name)
        if server is not None:
            os.kill(server.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def serve(self, user: int = NOBODY) -> Iterator[SecretServer]:
        """Another agent's server, by the shipped one."""
        os.chown(self.socket.parent, user, user)
        self.put(self.make(), user)
        server = SecretServer(self.socket.parent, self.socket, user)
        try:
            yield server
        finally:
            server.kill()

    def run(self, op: str = "ensure", **changed: object) -> dict:  # type: ignore[type-arg]
        request = {
            "op": op,
            "spiffe_id": "spiffe://cluster.local/ns/default/sa/default",
            "named_parts": [],
            "output_dir": str(self.shown),
            "store_dir": str(self.directory / "store"),
            "secret_source": str(self.socket),
            "timeout_s": 30.0,
        }
        answer = run_worker("certificate", {**request, **changed}, user=NOBODY)
        assert isinstance(answer, dict)
        return answer

    def read(self) -> dict[str, bytes]:
        return {name: (self.shown / name).read_bytes() for name in NAMES}

    def message(self) -> str:
        """Why nothing new is held."""
        text = self.run()["error"]["message"]
        assert isinstance(text, str)
        return text


@pytest.fixture
def host() -> Iterator[Host]:
    # Not in /tmp, where any user may be the first to make a socket.
    made = Path(tempfile.mkdtemp(dir="/run"))
    made.chmod(0o755)
    try:
        for name in ("other", "shown", "store"):
            (made / name).mkdir()
            os.chown(made / name, NOBODY, NOBODY)
        yield Host(made, ca_material.create(made / "ca"))
    finally:
        shutil.rmtree(made)


def test_what_another_agent_gives_out_is_shown_without_any_ca(host: Host) -> None:
    with host.serve() as server:
        first = host.run()
        assert first["held"]["identity"] == WEB  # nothing of it was configured
        assert (first["held"]["obtained"], first["held"]["via"]) == (True, "socket")
        assert "credentials" not in first
        again = host.run("renew")
        assert again["held"]["serial"] == first["held"]["serial"]
        assert not again["held"]["obtained"]
        second = host.make()
        host.put(second, NOBODY, server)
        server.wait_log("secrets given out anew", 2)
        assert host.run()["held"]["serial"] != first["held"]["serial"]
    assert host.read() == second


def test_a_server_that_is_away_takes_nothing_away(host: Host) -> None:
    with host.serve():
        held = host.run()["held"]
    answer = host.run()
    assert answer["error"]["code"] == "authority-unavailable"
    assert f"the secret server at {host.socket}: nobody listens there" in str(answer["error"])
    assert answer["held"]["serial"] == held["serial"]
    host.socket.unlink()
    assert "does not exist" in host.message()
    host.socket.parent.chmod(0o700)
    os.chown(host.socket.parent, 0, 0)
    assert f"{host.socket.parent} belongs to root with mode 0700" in host.message()


def test_one_that_ends_soon_and_was_not_renewed_is_named(host: Host) -> None:
    with host.serve() as server:
        host.run()
        # As one that was given out long ago, and has next to nothing left.
        host.put(host.make(life_s=100.0, age_s=3000.0), NOBODY, server)
        server.wait_log("secrets given out anew", 2)
        assert "error" not in host.run(), "what is new is shown, however short it is"
        error = host.run()["error"]
    assert f"the secret server at {host.socket} ends on" in error["message"]
    assert "WORKLOAD_IDENTITY_SOCKET_FILE" in error["hint"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"spiffe_id": "spiffe://other.example/ns/a/sa/b"},
            "is for spiffe://cluster.local/ns/vms",
        ),
        (
            {"named_parts": ["namespace"], "spiffe_id": "spiffe://cluster.local/ns/a/sa/b"},
            "compare it with",
        ),
    ],
)
def test_a_certificate_for_somebody_else_is_refused(
    host: Host, changed: dict[str, Any], told: str
) -> None:
    with host.serve():
        answer = host.run(**changed)
    assert answer["error"]["code"] == "certificate-untrusted"
    assert told in f"{answer['error']['message']} {answer['error']['hint']}"
    assert not (host.shown / "key.pem").exists()


def test_who_may_answer_is_root_or_the_owner_of_a_directory_that_nobody_else_could_make(
    host: Host,
) -> None:
    with host.serve(DAEMON):
        # The shipped server lets its own user and root in alone, so root asks it.
        assert secretclient.fetch(str(host.socket), DISCOVERY, timeout_s=30).key
        host.directory.chmod(0o1777)
        with pytest.raises(Exception, match=f"user daemon answers at {host.socket}, and others"):
            secretclient.fetch(str(host.socket), DISCOVERY, timeout_s=30)


def test_nobody_else_leads_to_a_server_by_a_link_of_his(host: Host) -> None:
    """The directory below may be anybody's, as one in /tmp that was made first: so is its link."""
    foreign = host.directory / "foreign"
    foreign.mkdir()
    (foreign / "public").symlink_to(host.socket.parent)
    os.chown(foreign, NOBODY, NOBODY)
    path = str(foreign / "public" / host.socket.name)
    with host.serve(DAEMON):
        with pytest.raises(Exception, match=f"others could have: {foreign} belongs to nobody"):
            secretclient.fetch(path, DISCOVERY, timeout_s=30)
        os.chown(foreign, 0, 0)
        assert secretclient.fetch(path, DISCOVERY, timeout_s=30).key
        above = host.directory / "above"
        above.mkdir(mode=0o777)
        above.chmod(0o1777)
        foreign.rename(above / "foreign")
        os.chown(above / "foreign", DAEMON, DAEMON)
        path = str(above / "foreign" / "public" / host.socket.name)
        with pytest.raises(Exception, match=f"others could have: {above} "):
            secretclient.fetch(path, DISCOVERY, timeout_s=30)


def test_the_agents_own_secret_server_is_no_source(host: Host) -> None:
    link = host.directory / "link.sock"
    link.symlink_to("/run/istio-hostagent/secrets.sock")
    answer = host.run(secret_source=str(link))
    assert answer["error"]["code"] == "not-permitted"
    assert "this agent's own secret server" in answer["error"]["message"]


# -- servers that do not do what they should ------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


def grpc(*messages: bytes, flag: int = 0) -> bytes:
    return b"".join(struct.pack(">BI", flag, len(each)) + each for each in messages)


def head(*fields: tuple[bytes, bytes], is_end: bool = False) -> bytes:
    block = b"\x88"  # :status 200
    for name, value in ((b"content-type", b"application/grpc"), *fields):
        block += b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return frame(1, 0x5 if is_end else 0x4, 1, block)


def response(given: secrets.Secrets) -> bytes:
    return b"".join(protobuf.render_bytes(2, each.resource) for each in given.values())


def named_file(name: bytes) -> bytes:
    body = protobuf.render_bytes(1, name)
    body += protobuf.render_bytes(4, protobuf.render_bytes(1, protobuf.render_bytes(1, b"/x")))
    packed = protobuf.render_bytes(1, secrets.TYPE) + protobuf.render_bytes(2, body)
    return protobuf.render_bytes(2, packed)


SETTINGS = frame(4, 0, 0, b"")
DENIED = ((b"grpc-status", b"7"), (b"grpc-message", b"no identity issued"))
PAIR_ALONE = {secrets.CERTIFICATE: secrets.make(b"k", b"c", b"r")[secrets.CERTIFICATE]}
ANSWERS = {
    "nothing at all": (b"", "authority-unavailable", "the secret server at"),
    "no HTTP/2": (b"HTTP/1.1 400 Bad\r\n\r\n", "authority-unavailable", "the secret server at"),
    "a no": (
        SETTINGS + head(*DENIED, is_end=True),
        "credential-missing",
        "PERMISSION_DENIED no identity issued",
    ),
    "an end without an answer": (
        SETTINGS + head((b"grpc-status", b"0"), is_end=True),
        "authority-unavailable",
        "it gave no chain and no key and no roots",
    ),
    "no roots": (
        SETTINGS + head() + frame(0, 0, 1, grpc(response(PAIR_ALONE))),
        "authority-unavailable",
        "it gave no roots by the names default and ROOTCA",
    ),
    "a file's name": (
        SETTINGS + head() + frame(0, 0, 1, grpc(response(PAIR_ALONE) + named_file(b"ROOTCA"))),
        "authority-unavailable",
        "it gave no roots",
    ),
    "a compressed message": (
        SETTINGS + head() + frame(0, 0, 1, grpc(b"x", flag=1)),
        "authority-unavailable",
        "compressed",
    ),
    "garbage": (
        SETTINGS + head() + frame(0, 0, 1, grpc(b"\x12\xff\xff")),
        "authority-unavailable",
        "cannot be decoded",
    ),
    "a huge message": (
        SETTINGS + head() + frame(0, 0, 1, b"\0\x7f\0\0\0") + frame(0, 0, 1, b"x" * 16384) * 70,
        "authority-unavailable",
        "its answer is larger than 1048576 bytes",
    ),
    "keys that are none": (
        SETTINGS + head() + frame(0, 0, 1, grpc(response(secrets.make(b"k", b"c", b"r")))),
        "certificate-untrusted",
        "cannot be used",
    ),
}


# They may be waited for until the time is over.
SILENT = ("nothing at all", "no roots", "a file's name", "a no", "an end without an answer")


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("is_closing", [True, False], ids=["closes", "stays"])
def test_a_server_that_misbehaves_is_named_in_time(
    host: Host, name: str, is_closing: bool
) -> None:
    sent, code, told = ANSWERS[name]

    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(sent)

    with stub(host.socket, answer, is_closing=is_closing):
        error = host.run(timeout_s=8.0 if name in SILENT else 30.0)["error"]
    assert error["code"] == code, error
    assert told in error["message"]


def svid(identity: str, files: dict[str, bytes]) -> bytes:
    """As SPIFFE's Workload API gives one out: DER, and certificates one behind the other."""
    key = serialization.load_pem_private_key(files["key.pem"], None)
    found = [
        b"".join(
            each.public_bytes(serialization.Encoding.DER)
            for each in certificates.parse_certificates(files[name])
        )
        for name in ("cert-chain.pem", "root-cert.pem")
    ]
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    parts = (identity.encode(), found[0], der, found[1])
    body = b"".join(protobuf.render_bytes(n, part) for n, part in enumerate(parts, 1))
    return protobuf.render_bytes(1, body)


def test_the_workload_api_gives_the_identity_that_is_configured(host: Host) -> None:
    db = WEB.replace("web", "db")
    given = grpc(svid(WEB, host.make()) + svid(db, host.make(db)))

    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(SETTINGS + head() + frame(0, 0, 1, given))

    named: dict[str, Any] = {"spiffe_id": db, "named_parts": ["service_account", "namespace"]}
    nothing: dict[str, Any] = {}
    for wanted, more in ((db, named), (WEB, nothing)):
        with stub(host.socket, answer, is_closing=False):
            found = host.run(is_workload_api=True, **more)
        assert found["held"]["identity"] == wanted
        assert b"BEGIN PRIVATE KEY" in host.read()["key.pem"]
        host.socket.unlink()


def test_a_workload_api_that_has_no_identity_for_us_is_named(host: Host) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(SETTINGS + head(*DENIED, is_end=True))

    with stub(host.socket, answer, is_closing=True):
        error = host.run(is_workload_api=True)["error"]
    assert error["code"] == "credential-missing"
    assert f"the SPIFFE Workload API at {host.socket}: PERMISSION_DENIED" in error["message"]


def test_an_answer_that_overtakes_the_question_is_not_believed_either(host: Host) -> None:
    """By chance, one time in some hundred, it is there before anything is asked."""
    given = grpc(response(secrets.make(b"k", b"c", b"r")))
    host.directory.chmod(0o1777)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.socket))
        host.socket.chmod(0o666)
        server = os.fork()
        if not server:
            os.setuid(DAEMON)
            listener.listen()  # whose credentials a client sees
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(ConnectionError):
                    client.recv(65536)
                    client.sendall(SETTINGS + head() + frame(0, 0, 1, given))
        try:
            for _ in range(2000):
                eventually(lambda: is_refused(host.socket), "somebody answers")
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)


def is_refused(path: Path) -> bool:
    """Whether a stranger was refused; not while nobody listens yet.

    An answer that is there before the stream has begun is no HTTP/2: that call fails as such.
    """
    try:
        secretclient.fetch(str(path), DISCOVERY, timeout_s=30)
    except NotPermitted:
        return True
    except AuthorityUnavailable as error:
        return "nobody listens" not in str(error)
    pytest.fail("a stranger was believed")


@contextlib.contextmanager
def stub(
    path: Path, answer: Callable[[socket.socket], None], *, is_closing: bool
) -> Iterator[None]:
    """Root's server: one client is answered, and then left alone or closed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        kept = []

        def run() -> None:
            client, _ = listener.accept()
            kept.append(client)
            with contextlib.suppress(ConnectionError):
                answer(client)
                if is_closing:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(10)
        for each in kept:
            each.close()


def test_the_method_is_the_one_that_the_shipped_server_knows() -> None:
    assert asking.METHOD.startswith(connection.SERVICE.decode())
