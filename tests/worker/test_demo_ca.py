"""The demo authority behaves like the measured istiod, and survives abuse."""

import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("h2")

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.demo import ca, ca_material, ca_policy, ca_token, ca_wire

WEB = "system:serviceaccount:vms:web"
WEB_ID = "spiffe://cluster.local/ns/vms/sa/web"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca")
    ca_material.create(path)
    return path


@pytest.fixture
def authority(directory: Path) -> Iterator[ca.DemoAuthority]:
    with ca.DemoAuthority(directory) as running:
        yield running


@dataclass(frozen=True)
class Answer:
    """What a client got: gRPC status (None: the connection broke), text, chain in PEM."""

    status: int | None
    text: str
    chain: tuple[bytes, ...] = ()
    alpn: str | None = None


def client_context(
    authority: ca.DemoAuthority, pair: tuple[bytes, bytes] | None, tmp: Path, alpn: str = "h2"
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.root_file))
    context.set_alpn_protocols([alpn])
    if pair is not None:
        (tmp / "chain").write_bytes(pair[0])
        (tmp / "key").write_bytes(pair[1])
        context.load_cert_chain(tmp / "chain", tmp / "key")
    return context


def call(
    authority: ca.DemoAuthority,
    tmp: Path,
    *,
    body: bytes | None = None,
    token: str | None = None,
    authorization: str | None = None,
    pair: tuple[bytes, bytes] | None = None,
    path: str = ca_wire.METHOD,
    alpn: str = "h2",
) -> Answer:
    """Make one call as an istiod client does, over a connection of its own."""
    message = ca_wire.render_call(new_csr()) if body is None else body
    context = client_context(authority, pair, tmp, alpn)
    try:
        with (
            socket.create_connection(("127.0.0.1", authority.port), timeout=60) as raw,
            context.wrap_socket(raw, server_hostname="istiod.istio-system.svc") as sock,
        ):
            h2c = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
            h2c.initiate_connection()
            headers = [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "istiod"),
                (":path", path),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
            if token is not None:
                authorization = f"Bearer {token}"
            if authorization is not None:
                headers.append(("authorization", authorization))
            h2c.send_headers(1, headers)
            h2c.send_data(1, ca_wire.render_frame(message), end_stream=True)
            sock.sendall(h2c.data_to_send())
            return read_answer(sock, h2c)
    except OSError as error:
        return Answer(None, str(error))


