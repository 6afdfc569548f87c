"""Each kind of credential, from where it comes to a certificate: files, commands, clouds."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo import ca_material
from tests.demo.ca import DemoAuthority
from tests.lab import metadata
from tests.lab.alive import is_running
from tests.lab.citadel import Citadel
from tests.lab.waiting import eventually

from .test_certificate_worker import NOBODY, SUBJECT, WEB, Host, error_of, held_of


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[DemoAuthority]:
    with DemoAuthority.create(tmp_path / "ca") as running:
        yield running


@pytest.fixture
def host(tmp_path: Path, authority: DemoAuthority) -> Host:
    made = Host(tmp_path / "host", authority)
    made.output.mkdir(parents=True)
    (made.output / "root-cert.pem").write_bytes(authority.root_file.read_bytes())
    return made


def script(host: Host, text: str) -> list[str]:
    """A command of the operator's."""
    path = host.directory / "token-command"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path), "an argument"]


def looked(answer: dict[str, object]) -> dict[str, dict[str, object]]:
    found = answer["credentials"]
    assert isinstance(found, list)
    return {each["via"]: each for each in found}


@pytest.mark.parametrize(
    "form",
    [
        "%s",
        '{"kind": "ExecCredential", "status": {"token": "%s"}}',  # Kubernetes, as EKS and GKE print it
        '{"accessToken": "x", "access_token": "%s", "expires_on": "%d"}',
        '{"token": "%s", "expirationTimestamp": "2999-01-01T00:00:00Z"}',
        '{"request_id": "1", "data": {"token": "%s"}}',  # a vault's secret
    ],
)
def test_first_certificate_comes_by_a_command(
    host: Host, authority: DemoAuthority, form: str
) -> None:
    printed = form.replace("%s", authority.token(SUBJECT)).replace(
        "%d", str(int(time.time()) + 99)
    )
    (host.directory / "printed").write_text(printed)
    command = script(host, f'test "$1" = "an argument" && cat {host.directory}/printed')
    answer = host.run("renew", token_command=command)
    assert (held_of(answer)["via"], held_of(answer)["identity"]) == ("command", WEB)
    until = looked(answer)["command"]["until"]
    assert isinstance(until, float)
    assert until > time.time()
    assert "token" not in looked(answer)  # the file was not needed, so nobody has looked


def test_a_command_knows_nothing_of_our_environment_and_input(
    host: Host, authority: DemoAuthority
) -> None:
    seen = host.directory / "seen"
    command = script(
        host, f"env > {seen}; cat >> {seen}; id -u >> {seen}; cat {host.directory}/printed"
    )
    (host.directory / "printed").write_text(authority.token(SUBJECT))
    assert held_of(host.run("renew", token_command=command))["via"] == "command"
    lines = seen.read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert names <= {"PATH", "LANG", "PWD", "SHLVL", "_"}
    assert lines[-1] == str(os.getuid())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo out of order >&2; exit 3", "was not printed: exit status 3, out of order"),
        ("kill -9 $$", "was not printed: signal 9"),
        ("true", "is empty"),
        ("echo null", "is a word that means that there is none"),
        ("echo not a token", "is no token, but other text"),
        ("printf '\\377\\376'", "is no token, but bytes that are no text"),
        ("echo '{\"a\": 1}'", "is JSON without a token in it"),
        ("echo '{\"token\": '", "is no token, but something like JSON that is not whole"),
        ("head -c 70000 /dev/zero | tr '\\0' a", "is no token: longer than 65536 characters"),
        (
            'echo \'{"token": "opaque", "expires_on": 1000}\'',
            "has expired, as its source says",
        ),
    ],
)
def test_a_command_that_gives_no_token_is_named(host: Host, text: str, reason: str) -> None:
    command = script(host, text)
    error = error_of(host.run("renew", token_command=command))
    assert error["code"] == "credential-missing"
    assert f"the token of the command {command[0]} {reason}" in error["message"]


def test_a_command_that_hangs_ends_with_all_it_has_started(host: Host) -> None:
    note = host.directory / "pid"
    command = script(host, f"sleep 600 & echo $! > {note}; wait")
    error = error_of(host.run("renew", token_command=command, timeout_s=20.0))
    assert "did not come within" in error["message"]
    eventually(lambda: not is_running(int(note.read_text())), "what it has started has ended")


def test_a_command_that_is_not_there_is_named(host: Host) -> None:
    error = error_of(host.run("renew", token_command=["/usr/lib/nothing"]))
    message = "the token of the command /usr/lib/nothing cannot be had: No such file or directory"
    assert message in error["message"]


