"""The certificate worker as a process, against an authority that speaks istiod's protocol."""

import base64
import json
import os
import random
import shutil
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from istio_hostagent import workers
from istio_hostagent.config import model as config
from istio_hostagent.identity import certificates
from istio_hostagent.workers import certificatesets
from tests.demo import ca_material
from tests.demo.ca import DemoAuthority
from tests.lab import soak

LAUNCH = Path(workers.__file__).with_name("launch.py")
WEB = "spiffe://cluster.local/ns/vms/sa/web"
DB = "spiffe://cluster.local/ns/vms/sa/db"
SUBJECT = "system:serviceaccount:vms:web"
SERVER_NAME = "istiod.istio-system.svc"
NOBODY = 65534
NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")
DEADLINE_S = 120.0


@dataclass
class Host:
    """A host's directories, and the worker's requests for them."""

    directory: Path
    authority: DemoAuthority
    changed: dict[str, object] = field(default_factory=dict)
    user: int | None = None

    @property
    def output(self) -> Path:
        return self.directory / "certs"

    @property
    def token_file(self) -> Path:
        return self.directory / "token"

    def request(self, op: str, **changed: object) -> str:
        request = {
            "op": op,
            "ca_host": "127.0.0.1",
            "ca_port": self.authority.port,
            "server_name": SERVER_NAME,
            "spiffe_id": WEB,
            "cluster_id": "Kubernetes",
            "token_file": str(self.token_file),
            "root_file": str(self.output / "root-cert.pem"),
            "output_dir": str(self.output),
            "store_dir": str(self.directory / "store"),
            "ttl_s": 3600,
            "headers": [["x-extra", "yes"]],
            "timeout_s": 40.0,
            "grace_ratio": 0.5,
        }
        return json.dumps({**request, **self.changed, **changed})

    def spawn(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/usr/bin/python3", "-I", str(LAUNCH), "certificate"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
            # A proxy named here must not be used.
            env={"https_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"},
        )

    def run(self, op: str, **changed: object) -> dict[str, object]:
        with self.spawn() as process:
            out, err = process.communicate(self.request(op, **changed), timeout=DEADLINE_S)
        assert process.returncode == 0, err
        assert err == ""
        assert_no_secret(out, self)
        answer: dict[str, object] = json.loads(out)
        return answer

    def give_token(self, text: str) -> None:
        self.token_file.write_text(text + "\n")

    def tree(self) -> dict[str, object]:
        """Everything on disk: link targets, contents, modes."""
        seen: dict[str, object] = {}
        for top in (self.output, self.directory / "store"):
            for path in sorted(top.rglob("*")):
                content = path.read_bytes() if path.is_file() else None
                link = os.readlink(path) if path.is_symlink() else None
                seen[str(path)] = (path.lstat().st_mode, link, content)
        return seen


def assert_no_secret(text: str, host: Host) -> None:
    assert "PRIVATE KEY" not in text
    if host.token_file.is_file():
        for part in host.token_file.read_text("latin-1").strip().split("."):
            assert len(part) < 20 or part not in text


def assert_pair_matches(output: Path) -> x509.Certificate:
    """What a reader of the directory gets: key and chain of one pair; returns the leaf."""
    here = Path(os.path.realpath(output / "..data"))
    key = serialization.load_pem_private_key((here / "key.pem").read_bytes(), None)
    leaf = ca_material.split((here / "cert-chain.pem").read_bytes())[0]
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)
    return leaf


def held_of(answer: dict[str, object]) -> dict[str, object]:
    held = answer["held"]
    assert isinstance(held, dict), answer
    return held


def error_of(answer: dict[str, object]) -> dict[str, str]:
    error = answer["error"]
    assert isinstance(error, dict)
    assert set(error) == {"code", "message", "hint"}
    return error


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[DemoAuthority]:
    with DemoAuthority.create(tmp_path / "ca") as running:
        yield running


@pytest.fixture
def host(tmp_path: Path, authority: DemoAuthority) -> Host:
    made = Host(tmp_path / "host", authority)
    made.output.mkdir(parents=True)
    shutil.copy(authority.root_file, made.output / "root-cert.pem")
    made.give_token(authority.token(SUBJECT))
    return made


