"""A CA that is dialled by an address: recognised by the name of its kind, whatever the port says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.agent import issuance
from tests.demo.ca import DemoAuthority
from tests.lab.citadel import Citadel

from .test_certificate_worker import SUBJECT, Host, held_of
from .test_identity_document import settings_of


@pytest.fixture
def citadel(tmp_path: Path) -> Iterator[Citadel]:
    made = Citadel(tmp_path / "ca")
    with made:
        yield made


@pytest.fixture
def istiod(tmp_path: Path) -> Iterator[DemoAuthority]:
    with DemoAuthority.create(tmp_path / "ca") as running:
        yield running


def ask(directory: Path, authority: DemoAuthority, root: bytes, text: str) -> dict[str, object]:
    """Ask this CA as the lines say; its port is the one that it has here."""
    host = Host(directory / "host", authority)
    host.output.mkdir(parents=True)
    (host.output / "root-cert.pem").write_bytes(root)
    host.give_token(authority.token(SUBJECT))
    request = issuance.make_request(settings_of(text), "renew", str(directory / "store"))
    del request["op"]
    changed: dict[str, object] = {
        "ca_port": authority.port,
        "output_dir": str(host.output),
        "root_file": str(host.output / "root-cert.pem"),
        "provisioned_dir": str(host.output),
        "token_file": str(host.token_file),
    }
    return held_of(host.run("renew", **{**request, **changed}))


NAMED = "ISTIO_NAMESPACE=vms\nSERVICE_ACCOUNT=web\n"


def test_classic_ca_on_a_port_that_says_nothing(tmp_path: Path, citadel: Citadel) -> None:
    held = ask(tmp_path, citadel, citadel.root.pem, f"CA_ADDR=127.0.0.1:31512\n{NAMED}")
    assert held["protocol"] == "citadel"


def test_istiod_on_the_port_of_a_classic_ca(tmp_path: Path, istiod: DemoAuthority) -> None:
    root = istiod.root_file.read_bytes()
    held = ask(tmp_path, istiod, root, f"CA_ADDR=127.0.0.1:8060\n{NAMED}")
    assert held["protocol"] == "istiod"
