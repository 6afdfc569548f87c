"""`istio-hostagent cert --check`: do files fit together, and for whom."""

import binascii
import contextlib
import io
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from istio_hostagent.cli import main
from istio_hostagent.host import processes, users
from tests.demo import ca_material
from tests.lab import spy
from tests.lab.workers import NOBODY, run_worker

WEB = "spiffe://cluster.local/ns/vms/sa/web"


@pytest.fixture
def material(tmp_path: Path) -> ca_material.Material:
    return ca_material.create(tmp_path / "ca")


def check(*paths: Path) -> tuple[int, dict[str, Any]]:
    """The exit status and the JSON of the verb, which has no private key in it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main.main(["cert", "--json", "--check", *map(str, paths)])
    assert "PRIVATE" not in out.getvalue()
    return status, json.loads(out.getvalue()) if out.getvalue() else {}


def write(directory: Path, **files: bytes) -> dict[str, Path]:
    directory.mkdir(exist_ok=True)
    made = {}
    for name, data in files.items():
        made[name] = directory / name.replace("__", "-").replace("_", ".")
        made[name].write_bytes(data)
    return made


def write_set(material: ca_material.Material, directory: Path) -> dict[str, Path]:
    chain, key = ca_material.pair(material, WEB, life_s=3600.0)
    roots = material.root_bundle
    return write(directory, key_pem=key, cert__chain_pem=chain, root__cert_pem=roots)


def test_a_directory_that_fits_is_told_with_its_identity_and_fingerprints(
    tmp_path: Path, material: ca_material.Material
) -> None:
    files = write_set(material, tmp_path / "set")
    status, found = check(tmp_path / "set")
    assert (status, found["fits"], found["faults"]) == (0, True, [])
    assert (found["version"], found["identity"], found["key"]) == (1, WEB, "ec-p256")
    leaf = ca_material.split(files["cert__chain_pem"].read_bytes())[0]
    assert found["chain"][0]["serial"] == f"{leaf.serial_number:x}"
    assert found["chain"][0]["not_after"] == ca_material.not_after(leaf).timestamp()
    assert found["chain"][0]["names"] == [WEB]
    root = x509.load_pem_x509_certificate(material.root_bundle)
    assert [each["fingerprint"] for each in found["roots"]] == [
        root.fingerprint(hashes.SHA256()).hex()
    ]
    assert found["chain"][-1]["issuer"] == root.subject.rfc4514_string()


def test_files_are_told_apart_by_what_is_in_them_in_any_order(
    tmp_path: Path, material: ca_material.Material
) -> None:
    files = write_set(material, tmp_path / "set")
    key, chain, roots = (path.read_bytes() for path in files.values())
    odd = write(tmp_path / "odd", a=roots, b=chain, c=key)
    assert check(odd["a"], odd["b"], odd["c"])[0] == 0
    both = write(tmp_path / "both", all_pem=key + chain, ca_pem=roots)
    status, found = check(both["ca_pem"], both["all_pem"])
    assert (status, found["identity"]) == (0, WEB)
    other = write_set(material, tmp_path / "other")["cert__chain_pem"]
    serial = found["chain"][0]["serial"]
    assert check(other, odd["b"], odd["c"], odd["a"])[1]["chain"][0]["serial"] == serial
    secret = tmp_path / "secret"
    write(secret, tls_key=key, tls_crt=chain, ca_crt=roots)
    assert check(secret)[0] == 0


def test_as_many_roots_as_an_operating_system_trusts_fit(
    tmp_path: Path, material: ca_material.Material
) -> None:
    roots = write_set(material, tmp_path / "set")["root__cert_pem"]
    roots.write_bytes(roots.read_bytes() + ca_material.many_roots(144))
    status, found = check(tmp_path / "set")
    assert (status, found["faults"]) == (0, [])


def test_what_does_not_fit_is_named(tmp_path: Path, material: ca_material.Material) -> None:
    files = write_set(material, tmp_path / "set")
    other = write_set(material, tmp_path / "other")
    foreign = ca_material.foreign(material).root_bundle
    strange = write(tmp_path / "strange", roots=foreign, text=b"hello\n")
    key, chain, roots = files.values()
    for paths, words in (
        ((other["key_pem"], chain, roots), "is for another key than ours"),
        ((key, chain, strange["roots"]), "which is no root that we trust"),
        ((key, chain), "there are no roots beside the certificate"),
        ((chain, roots), "there is no key"),
        ((key, roots), "there is no certificate"),
        ((key, chain, roots, strange["text"]), "text has neither a key nor a certificate"),
        ((key, other["key_pem"], chain, roots), "more than one file has a key"),
    ):
        status, found = check(*paths)
        assert (status, found["fits"]) == (1, False)
        assert words in "; ".join(found["faults"]), paths


def test_a_name_that_is_no_spiffe_id_and_an_end_are_named(
    tmp_path: Path, material: ca_material.Material
) -> None:
    chain, key = ca_material.pair(material, WEB, life_s=-5.0)
    write(
        tmp_path / "old", key_pem=key, cert__chain_pem=chain, root__cert_pem=material.root_bundle
    )
    status, found = check(tmp_path / "old")
    assert status == 1
    assert "expired on" in found["faults"][0]


def test_a_file_that_is_not_there_is_an_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path / "none")[0] == 77
    assert f"{tmp_path}/none" in capsys.readouterr().err


def test_for_people_it_is_a_table(
    tmp_path: Path, material: ca_material.Material, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(material, tmp_path / "set")
    assert main.main(["cert", "--check", str(tmp_path / "set")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["fits"], lines["identity"], lines["key"]) == ("yes", WEB, "ec-p256")
    assert "Demo root" in lines["root"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_a_directory_is_read_as_istio_proxy_which_says_what_it_may_not(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    answer = run_worker("certificateset", {"directory": str(tmp_path)}, user=NOBODY)
    assert answer["error"]["code"] == "not-permitted"
    assert "by nobody" in answer["error"]["message"]


def test_a_key_in_the_directory_stays_out_of_the_answer_however_it_is_named(
    tmp_path: Path, material: ca_material.Material
) -> None:
    write_set(material, tmp_path / "set")
    found = processes.Worker("certificateset", {"directory": str(tmp_path / "set")}).run(30.0)
    assert (found.identity, found.faults) == (WEB, ())
    assert "PRIVATE" not in repr(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_a_key_of_roots_is_shown_to_nobody_who_looks_into_processes_of_istio_proxy(
    tmp_path: Path, material: ca_material.Material
) -> None:
    """A program that runs as istio-proxy all the while, and sees what a process of its user has."""
    os.chmod(tmp_path, 0o700)
    write_set(material, tmp_path / "set")
    uid, gid = users.probe_user()
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", spy.SCRIPT, str(os.getpid())],
        stdout=subprocess.PIPE,
        text=True,
        user=uid,
        group=gid,
        extra_groups=[],
    ) as spying:
        assert spying.stdout is not None
        try:
            assert spying.stdout.readline() == "ready\n"
            for _ in range(8):
                assert check(tmp_path / "set")[0] == 0
            # What it would have said: a worker of its user's shows it all.
            key = binascii.b2a_base64((tmp_path / "set" / "key.pem").read_bytes()).decode()
            shown = {"files": [["shown.pem", key]]}
            seen = ""
            while not seen:
                processes.Worker("certificateset", shown, user=processes.User(uid, gid)).run(30.0)
                if select.select([spying.stdout], [], [], 0)[0]:
                    seen = spying.stdout.readline()
            assert "shown.pem" in seen
        finally:
            spying.kill()