def test_the_token_file_is_tried_after_a_command_that_fails(
    host: Host, authority: DemoAuthority
) -> None:
    host.give_token(authority.token(SUBJECT))
    answer = host.run("renew", token_command=script(host, "exit 1"))
    assert held_of(answer)["via"] == "token"
    assert "exit status 1" in str(looked(answer)["command"]["reason"])


def test_identity_document_of_compute_engine_is_shown(
    host: Host, authority: DemoAuthority
) -> None:
    behaviour = metadata.Behaviour(
        lambda audience: authority.token(SUBJECT, audiences=["istio-ca", audience]),
        statuses=[503, 429],
    )
    with metadata.MetadataServer(behaviour) as server:
        answer = host.run("renew", metadata_kind="google", metadata_address=server.address)
    assert held_of(answer)["via"] == "google"
    # Asked again as long as it said "later"; the audience is the trust domain.
    assert behaviour.asked == 3
    assert behaviour.audiences == ["cluster.local"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (metadata.Behaviour(has_flavor=False), "has no header Metadata-Flavor: Google"),
        (metadata.Behaviour(statuses=[404]), "HTTP status 404"),
        (metadata.Behaviour(lambda _: "<html>"), "is not a JWT"),
    ],
    ids=["another server", "no document", "a page"],
)
def test_what_is_no_document_of_compute_engine_is_named(
    host: Host, behaviour: metadata.Behaviour, reason: str
) -> None:
    with metadata.MetadataServer(behaviour) as server:
        answer = host.run("renew", metadata_kind="google", metadata_address=server.address)
    message = error_of(answer)["message"]
    assert "the identity document of Compute Engine" in message
    assert reason in message


def test_no_metadata_server_is_named(host: Host) -> None:
    answer = host.run("renew", metadata_kind="google", metadata_address="127.0.0.1:1")
    message = error_of(answer)["message"]
    assert "was not given by http://127.0.0.1:1/computeMetadata/v1/" in message
    assert "ConnectionError" in message


@pytest.fixture
def citadel(tmp_path: Path) -> Iterator[Citadel]:
    made = Citadel(tmp_path / "citadel")
    with made:
        yield made


def test_a_classic_ca_gets_the_document_of_the_cloud(tmp_path: Path, citadel: Citadel) -> None:
    host = Host(tmp_path / "classic", citadel, {"server_name": "istio-citadel"})
    host.output.mkdir(parents=True)
    (host.output / "root-cert.pem").write_bytes(citadel.root.pem)
    behaviour = metadata.Behaviour(
        lambda audience: citadel.token(SUBJECT, audiences=[audience, "istio-ca"])
    )
    with metadata.MetadataServer(behaviour) as server:
        changed = {"metadata_kind": "google", "metadata_address": server.address}
        held = held_of(host.run("renew", protocols=["citadel"], **changed))
    assert (held["via"], held["protocol"]) == ("google", "citadel")
    assert behaviour.audiences == [f"grpc://127.0.0.1:{citadel.port}"]
    [(fields, _)] = citadel.asked
    assert fields[3] == [b"gcp"]
    [document] = fields[2]
    assert isinstance(document, bytes)
    assert document.count(b".") == 2


def test_a_classic_ca_gets_the_document_of_amazon_in_the_message(
    tmp_path: Path, citadel: Citadel
) -> None:
    host = Host(tmp_path / "classic", citadel, {"server_name": "istio-citadel"})
    host.output.mkdir(parents=True)
    (host.output / "root-cert.pem").write_bytes(citadel.root.pem)
    with metadata.MetadataServer(metadata.Behaviour()) as server:
        changed = {"metadata_kind": "amazon", "metadata_address": server.address}
        error = error_of(host.run("renew", protocols=["citadel"], **changed))
    # No Citadel ever had an authenticator for it.
    assert "a document in the request: UNAUTHENTICATED" in error["message"]
    [(fields, _)] = citadel.asked
    assert fields[3] == [b"aws"]
    [text] = fields[2]
    assert isinstance(text, bytes)
    assert isinstance(json.loads(text), str)


def test_a_pair_elsewhere_is_the_first_credential(
    host: Host, authority: DemoAuthority, tmp_path: Path
) -> None:
    place = tmp_path / "provisioned"
    place.mkdir()
    chain, key = ca_material.pair(authority.material, WEB, life_s=600)
    (place / "cert-chain.pem").write_bytes(chain)
    (place / "key.pem").write_bytes(key)
    answer = host.run("renew", provisioned_dir=str(place))
    assert held_of(answer)["via"] == "provisioned"
    # It is nobody's but the operator's.
    assert (place / "key.pem").read_bytes() == key
    assert held_of(host.run("renew", provisioned_dir=str(place)))["via"] == "certificate"