def test_first_certificate_comes_by_token(host: Host, authority: DemoAuthority) -> None:
    assert error_of(host.run("inspect"))["code"] == "certificate-untrusted"
    answer = host.run("ensure")
    held = held_of(answer)
    assert set(answer) == {"held", "credentials"}
    looked = answer["credentials"]
    assert isinstance(looked, list)
    assert [(each["via"], each["reason"]) for each in looked] == [
        ("certificate", "no certificate is held"),
        ("token", ""),
    ]
    assert time.time() < looked[1]["until"] < time.time() + 3601
    assert (held["identity"], held["via"], held["obtained"]) == (WEB, "token", True)
    leaf = assert_pair_matches(host.output)
    assert held["serial"] == f"{leaf.serial_number:x}"
    assert held["not_after"] == ca_material.not_after(leaf).timestamp()
    # Leaf and intermediate, and the root bundle apart from them.
    assert len(ca_material.split((host.output / "cert-chain.pem").read_bytes())) == 2
    assert (host.output / "root-cert.pem").read_bytes() == authority.root_file.read_bytes()
    (call,) = authority.seen
    assert (call.how, call.identity, call.ttl_s, call.status) == ("token", WEB, 3600, 0)


def test_ensure_gives_what_is_held_without_asking(host: Host, authority: DemoAuthority) -> None:
    first = held_of(host.run("ensure"))
    for op in ("ensure", "inspect"):
        held = held_of(host.run(op))
        assert (held["serial"], held["obtained"], held["via"]) == (first["serial"], False, "")
    assert len(authority.seen) == 1


def test_renewal_shows_the_certificate_and_needs_no_token(
    host: Host, authority: DemoAuthority
) -> None:
    first = held_of(host.run("ensure"))
    host.token_file.unlink()
    second = held_of(host.run("renew"))
    assert (second["via"], second["obtained"]) == ("certificate", True)
    assert second["serial"] != first["serial"]
    assert f"{assert_pair_matches(host.output).serial_number:x}" == second["serial"]
    assert [call.how for call in authority.seen] == ["token", "certificate"]


def test_what_is_held_outlives_a_directory_that_is_gone_after_each_boot(
    host: Host, authority: DemoAuthority
) -> None:
    first = held_of(host.run("ensure"))
    # Token, root and what was obtained lay below /run.
    shutil.rmtree(host.output)
    host.token_file.unlink()
    assert error_of(host.run("inspect"))["code"] == "certificate-untrusted"
    held = held_of(host.run("ensure"))
    assert (held["serial"], held["obtained"]) == (first["serial"], False)
    assert f"{assert_pair_matches(host.output).serial_number:x}" == first["serial"]
    assert held_of(host.run("renew"))["via"] == "certificate"
    assert [call.how for call in authority.seen] == ["token", "certificate"]


def test_ensure_renews_past_the_grace_ratio(host: Host, authority: DemoAuthority) -> None:
    host.run("ensure")
    held = held_of(host.run("ensure", grace_ratio=0.9999999))
    assert (held["obtained"], held["via"]) == (True, "certificate")


def copy_from_another_machine(host: Host) -> None:
    """What a disk copied from another machine looks like: its pair, another /etc/machine-id."""
    (note,) = (host.directory / "store").glob("gen-*/machine")
    assert len(note.read_text()) == 64
    note.write_text("0" * 64)


def test_copied_disk_gets_a_certificate_of_its_own(host: Host, authority: DemoAuthority) -> None:
    first = held_of(host.run("ensure"))
    assert held_of(host.run("inspect"))["copied"] is False
    copy_from_another_machine(host)
    assert held_of(host.run("inspect"))["copied"] is True
    second = held_of(host.run("ensure"))
    assert second["serial"] != first["serial"]
    # By the token: the copied key is not shown while there is anything else.
    assert (second["copied"], second["via"]) == (False, "token")
    assert held_of(host.run("inspect"))["copied"] is False


def test_copied_certificate_is_the_last_credential(host: Host) -> None:
    host.run("ensure")
    copy_from_another_machine(host)
    host.token_file.unlink()
    held = held_of(host.run("ensure"))
    assert (held["copied"], held["via"]) == (False, "certificate")


def test_copied_certificate_stays_while_the_ca_is_away(host: Host) -> None:
    first = held_of(host.run("ensure"))
    copy_from_another_machine(host)
    answer = host.run("renew", ca_port=1)
    assert "error" in answer
    assert (held_of(answer)["serial"], held_of(answer)["copied"]) == (first["serial"], True)