def read_answer(sock: ssl.SSLSocket, h2c: h2.connection.H2Connection) -> Answer:
    data, trailers = b"", dict[str, str]()
    while received := sock.recv(65536):
        for event in h2c.receive_data(received):
            if isinstance(event, h2.events.DataReceived):
                data += event.data
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                trailers.update(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                chain = ca_wire.parse_chain(ca_wire.parse_frame(data)) if data else []
                status, text = int(trailers["grpc-status"]), trailers.get("grpc-message", "")
                return Answer(status, text, tuple(chain), sock.selected_alpn_protocol())
    return Answer(None, "closed")


def new_csr(
    key: ca_token.Key | None = None, *, common_name: str = "", san: str = "spiffe://x/ns/a/sa/b"
) -> bytes:
    name = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(name))
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(san)])
    builder = builder.add_extension(uri, critical=True)
    request = builder.sign(key or ca_material.new_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def leaf_of(answer: Answer) -> x509.Certificate:
    assert answer.status == 0, answer
    return x509.load_pem_x509_certificate(answer.chain[0])


def life_s(certificate: x509.Certificate) -> float:
    whole = ca_material.not_after(certificate) - ca_material.not_before(certificate)
    return whole.total_seconds()


def test_token_buys_a_certificate_for_the_account_in_the_token(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    key = ca_material.new_key()
    body = ca_wire.render_call(new_csr(key, san="spiffe://evil/ns/root/sa/root"), 3600)
    answer = call(authority, tmp_path, body=body, token=authority.token(WEB))
    leaf = leaf_of(answer)
    assert ca_material.uris_of(leaf) == (WEB_ID,)
    assert leaf.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ) == key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert life_s(leaf) == 3600 + 120
    assert len(leaf.subject) == 0
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert len(answer.chain) == 3
    assert answer.chain[2] == authority.root_file.read_bytes()
    (seen,) = authority.seen
    assert (seen.identity, seen.how, seen.ttl_s, seen.status) == (WEB_ID, "token", 3600, 0)


def test_chain_verifies_strictly_only_with_the_intermediate(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    answer = call(authority, tmp_path, token=authority.token(WEB))
    (tmp_path / "leaf").write_bytes(answer.chain[0])
    (tmp_path / "between").write_bytes(answer.chain[1])
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(authority.root_file)]
    leaf = str(tmp_path / "leaf")
    alone = subprocess.run([*command, leaf], capture_output=True, check=False)
    assert alone.returncode != 0
    between = ["-untrusted", str(tmp_path / "between")]
    subprocess.run([*command, *between, leaf], capture_output=True, check=True)


def test_certificate_decides_even_beside_a_token_of_somebody_else(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    pair = ca_material.pair(authority.material, WEB_ID, life_s=60)
    other = authority.token("system:serviceaccount:vms:other")
    answer = call(authority, tmp_path, pair=pair, token=other)
    assert ca_material.uris_of(leaf_of(answer)) == (WEB_ID,)
    stale = authority.token("system:serviceaccount:vms:other", ttl_s=-60)
    assert call(authority, tmp_path, pair=pair, token=stale).status == 0
    assert [seen.how for seen in authority.seen] == ["certificate", "certificate"]


@pytest.mark.parametrize("which", ["no intermediate", "expired", "foreign root", "foreign domain"])
def test_bad_client_certificates_break_the_connection_even_with_a_good_token(
    authority: ca.DemoAuthority, tmp_path: Path, which: str
) -> None:
    material = authority.material
    identity = WEB_ID
    if which == "foreign root":
        material = ca_material.foreign(material)
    if which == "foreign domain":
        identity = "spiffe://elsewhere/ns/vms/sa/web"
    chain, key = ca_material.pair(material, identity, life_s=-5 if which == "expired" else 60)
    if which == "no intermediate":
        chain = chain.partition(material.intermediate.pem)[0]
    answer = call(authority, tmp_path, pair=(chain, key), token=authority.token(WEB))
    assert answer.status is None
    assert authority.seen == ()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        pytest.param({"aud": ["other"]}, "aud", id="another audience"),
        pytest.param({"aud": "istio-ca"}, "aud", id="audience is no array"),
        pytest.param({"exp": None}, "exp is missing", id="no expiry"),
        pytest.param({"exp": 1}, "expired", id="expired"),
        pytest.param({"nbf": 4102444800}, "not valid before", id="too early"),
        pytest.param({"sub": "alice"}, "no service account", id="no account"),
    ],
)
def test_wrong_tokens_get_one_text_and_the_cause_stays_in_the_log(
    authority: ca.DemoAuthority, tmp_path: Path, change: dict[str, object], cause: str
) -> None:
    claims: dict[str, object] = {"aud": ["istio-ca"], "exp": time.time() + 60, "sub": WEB}
    token = ca_token.sign(authority.material.token_key, claims | change)
    answer = call(authority, tmp_path, token=token)
    assert (answer.status, answer.text) == (16, "request authenticate failure")
    assert cause in authority.seen[0].cause


@pytest.mark.parametrize("authorization", [None, "bearer {}", "Bearer  {}", "Bearer x.y.z", "{}"])
def test_the_scheme_is_exactly_bearer(
    authority: ca.DemoAuthority, tmp_path: Path, authorization: str | None
) -> None:
    if authorization is not None:
        authorization = authorization.format(authority.token(WEB))
    answer = call(authority, tmp_path, authorization=authorization)
    assert (answer.status, answer.text) == (16, "request authenticate failure")


def test_a_token_a_minute_early_or_signed_by_another_key(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    claims: dict[str, object] = {
        "aud": ["istio-ca"],
        "exp": time.time() + 600,
        "nbf": time.time() + 60,
        "sub": WEB,
    }
    good = ca_token.sign(authority.material.token_key, claims)
    assert call(authority, tmp_path, token=good).status == 0
    foreign = ca_token.sign(ca_material.new_key(), claims)
    assert call(authority, tmp_path, token=foreign).status == 16
    assert authority.seen[1].cause == "signed by another key"


@pytest.mark.parametrize(
    ("csr", "cause"),
    [
        pytest.param(b"", "certificate signing request is not properly encoded", id="empty"),
        pytest.param(b"hello", "certificate signing request is not properly encoded", id="text"),
        pytest.param(
            b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
            "failed to parse X.509 certificate signing request",
            id="cut",
        ),
        pytest.param(None, "x509: ECDSA verification failure", id="forged"),
    ],
)
def test_bad_requests_get_istiods_texts(
    authority: ca.DemoAuthority, tmp_path: Path, csr: bytes | None, cause: str
) -> None:
    body = ca_wire.render_call(forged_csr() if csr is None else csr)
    answer = call(authority, tmp_path, token=authority.token(WEB), body=body)
    assert (answer.status, answer.text) == (3, f"CSR signing error ({cause})")


def forged_csr() -> bytes:
    """Return a request whose signature is of another request's content."""
    request = x509.load_pem_x509_csr(new_csr(common_name="aaaa"))
    der = request.public_bytes(serialization.Encoding.DER).replace(b"aaaa", b"bbbb")
    return x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)


