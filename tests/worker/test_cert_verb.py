"""`istio-hostagent cert`: what this host holds, with and without an agent."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from istio_hostagent.cli import cert, main
from istio_hostagent.host import users
from tests.demo import ca_material

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the verb is root's")
WEB = "spiffe://cluster.local/ns/vms/sa/web"


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One to which istio-proxy can come, with the files of a host that say so."""
    made = Path(tempfile.mkdtemp())
    try:
        made.chmod(0o755)
        (made / "hostagent.env").write_text(f"OUTPUT_CERTS={made}/certs\n")
        (made / "cluster.env").write_text("ISTIO_SERVICE_CIDR=10.0.0.0/8\n")
        monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(made))
        monkeypatch.setenv("ISTIO_CLUSTER_CONFIG", str(made / "cluster.env"))
        monkeypatch.setenv("ISTIO_SIDECAR_CONFIG", str(made / "sidecar.env"))
        yield made
    finally:
        shutil.rmtree(made)


def hold(directory: Path) -> str:
    """Have a certificate there; returns its serial number."""
    material = ca_material.create(directory / "ca")
    chain, key = ca_material.pair(material, WEB, life_s=3600.0)
    certs = directory / "certs"
    certs.mkdir()
    (certs / "cert-chain.pem").write_bytes(chain)
    (certs / "root-cert.pem").write_bytes(material.root_bundle)
    (certs / "key.pem").write_bytes(key)
    (certs / "key.pem").chmod(0o600)
    os.chown(certs / "key.pem", *users.probe_user())
    return f"{ca_material.split(chain)[0].serial_number:x}"


def show() -> tuple[int, dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main.main(["cert", "--json"])
    return status, json.loads(out.getvalue()) if out.getvalue() else {}


def test_without_an_agent_it_reads_what_the_files_name(directory: Path) -> None:
    serial = hold(directory)
    status, found = show()
    assert (status, found["identity"], found["chain"][0]["serial"]) == (0, WEB, serial)
    assert (found["directory"], found["served"]) == (f"{directory}/certs", None)


def test_one_that_is_not_there_is_named(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show()[0] == 77
    assert f"{directory}/certs does not exist" in capsys.readouterr().err


def test_without_a_configuration_it_says_so(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "cluster.env").write_text("")
    (directory / "hostagent.env").write_text("")
    assert show()[0] == 78
    assert "no configuration yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("held", "", "shows this one"),
        ("other", "shows certificate 77 and not", "shows certificate 77 and not"),
        ("unknown", "it does not answer", "not known: it does not answer"),
    ],
)
def test_with_an_agent_it_says_what_the_proxy_shows(
    directory: Path, state: str, error: str, said: str
) -> None:
    serial = hold(directory)
    told = {
        "certificate": {
            "directory": f"{directory}/certs",
            "renewed_in": "",
            "renewed_by": "",
            "next_attempt": 1796000000.0,
            "last_error": "the CA is away",
        },
        "served_certificate": {"state": state, "serials": [serial], "last_error": error},
    }
    text = cert.render(cert.show(told))
    assert said in text
    assert serial in text
    assert "renewal        next 2026-11-" in text
    assert "problem        the CA is away" in text