def test_certificate_of_an_earlier_version_is_nobodys_copy(
    host: Host, authority: DemoAuthority
) -> None:
    host.run("ensure")
    (note,) = (host.directory / "store").glob("gen-*/machine")
    note.unlink()
    assert held_of(host.run("ensure"))["copied"] is False
    assert len(authority.seen) == 1


def test_life_of_seconds_is_not_renewed_on_arrival(host: Host, authority: DemoAuthority) -> None:
    # The authority dates back by two minutes: most of the span is over when it arrives.
    authority.life_s = 100.0
    host.run("ensure")
    held = held_of(host.run("ensure"))
    assert held["obtained"] is False
    assert isinstance(held["received"], float)
    assert isinstance(held["not_before"], float)
    assert held["received"] - held["not_before"] > 100


@pytest.mark.parametrize("is_joined", [False, True], ids=["first", "renewal"])
@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("mute", "authority-unavailable", "timed out"),
        ("refuse", "authority-unavailable", "UNAVAILABLE"),
        ("internal", "authority-unavailable", "INTERNAL"),
        ("half-frame", "authority-unavailable", "asked with the"),
        ("wrong-key", "certificate-untrusted", "another key"),
        ("wrong-name", "certificate-untrusted", "web-somebody-else, not for"),
        ("wrong-root", "certificate-untrusted", "no root that we trust"),
        ("expired", "certificate-untrusted", "expired on"),
        ("garbage", "certificate-untrusted", "the CA's answer"),
        ("empty-chain", "certificate-untrusted", "0 parts"),
    ],
)
def test_failure_is_named_and_touches_nothing(
    host: Host, authority: DemoAuthority, mode: str, code: str, words: str, is_joined: bool
) -> None:
    held = host.run("ensure")["held"] if is_joined else None
    before = host.tree()
    authority.mode = mode
    start = time.monotonic()
    answer = host.run("renew", timeout_s=4.0 if mode == "mute" else 40.0)
    assert time.monotonic() - start < DEADLINE_S
    error = error_of(answer)
    assert error["code"] == code
    assert words in error["message"]
    assert host.tree() == before
    assert (answer["held"] is None) is not is_joined
    if isinstance(held, dict):
        assert held_of(answer)["serial"] == held["serial"]
    authority.mode = "ok"
    assert held_of(host.run("renew"))["obtained"] is True


def test_unreachable_ca_is_named_with_its_address(host: Host, authority: DemoAuthority) -> None:
    authority.stop()
    error = error_of(host.run("ensure"))
    assert error["code"] == "authority-unavailable"
    assert f"127.0.0.1:{authority.port} (as {SERVER_NAME})" in error["message"]
    assert "with the token" in error["message"]
    assert "iptables-legacy-save" in error["hint"]


def test_ca_whose_name_nobody_knows_is_named_with_where_to_write_it(host: Host) -> None:
    error = error_of(host.run("ensure", ca_host="istiod.invalid"))
    assert error["code"] == "authority-unavailable"
    assert "istiod.invalid" in error["message"]
    assert "/etc/hosts" in error["hint"]


def test_ca_of_another_name_gets_no_credential(host: Host, authority: DemoAuthority) -> None:
    error = error_of(host.run("ensure", server_name="istiod.elsewhere.svc"))
    assert error["code"] == "authority-unavailable"
    assert "istiod.elsewhere.svc" in error["message"]
    assert "root file" in error["hint"]
    assert authority.seen == ()


def test_ca_of_an_unknown_root_gets_no_credential(
    host: Host, authority: DemoAuthority, tmp_path: Path
) -> None:
    other = ca_material.create(tmp_path / "other")
    (host.output / "root-cert.pem").write_bytes(other.root_bundle)
    error = error_of(host.run("ensure"))
    assert error["code"] == "authority-unavailable"
    assert authority.seen == ()


def test_address_and_name_may_be_the_same(host: Host, authority: DemoAuthority) -> None:
    assert held_of(host.run("ensure", server_name="", ca_host="127.0.0.1"))["obtained"] is True


def test_expired_token_is_explained_and_not_sent(host: Host, authority: DemoAuthority) -> None:
    host.give_token(authority.token(SUBJECT, ttl_s=-7200))
    error = error_of(host.run("ensure"))
    assert error["code"] == "credential-missing"
    assert f"the token {host.token_file} expired on" in error["message"]
    assert "no certificate is held" in error["message"]
    assert authority.seen == ()