def test_a_pair_elsewhere_that_we_may_not_read_is_as_if_it_were_not_there(
    authority: DemoAuthority,
) -> None:
    with tempfile.TemporaryDirectory(prefix="hostagent-test-") as top:
        host = Host(Path(top) / "host", authority, user=NOBODY)
        place = Path(top) / "provisioned"
        for path in (host.directory, host.output, host.directory / "store", place):
            path.mkdir()
            os.chown(path, NOBODY, NOBODY)
        Path(top).chmod(0o755)
        os.chown(place, 0, 0)
        place.chmod(0o700)
        chain, key = ca_material.pair(authority.material, WEB, life_s=600)
        (place / "cert-chain.pem").write_bytes(chain)
        (place / "key.pem").write_bytes(key)
        (host.output / "root-cert.pem").write_bytes(authority.root_file.read_bytes())
        host.give_token(authority.token(SUBJECT))
        assert held_of(host.run("renew", provisioned_dir=str(place)))["via"] == "token"
        place.chmod(0o755)
        (place / "key.pem").chmod(0o644)
        assert held_of(host.run("renew", provisioned_dir=str(place)))["via"] == "certificate"


def test_the_next_credential_is_tried_where_one_is_for_somebody_else(
    host: Host, authority: DemoAuthority
) -> None:
    host.give_token(authority.token(SUBJECT))
    other = authority.token("system:serviceaccount:vms:db")
    answer = host.run("renew", token_command=script(host, f"echo {other}"))
    assert held_of(answer)["via"] == "token"
    assert "is for spiffe://cluster.local/ns/vms/sa/db" in str(looked(answer)["command"]["reason"])


def test_a_command_that_hangs_leaves_time_for_the_token_file(
    tmp_path: Path, citadel: Citadel
) -> None:
    """By both protocols: what the first has looked for is not looked for again."""
    host = Host(tmp_path / "classic", citadel, {"server_name": "istio-citadel"})
    host.output.mkdir(parents=True)
    (host.output / "root-cert.pem").write_bytes(citadel.root.pem)
    host.give_token(citadel.token(SUBJECT))
    command = script(host, f"echo x >> {host.directory}/runs; sleep 600")
    changed = {"token_command": command, "timeout_s": 40.0}
    answer = host.run("renew", protocols=["istiod", "citadel"], **changed)
    assert held_of(answer)["via"] == "token"
    assert (host.directory / "runs").read_text() == "x\n"


@pytest.mark.parametrize("secret", ["token", "trace"])
def test_words_of_a_command_hide_what_may_be_a_secret(
    host: Host, authority: DemoAuthority, secret: str
) -> None:
    token = authority.token(SUBJECT)
    text = f"echo {token}; exit 1" if secret == "token" else "exit 1"
    answer = host.run("renew", token_command=script(host, f"set -x; : {token}; {text}"))
    shown = json.dumps(answer)
    assert "exit status 1" in shown
    for part in token.split("."):
        assert part not in shown


def test_a_metadata_server_that_breaks_off_does_not_end_the_attempt(
    host: Host, authority: DemoAuthority
) -> None:
    host.give_token(authority.token(SUBJECT))
    behaviour = metadata.Behaviour(lambda _: "x" * 100, is_cut=True)
    with metadata.MetadataServer(behaviour) as server:
        answer = host.run("renew", metadata_kind="google", metadata_address=server.address)
    assert held_of(answer)["via"] == "token"
    reason = str(looked(answer)["google"]["reason"])
    assert "did not come whole" in reason or "was not given" in reason


def test_a_metadata_server_that_drips_leaves_time_for_the_token_file(
    host: Host, authority: DemoAuthority
) -> None:
    host.give_token(authority.token(SUBJECT))
    behaviour = metadata.Behaviour(lambda _: "x" * 1000, pause_s=0.3)
    changed = {"metadata_kind": "google", "timeout_s": 40.0}
    with metadata.MetadataServer(behaviour) as server:
        answer = host.run("renew", metadata_address=server.address, **changed)
    assert held_of(answer)["via"] == "token"
    assert "did not come within" in str(looked(answer)["google"]["reason"])


def test_only_the_root_file_says_by_which_roots_the_ca_is_recognised(
    host: Host, authority: DemoAuthority, tmp_path: Path
) -> None:
    with DemoAuthority.create(tmp_path / "elsewhere") as other:
        place = tmp_path / "provisioned"
        place.mkdir()
        (place / "root-cert.pem").write_bytes(authority.root_file.read_bytes())
        (host.output / "root-cert.pem").unlink()
        host.give_token(authority.token(SUBJECT))
        changed = {"provisioned_dir": str(place), "root_file": str(other.root_file)}
        assert error_of(host.run("renew", **changed))["code"] == "authority-unavailable"
    assert authority.seen == ()