def test_life_asked_for_and_its_limit(authority: ca.DemoAuthority, tmp_path: Path) -> None:
    token = authority.token(WEB)
    too_long = ca_wire.render_call(new_csr(), ca_policy.MAX_TTL_S + 1)
    answer = call(authority, tmp_path, token=token, body=too_long)
    assert answer.text == (
        "CSR signing error (requested TTL 2160h0m1s is greater than the max allowed TTL 2160h0m0s)"
    )
    for ttl_s in (0, -5):
        body = ca_wire.render_call(new_csr(), ttl_s)
        leaf = leaf_of(call(authority, tmp_path, token=token, body=body))
        assert life_s(leaf) == 86400 + 120
    authority.life_s = 3
    assert life_s(leaf_of(call(authority, tmp_path, token=token))) == 123


def test_common_name_in_the_request_gives_the_identity_as_common_name(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    body = ca_wire.render_call(new_csr(common_name="anything"))
    leaf = leaf_of(call(authority, tmp_path, token=authority.token(WEB), body=body))
    assert leaf.subject.rfc4514_string() == f"CN={WEB_ID}"


def test_other_methods_are_unimplemented(authority: ca.DemoAuthority, tmp_path: Path) -> None:
    classic = call(authority, tmp_path, path="/istio.v1.auth.IstioCAService/HandleCSR")
    assert (classic.status, classic.text) == (12, "unknown service istio.v1.auth.IstioCAService")
    other = call(authority, tmp_path, path=f"/{ca_wire.SERVICE}/Other")
    assert (other.status, other.text) == (
        12,
        f"unknown method Other for service {ca_wire.SERVICE}",
    )


def test_without_h2_the_handshake_succeeds_and_nothing_follows(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    answer = call(authority, tmp_path, token=authority.token(WEB), alpn="http/1.1")
    assert answer.status is None
    assert authority.seen == ()


@pytest.mark.parametrize(("mode", "status"), [("refuse", 14), ("internal", 13)])
def test_modes_that_answer_with_a_status(
    authority: ca.DemoAuthority, tmp_path: Path, mode: str, status: int
) -> None:
    authority.mode = mode
    assert call(authority, tmp_path, token=authority.token(WEB)).status == status
    authority.mode = "ok"
    assert call(authority, tmp_path, token=authority.token(WEB)).status == 0


def test_modes_that_give_a_certificate_nobody_should_take(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    token, key = authority.token(WEB), ca_material.new_key()
    body = ca_wire.render_call(new_csr(key), 60)

    def leaf_in(mode: str) -> x509.Certificate:
        authority.mode = mode
        return leaf_of(call(authority, tmp_path, token=token, body=body))

    assert ca_material.uris_of(leaf_in("wrong-name")) == (WEB_ID + "-somebody-else",)
    end = ca_material.not_after(leaf_in("expired"))
    assert end.timestamp() < time.time()
    numbers = leaf_in("wrong-key").public_key()
    assert isinstance(numbers, type(key.public_key()))
    assert numbers.public_numbers() != key.public_key().public_numbers()
    authority.mode = "wrong-root"
    chain = call(authority, tmp_path, token=token, body=body).chain
    assert chain[2] != authority.root_file.read_bytes()
    authority.mode = "empty-chain"
    assert call(authority, tmp_path, token=token, body=body).chain == ()


def test_modes_that_break_the_answer(authority: ca.DemoAuthority, tmp_path: Path) -> None:
    token = authority.token(WEB)
    authority.mode = "garbage"
    with pytest.raises(ValueError, match="number cut short or too long"):
        call(authority, tmp_path, token=token)
    authority.mode = "half-frame"
    assert call(authority, tmp_path, token=token).status is None
    assert authority.seen[1].identity == WEB_ID


def test_mute_says_nothing_until_it_is_left(authority: ca.DemoAuthority, tmp_path: Path) -> None:
    authority.mode = "mute"
    with socket.create_connection(("127.0.0.1", authority.port), timeout=0.2) as sock:
        sock.sendall(b"\x16\x03\x01")
        with pytest.raises(TimeoutError):
            sock.recv(1)
        authority.mode = "ok"
        sock.settimeout(60)
        assert sock.recv(1) == b""
    assert call(authority, tmp_path, token=authority.token(WEB)).status == 0


def test_its_clock_decides_about_tokens_and_dates(
    authority: ca.DemoAuthority, tmp_path: Path
) -> None:
    token = authority.token(WEB, ttl_s=60)
    authority.skew_s = 3600
    assert call(authority, tmp_path, token=token).status == 16
    leaf = leaf_of(call(authority, tmp_path, token=authority.token(WEB)))
    assert ca_material.not_before(leaf).timestamp() > time.time() + 3000


def test_stop_and_start_keep_port_and_memory(authority: ca.DemoAuthority, tmp_path: Path) -> None:
    token = authority.token(WEB)
    assert call(authority, tmp_path, token=token).status == 0
    port = authority.port
    authority.stop()
    assert call(authority, tmp_path, token=token).status is None
    authority.start()
    assert authority.port == port
    assert call(authority, tmp_path, token=token).status == 0
    assert len(authority.wait_for_calls(2)) == 2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http1"),
        pytest.param(PREFACE + bytes(range(256)) * 40, id="noise"),
        pytest.param(PREFACE + frame(1, 4, 1, b"\xff" * 30), id="bad header compression"),
        pytest.param(PREFACE + frame(1, 5, 1, b"\x82"), id="headers without path"),
        pytest.param(PREFACE + frame(0, 0, 7, b"x"), id="data on an idle stream"),
        pytest.param(PREFACE + frame(3, 0, 1, b"\0\0\0\0"), id="reset of an idle stream"),
        pytest.param(PREFACE + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 3, id="window overflow"),
        pytest.param(PREFACE + frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"), id="window too large"),
        pytest.param(PREFACE + frame(7, 0, 0, b"\0" * 8), id="goodbye"),
        pytest.param(PREFACE + b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 70000, id="huge frame"),
        pytest.param(PREFACE + frame(6, 0, 0, b"cut"), id="short ping"),
        pytest.param(PREFACE + frame(2, 0, 3, b"\0\0\0\3\x10"), id="depends on itself"),
    ],
)
def test_abuse_ends_one_connection_and_nothing_else(
    authority: ca.DemoAuthority, tmp_path: Path, data: bytes
) -> None:
    context = client_context(authority, None, tmp_path)
    with (
        socket.create_connection(("127.0.0.1", authority.port), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(65536):  # until the authority, too, has ended it
                pass
    with (
        socket.create_connection(("127.0.0.1", authority.port), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(data)
        # A reset instead of an orderly end: what was sent meanwhile is lost on both sides.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with socket.create_connection(("127.0.0.1", authority.port), timeout=60) as plain:
        plain.sendall(b"\x16\x03\x01\x02\x00\x01" + b"\0" * 50)
    assert call(authority, tmp_path, token=authority.token(WEB)).status == 0


def test_command_line_serves_until_terminated(directory: Path, tmp_path: Path) -> None:
    module = [sys.executable, "-m", "tests.demo.ca"]
    where = ["--dir", str(directory)]
    token = subprocess.run(
        [*module, "token", *where, "--sub", WEB],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    serve = [*module, "serve", *where, "--listen", "127.0.0.1:0", "--log", str(tmp_path / "log")]
    with subprocess.Popen(serve, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            word, _, address = process.stdout.readline().strip().partition(" ")
            assert word == "listening"
            client = ca.DemoAuthority(directory, port=int(address.rpartition(":")[2]))
            assert call(client, tmp_path, token=token).status == 0
        finally:
            process.terminate()
        assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "not for production" in log
    assert WEB_ID in log
    assert token not in log


def test_files_are_private_and_both_token_algorithms_work(tmp_path: Path) -> None:
    ca.main(["init", "--dir", str(tmp_path / "rs"), "--token-algorithm", "RS256"])
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "rs").iterdir()}
    assert {modes[name] for name in modes if "key" in name} == {0o600}
    with ca.DemoAuthority(tmp_path / "rs") as authority:
        assert call(authority, tmp_path, token=authority.token(WEB)).status == 0
        es256 = ca_token.sign(
            ca_material.new_key(), {"aud": ["istio-ca"], "exp": time.time() + 60, "sub": WEB}
        )
        assert call(authority, tmp_path, token=es256).status == 16