@pytest.mark.parametrize(
    ("audiences", "words"),
    [(("api",), "is meant for api (claim aud), not for istio-ca"), (("istio-ca",), "looks right")],
)
def test_refused_token_is_explained(
    host: Host, authority: DemoAuthority, audiences: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    token = authority.token(SUBJECT, audiences=audiences)
    if "istio-ca" in audiences:
        stranger = ca_material.create(tmp_path / "stranger")
        with DemoAuthority(stranger.directory) as other:
            token = other.token(SUBJECT)
    host.give_token(token)
    error = error_of(host.run("ensure"))
    assert error["code"] == "certificate-refused"
    assert "UNAUTHENTICATED request authenticate failure" in error["message"]
    assert words in error["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "holds no token, but other text"),
        (b"\xff\x00", "holds no token, but bytes that are no text"),
        (b"a\nb: c", "holds no token, but other text"),
    ],
)
def test_file_that_holds_no_token_is_never_sent(
    host: Host, authority: DemoAuthority, content: bytes, words: str
) -> None:
    host.token_file.write_bytes(content)
    error = error_of(host.run("ensure"))
    assert error["code"] == "credential-missing"
    assert f"the token {host.token_file} {words}" in error["message"]
    assert authority.seen == ()


WRAPPED = [
    ("double quotes", '"{}"\n', "is in quotes"),
    ("single quotes", "'{}'", "is in quotes"),
    ("one quote", '{}"', "is in quotes"),
    ("Bearer", "Bearer {}", "begins with the word Bearer"),
    ("header", "Authorization: bearer {}\n", "begins with the word Bearer"),
    ("TokenRequest", '{{"kind":"TokenRequest","status":{{"token":"{}"}}}}', "is JSON with the token in it"),
    ("OAuth", '{{"access_token": "{}", "expires_in": 1}}', "is JSON with the token in it"),
    ("vault", '{{"data": {{"token": "{}"}}}}', "is JSON with the token in it"),
    ("byte order mark", "\ufeff{}\n", "begins with a byte order mark"),
    ("name", "token={}\n", "has a name in front of it"),
    ("YAML", "token: {}\n", "has a name in front of it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"), [row[1:] for row in WRAPPED], ids=[r[0] for r in WRAPPED]
)
def test_token_in_something_else_is_named_and_the_command_mends_it(
    host: Host, authority: DemoAuthority, text: str, words: str
) -> None:
    token = host.token_file.read_text().strip()
    host.token_file.write_text(text.format(token))
    assert_mended(host, authority, token, words)


@pytest.mark.parametrize("shape", ["wrapped", "blanks", "base64", "wrapped base64", "UTF-16"])
def test_token_in_another_shape_is_named_and_the_command_mends_it(
    host: Host, authority: DemoAuthority, shape: str
) -> None:
    token = host.token_file.read_text().strip()
    encoded = base64.b64encode(token.encode())
    lines = textwrap.wrap(token, 64)
    content, words = {
        "wrapped": ("\n".join(lines).encode(), f"is wrapped over {len(lines)} lines"),
        "blanks": (f"{token[:20]} {token[20:]}".encode(), "has blanks in it"),
        "base64": (encoded, "is encoded once more"),
        "wrapped base64": (base64.encodebytes(token.encode()), "is encoded once more"),
        "UTF-16": (token.encode("utf-16"), "is UTF-16 text"),
    }[shape]
    host.token_file.write_bytes(content)
    assert_mended(host, authority, token, words)


def assert_mended(host: Host, authority: DemoAuthority, token: str, words: str) -> None:
    """The mistake is named, nothing is sent, and the command that is named puts it right."""
    message = error_of(host.run("ensure"))["message"]
    assert f"the token {host.token_file} {words}; mend it with: " in message
    assert token[:16] not in message
    assert authority.seen == ()
    if "jq -r" in message and shutil.which("jq") is None:
        pytest.skip("the command that is named needs jq")
    command = message.split("mend it with: ", 1)[1]
    subprocess.run(["bash", "-c", command], check=True)
    assert host.token_file.read_text().strip() == token.strip()
    assert held_of(host.run("ensure"))["via"] == "token"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("null", "holds the word null: what made it found no token; ask for one again"),
        ('"null"', 'holds the word "null"'),
        ("<no value>", "holds the word <no value>"),
        ("None\n", "holds the word None"),
        ("{}", "is JSON without a token in it"),
        ('{"status":{"token":null}}', "is JSON without a token in it"),
        ('{"status":', "is no token, but something like JSON that is not whole"),
        ("Error from server (Forbidden): no", "holds an error message"),
        ("<html><body>", "is a web page"),
        ("-----BEGIN CERTIFICATE-----\nMII", "is a PEM file"),
    ],
)
def test_what_is_no_token_at_all_is_named(
    host: Host, authority: DemoAuthority, content: str, words: str
) -> None:
    host.token_file.write_text(content)
    assert f"the token {host.token_file} {words}" in error_of(host.run("ensure"))["message"]
    assert authority.seen == ()


def test_missing_token_is_named(host: Host) -> None:
    host.token_file.unlink()
    message = error_of(host.run("ensure"))["message"]
    assert f"the token {host.token_file} does not exist" in message


def test_missing_root_is_named(host: Host, authority: DemoAuthority) -> None:
    (host.output / "root-cert.pem").unlink()
    error = error_of(host.run("ensure"))
    assert error["code"] == "credential-missing"
    assert str(host.output / "root-cert.pem") in error["message"]
    assert authority.seen == ()


def test_public_roots_recognise_the_ca_which_then_names_the_roots_of_the_mesh(
    tmp_path: Path,
) -> None:
    """CA_ROOT_CA=SYSTEM: a gateway with a certificate of one of the system's many roots."""
    now = datetime.now(UTC)
    material = ca_material.create(tmp_path / "ca")
    public, server = ca_material.new_root("Public root", now), ca_material.new_key()
    chain = ca_material.server_certificate(public, server, [SERVER_NAME], now)
    (tmp_path / "ca/server-cert.pem").write_bytes(chain)
    (tmp_path / "ca/server-key.pem").write_bytes(ca_material.key_pem(server))
    others = [ca_material.new_root(f"Public root {number}", now).pem for number in range(150)]
    store = tmp_path / "store.pem"
    store.write_bytes(b"".join([*others, public.pem]))
    with DemoAuthority(material.directory) as authority:
        host = Host(tmp_path / "host", authority)
        host.output.mkdir(parents=True)
        host.give_token(authority.token(SUBJECT))
        public_roots = {"root_file": str(store), "has_public_roots": True}
        held = held_of(host.run("ensure", **public_roots))
        assert (held["obtained"], held["via"]) == (True, "token")
        assert (host.output / "root-cert.pem").read_bytes() == material.root_bundle
        renewed = held_of(host.run("renew", **public_roots))
        assert (renewed["obtained"], renewed["via"]) == (True, "certificate")
        # A root file of the operator's own says what a workload's certificate leads to as well.
        shutil.rmtree(host.directory)
        host.output.mkdir(parents=True)
        host.give_token(authority.token(SUBJECT))
        error = error_of(host.run("ensure", root_file=str(store)))
        assert "which is no root that we trust" in error["message"]


def test_every_root_of_this_operating_system_is_read() -> None:
    store = Path(config.SYSTEM_ROOTS)
    if not store.exists():
        pytest.skip("ca-certificates is not installed")
    found = certificates.parse_certificates(store.read_bytes(), limit=certificatesets.MAX_ROOTS)
    assert len(found) > 64


def test_token_of_another_account_gives_no_certificate(
    host: Host, authority: DemoAuthority
) -> None:
    host.give_token(authority.token("system:serviceaccount:vms:db"))
    error = error_of(host.run("ensure"))
    assert error["code"] == "certificate-untrusted"
    assert "is for spiffe://cluster.local/ns/vms/sa/db, not for" in error["message"]
    assert "service account" in error["hint"]


# The shortest life that a slow machine still sees before it has lapsed.
SHORT_LIFE_S = 10.0


def test_expired_certificate_is_never_shown(host: Host, authority: DemoAuthority) -> None:
    authority.life_s = SHORT_LIFE_S
    lapses = held_of(host.run("ensure"))["not_after"]
    assert isinstance(lapses, float)
    # The one thing that is awaited here is the clock.
    time.sleep(max(0.0, lapses - time.time()) + 0.05)
    assert "expired on" in error_of(host.run("inspect"))["message"]
    authority.life_s = None
    assert held_of(host.run("ensure"))["via"] == "token"
    assert [call.how for call in authority.seen] == ["token", "token"]


def test_without_any_valid_credential_both_are_named(host: Host, authority: DemoAuthority) -> None:
    authority.life_s = SHORT_LIFE_S
    lapses = held_of(host.run("ensure"))["not_after"]
    assert isinstance(lapses, float)
    host.give_token(authority.token(SUBJECT, ttl_s=-60))
    time.sleep(max(0.0, lapses - time.time()) + 0.05)
    answer = host.run("ensure")
    message = error_of(answer)["message"]
    assert answer["held"] is None
    assert "the held certificate expired on" in message
    assert f"the token {host.token_file} expired on" in message
    assert len(authority.seen) == 1


def test_certificate_that_the_ca_no_longer_takes_gives_way_to_the_token(
    host: Host, authority: DemoAuthority, tmp_path: Path
) -> None:
    host.run("ensure")
    with DemoAuthority.create(tmp_path / "new") as fresh:
        # The mesh has a new, unrelated root; the operator drops it in place of our link.
        (host.output / "root-cert.pem").unlink()
        shutil.copy(fresh.root_file, host.output / "root-cert.pem")
        host.give_token(fresh.token(SUBJECT))
        held = held_of(host.run("ensure", ca_port=fresh.port))
        assert (held["obtained"], held["via"]) == (True, "token")
        assert [call.how for call in fresh.seen] == ["token"]
        assert (host.output / "root-cert.pem").is_symlink()
        assert (host.output / "root-cert.pem").read_bytes() == fresh.root_file.read_bytes()
        host.token_file.unlink()
        assert held_of(host.run("renew", ca_port=fresh.port))["via"] == "certificate"


def test_certificate_refused_without_token_names_both(
    host: Host, authority: DemoAuthority, tmp_path: Path
) -> None:
    host.run("ensure")
    before = host.tree()
    with DemoAuthority.create(tmp_path / "new") as fresh:
        (tmp_path / "new-root.pem").write_bytes(fresh.root_file.read_bytes())
        host.token_file.unlink()
        answer = host.run("renew", ca_port=fresh.port, root_file=str(tmp_path / "new-root.pem"))
        assert held_of(answer)["obtained"] is False
        message = error_of(answer)["message"]
        assert "asked with the held certificate" in message
        assert f"{host.token_file} does not exist" in message
    assert host.tree() == before


def test_pair_provided_by_the_operator_is_the_first_credential(
    host: Host, authority: DemoAuthority
) -> None:
    chain, key = ca_material.pair(authority.material, WEB, life_s=600)
    (host.output / "cert-chain.pem").write_bytes(chain)
    (host.output / "key.pem").write_bytes(key)
    host.token_file.unlink()
    assert held_of(host.run("ensure"))["obtained"] is False
    assert held_of(host.run("renew"))["via"] == "provisioned"
    assert (host.output / "key.pem").is_symlink()
    assert host.run("release") == {"held": None}
    assert (host.output / "key.pem").read_bytes() == key
    assert (host.output / "cert-chain.pem").read_bytes() == chain
    assert not (host.output / "key.pem").is_symlink()
    assert not (host.output / "..data").is_symlink()


def test_settings_of_another_identity_make_the_held_certificate_count_no_more(
    host: Host, authority: DemoAuthority
) -> None:
    host.run("ensure")
    host.give_token(authority.token("system:serviceaccount:vms:db"))
    held = held_of(host.run("ensure", spiffe_id="spiffe://cluster.local/ns/vms/sa/db"))
    assert (held["identity"], held["via"]) == ("spiffe://cluster.local/ns/vms/sa/db", "token")


@pytest.fixture
def returning(host: Host, authority: DemoAuthority) -> Host:
    """A host that went from WEB to DB and is asked for WEB again: it has the token of DB."""
    host.run("ensure")
    become_db(host)
    return host


def become_db(host: Host) -> None:
    host.give_token(host.authority.token("system:serviceaccount:vms:db"))
    assert held_of(host.run("ensure", spiffe_id=DB))["via"] == "token"


def serials(host: Host) -> list[str]:
    """The serial of each generation that holds a certificate, in the order they were written."""
    paths = sorted((host.directory / "store").glob("gen-*/cert-chain.pem"))
    return [f"{ca_material.split(path.read_bytes())[0].serial_number:x}" for path in paths]


@pytest.mark.parametrize("renewals", [0, 1, 3])
def test_return_to_the_identity_before_needs_no_ca(
    host: Host, authority: DemoAuthority, renewals: int
) -> None:
    host.run("ensure")
    first = held_of(host.run("inspect"))
    become_db(host)
    for _ in range(renewals):
        assert held_of(host.run("renew", spiffe_id=DB))["via"] == "certificate"
    authority.stop()
    before = host.tree()
    assert "not for" in error_of(host.run("inspect"))["message"]
    assert host.tree() == before
    answer = host.run("ensure")
    assert answer == {"held": first}
    assert (first["obtained"], first["via"]) == (False, "")
    leaf = assert_pair_matches(host.output)
    assert f"{leaf.serial_number:x}" == first["serial"]
    assert host.run("inspect") == answer
    assert (host.output / "key.pem").stat().st_mode & 0o7777 == 0o600
    # And forth again: what the trial obtained is still good for it.
    assert held_of(host.run("ensure", spiffe_id=DB))["obtained"] is False
    assert len(serials(host)) == 2


def test_return_to_a_certificate_that_is_due_survives_without_the_ca(returning: Host) -> None:
    returning.authority.stop()
    answer = returning.run("ensure", grace_ratio=0.9999999)
    assert held_of(answer)["identity"] == WEB
    assert error_of(answer)["code"] == "authority-unavailable"
    assert_pair_matches(returning.output)


def test_identity_shown_again_is_renewed_by_its_own_certificate(returning: Host) -> None:
    returning.run("ensure")
    assert held_of(returning.run("renew"))["via"] == "certificate"
    assert [call.identity for call in returning.authority.seen] == [WEB, DB, WEB]


@pytest.mark.parametrize(("op", "ratio"), [("renew", 0.5), ("ensure", 0.9999999)])
def test_kept_certificate_is_the_credential_of_its_identity(
    returning: Host, op: str, ratio: float
) -> None:
    held = held_of(returning.run(op, grace_ratio=ratio))
    assert (held["identity"], held["via"], held["obtained"]) == (WEB, "certificate", True)


def test_expired_kept_certificate_is_neither_shown_nor_kept_on(
    host: Host, authority: DemoAuthority
) -> None:
    authority.life_s = SHORT_LIFE_S
    first = held_of(host.run("ensure"))
    authority.life_s = None
    become_db(host)
    lapses = first["not_after"]
    assert isinstance(lapses, float)
    time.sleep(max(0.0, lapses - time.time()) + 0.05)
    answer = host.run("ensure")
    # The token is that of DB: the CA was asked, and gave what that token is good for.
    assert authority.seen[-1].how == "token"
    assert "is for spiffe://cluster.local/ns/vms/sa/db, not for" in error_of(answer)["message"]
    host.run("renew", spiffe_id=DB)
    assert first["serial"] not in serials(host)
    host.give_token(authority.token(SUBJECT))
    held = held_of(host.run("ensure"))
    assert (held["identity"], held["via"]) == (WEB, "token")


@pytest.mark.parametrize("name", NAMES)
def test_kept_certificate_that_is_not_whole_is_not_shown(returning: Host, name: str) -> None:
    store = returning.directory / "store"
    current = os.path.realpath(returning.output / "..data")
    for path in store.glob(f"gen-*/{name}"):
        if str(path.parent) != current:
            path.write_bytes(path.read_bytes()[:100])
    before = returning.tree()
    returning.authority.stop()
    answer = returning.run("ensure")
    assert error_of(answer)["code"] == "authority-unavailable"
    assert answer["held"] is None
    assert returning.tree() == before


def test_operators_new_root_has_the_last_word_over_kept_certificates(
    returning: Host, tmp_path: Path
) -> None:
    with DemoAuthority.create(tmp_path / "new") as fresh:
        (returning.output / "root-cert.pem").unlink()
        shutil.copy(fresh.root_file, returning.output / "root-cert.pem")
        returning.give_token(fresh.token(SUBJECT))
        held = held_of(returning.run("ensure", ca_port=fresh.port))
        assert (held["identity"], held["obtained"], held["via"]) == (WEB, True, "token")


def test_operators_same_root_put_back_does_not_hide_kept_certificates(returning: Host) -> None:
    root = (returning.output / "root-cert.pem").read_bytes()
    (returning.output / "root-cert.pem").unlink()
    (returning.output / "root-cert.pem").write_bytes(b"# of the mesh\n" + root)
    returning.authority.stop()
    held = held_of(returning.run("ensure"))
    assert (held["identity"], held["obtained"]) == (WEB, False)
    assert f"{assert_pair_matches(returning.output).serial_number:x}" == held["serial"]
    assert (returning.output / "root-cert.pem").is_symlink()


def test_many_identities_leave_three_generations_at_most(
    host: Host, authority: DemoAuthority
) -> None:
    host.run("ensure")
    for account in ("db", "cache", "queue"):
        host.give_token(authority.token(f"system:serviceaccount:vms:{account}"))
        for op in ("ensure", "renew"):
            host.run(op, spiffe_id=f"spiffe://cluster.local/ns/vms/sa/{account}")
            assert len(list((host.directory / "store").glob("gen-*"))) <= 3


def test_planted_link_is_not_written_through(host: Host) -> None:
    victim = host.directory / "victim"
    victim.write_text("precious")
    (host.output / "key.pem").symlink_to(victim)
    (host.output / "cert-chain.pem").symlink_to(victim)
    assert held_of(host.run("ensure"))["obtained"] is True
    assert victim.read_text() == "precious"
    assert_pair_matches(host.output)


def test_request_with_a_broken_header_is_not_sent(host: Host, authority: DemoAuthority) -> None:
    error = error_of(host.run("ensure", headers=[["x-extra", "a\r\nauthorization: b"]]))
    assert error["code"] == "credential-missing"
    assert authority.seen == ()


@pytest.mark.soak
def test_kill_at_random_moments_of_renewals(host: Host) -> None:
    host.run("ensure")
    host.token_file.unlink()
    # Seeded, so that a failure can be repeated; how far the worker is by then never can.
    moments = random.Random(20260301)
    for _ in range(soak.times(15, 1000)):
        with host.spawn() as process:
            assert process.stdin is not None
            process.stdin.write(host.request("renew"))
            process.stdin.close()
            process.stdin = None
            time.sleep(moments.uniform(0.0, 0.25))
            process.kill()
            process.wait(DEADLINE_S)
        assert_pair_matches(host.output)
        for name in NAMES:
            assert (host.output / name).is_file()
    assert held_of(host.run("renew"))["via"] == "certificate"
    generations = list((host.directory / "store").glob("gen-*"))
    assert len(generations) == 2


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that another user can reach, which those of pytest are not."""
    made = Path(tempfile.mkdtemp(prefix="hostagent-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_runs_as_another_user_and_names_what_that_user_cannot_read(
    open_directory: Path, authority: DemoAuthority
) -> None:
    host = Host(open_directory / "host", authority, user=NOBODY)
    host.output.mkdir(parents=True)
    (host.directory / "store").mkdir()
    shutil.copy(authority.root_file, host.output / "root-cert.pem")
    for path in (host.output, host.directory / "store"):
        os.chown(path, NOBODY, NOBODY)
    host.give_token(authority.token(SUBJECT))
    host.token_file.chmod(0o600)
    error = error_of(host.run("ensure"))
    assert error["code"] == "credential-missing"
    token = host.token_file
    blamed = f"{token} belongs to root with mode 0600 (chown nobody {token})"
    assert f"the token {token} cannot be read by nobody: {blamed}" in error["message"]
    closed = open_directory / "closed $(id)" / "token"
    closed.parent.mkdir(mode=0o700)
    message = error_of(host.run("ensure", token_file=str(closed)))["message"]
    mend = f"setfacl -m u:nobody:x '{closed.parent}', or chmod o+x '{closed.parent}'"
    blamed = f"{closed.parent} belongs to root with mode 0700 ({mend})"
    assert f"the token {closed} cannot be reached by nobody: {blamed}" in message
    os.chown(token, NOBODY, NOBODY)
    assert held_of(host.run("ensure"))["via"] == "token"
    assert (host.output / "key.pem").stat().st_uid == NOBODY
    become_db(host)
    assert held_of(host.run("ensure"))["obtained"] is False
    for path in (host.output / "..data", host.output / "key.pem"):
        assert (path.lstat().st_uid, path.stat().st_uid) == (NOBODY, NOBODY)
    os.chown(host.directory / "store", 0, 0)
    before = host.tree()
    error = error_of(host.run("renew"))
    assert error["code"] == "not-permitted"
    assert str(host.directory / "store") in error["message"]
    assert host.tree() == before
    os.chown(host.directory / "store", NOBODY, NOBODY)
    root = shutil.copy(host.output / "root-cert.pem", host.directory / "root.pem")
    shutil.rmtree(host.output)
    hint = error_of(host.run("renew", root_file=str(root)))["hint"]
    assert hint == f"they are written by istio-proxy: install -d -o istio-proxy {host.output}"
