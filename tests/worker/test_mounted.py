"""The certificate worker where somebody else renews the certificate, as a process of its own."""

import os
import shutil
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from istio_hostagent.workers import certificate, mounted
from istio_hostagent.workers.credentials.request import Request
from tests.demo import ca_material
from tests.lab.workers import NOBODY, run_worker

WEB = "spiffe://cluster.local/ns/vms/sa/web"
SPIRE = "spiffe://cluster.local/web-server"
NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")


@dataclass
class Host:
    """Where somebody else puts certificates, and where readers find them."""

    directory: Path
    material: ca_material.Material

    @property
    def mounted(self) -> Path:
        return self.directory / "mounted"

    @property
    def output(self) -> Path:
        return self.directory / "shown"

    def make(
        self,
        identity: str = WEB,
        *,
        life_s: float = 3600.0,
        age_s: float = 120.0,
        roots: bytes | None = None,
    ) -> dict[str, bytes]:
        chain, key = ca_material.pair(self.material, identity, life_s=life_s, age_s=age_s)
        return dict(zip(NAMES, (key, chain, roots or self.material.root_bundle), strict=True))

    def put(self, files: dict[str, bytes]) -> None:
        self.mounted.mkdir(exist_ok=True)
        for name, data in files.items():
            (self.mounted / name).write_bytes(data)

    def request(self, op: str = "ensure") -> dict[str, Any]:
        return {
            "op": op,
            "spiffe_id": "spiffe://cluster.local/ns/default/sa/default",
            "named_parts": [],
            "output_dir": str(self.output),
            "store_dir": str(self.directory / "store"),
            "mounted_dir": str(self.mounted),
        }

    def run(self, op: str = "ensure", *, user: int | None = None, **changed: object) -> dict:  # type: ignore[type-arg]
        answer = run_worker("certificate", {**self.request(op), **changed}, user=user)
        assert isinstance(answer, dict)
        return answer

    def shown(self) -> dict[str, bytes]:
        return {name: (self.output / name).read_bytes() for name in NAMES}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, ca_material.create(tmp_path / "ca"))


def test_what_somebody_else_renews_is_shown_without_any_ca(host: Host) -> None:
    first = host.make()
    host.put(first)
    answer = host.run()
    assert answer["held"]["identity"] == WEB  # nothing of it was configured
    assert (answer["held"]["obtained"], answer["held"]["via"]) == (True, "files")
    assert host.shown() == first
    again = host.run()
    assert (again["held"]["obtained"], again["held"]["serial"]) == (
        False,
        answer["held"]["serial"],
    )
    second = host.make()
    host.put(second)
    assert host.run()["held"]["serial"] != answer["held"]["serial"]
    assert host.shown() == second
    assert {path.name: path.read_bytes() for path in host.mounted.iterdir()} == second


@pytest.mark.parametrize("name", NAMES)
def test_files_of_two_certificates_are_not_shown_and_what_was_is_kept(
    host: Host, name: str
) -> None:
    first = host.make()
    host.put(first)
    host.run()
    other = host.make(roots=ca_material.foreign(host.material).root_bundle)
    host.put({name: other[name]})
    answer = host.run()
    assert answer["error"]["code"] == "certificate-untrusted"
    assert str(host.mounted) in answer["error"]["message"]
    assert answer["held"]["identity"] == WEB
    assert host.shown() == first


def test_a_writer_that_is_in_the_middle_of_it_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.put(host.make())
    host.run()
    second = host.make()
    host.put({"key.pem": second["key.pem"]})
    # In this process, so that the writer goes on between two looks and at no other moment.
    monkeypatch.setattr(mounted, "time", types.SimpleNamespace(sleep=lambda _s: host.put(second)))
    answer = certificate.perform(Request(**host.request()))
    assert "error" not in answer
    assert host.shown() == second


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone_is_named_and_what_was_shown_stays(host: Host, name: str) -> None:
    first = host.make()
    host.put(first)
    host.run()
    (host.mounted / name).unlink()
    answer = host.run()
    assert answer["error"]["code"] == "credential-missing"
    assert f"{host.mounted}/{name} does not exist" in answer["error"]["message"]
    assert answer["held"] is not None
    assert host.shown() == first


def test_one_that_was_not_renewed_in_time_is_said_before_it_ends_and_after(host: Host) -> None:
    host.put(host.make(life_s=100.0, age_s=3000.0))  # less than a tenth is left
    assert host.run()["held"]["obtained"]
    answer = host.run()
    assert "was not renewed yet" in answer["error"]["message"]
    assert "look at the program that renews it" in answer["error"]["hint"]
    assert answer["held"] is not None
    host.put(host.make(life_s=-5.0))
    answer = host.run()
    assert f"the certificate in {host.mounted} expired on" in answer["error"]["message"]


def test_an_identity_of_another_system_is_taken_unless_keys_name_one(host: Host) -> None:
    host.put(host.make(SPIRE))
    assert host.run()["held"]["identity"] == SPIRE
    named = host.run(named_parts=["namespace"], spiffe_id=WEB)
    assert f"is for {SPIRE}, not for {WEB}" in named["error"]["message"]
    assert "ISTIO_NAMESPACE" in named["error"]["hint"]


def test_another_trust_domain_than_that_of_the_configuration_is_refused(host: Host) -> None:
    host.put(host.make("spiffe://example.org/web"))
    error = host.run()["error"]
    assert "is for spiffe://example.org/web" in error["message"]
    assert "TRUST_DOMAIN" in error["hint"]


@pytest.mark.parametrize("curve", ["ed25519", "secp256k1"])
def test_a_key_that_envoy_does_not_take_is_named(host: Host, curve: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate() if curve == "ed25519" else None
    made = key or ec.generate_private_key(ec.SECP256K1())
    now = ca_material.not_before(host.material.intermediate.certificate)
    end = ca_material.not_after(host.material.intermediate.certificate)
    leaf = ca_material.issue(
        host.material.intermediate, made.public_key(), ca_material.Leaf(WEB, now, end)
    )
    chain = leaf + host.material.intermediate.pem
    pem = ca_material.key_pem(made)  # type: ignore[arg-type]
    host.put({"key.pem": pem, "cert-chain.pem": chain, "root-cert.pem": host.material.root_bundle})
    assert "key that Envoy does not take" in host.run()["error"]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_a_key_that_istio_proxy_may_not_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    # pytest's own directories are closed to other users.
    top = Path("/tmp") / f"mounted-{os.getpid()}"
    try:
        top.mkdir(mode=0o755)
        host = Host(top, ca_material.create(tmp_path / "ca"))
        host.put(host.make())
        (host.mounted / "key.pem").chmod(0o600)
        for path in (host.output, host.directory / "store"):
            path.mkdir()
            os.chown(path, NOBODY, NOBODY)
        message = host.run(user=NOBODY)["error"]["message"]
        assert f"{host.mounted}/key.pem cannot be read by nobody" in message
        assert f"(chown nobody {host.mounted}/key.pem)" in message
    finally:
        shutil.rmtree(top, ignore_errors=True)


def test_output_certs_that_leads_to_the_same_directory_is_refused(host: Host) -> None:
    files = host.make()
    host.put(files)
    host.output.symlink_to(host.mounted)
    assert "OUTPUT_CERTS leads to" in host.run()["error"]["message"]
    assert {path.name: path.read_bytes() for path in host.mounted.iterdir()} == files


def test_files_behind_a_link_that_is_swapped_are_read_of_one_state(host: Host) -> None:
    for number in (1, 2):
        files = host.make()
        (host.mounted / f"v{number}").mkdir(parents=True)
        for name, data in files.items():
            (host.mounted / f"v{number}" / name).write_bytes(data)
        staged = host.mounted / "..staged"
        staged.symlink_to(f"v{number}")
        staged.rename(host.mounted / "..data")
        for name in NAMES:
            if not (host.mounted / name).is_symlink():
                (host.mounted / name).symlink_to(f"..data/{name}")
        assert host.run()["held"]["obtained"]
        assert host.shown() == files


def test_files_that_are_the_agents_own_are_no_ones_elses(host: Host) -> None:
    """Readers of a directory that is given back find nothing there; so it is not adopted."""
    host.put(host.make())
    own = host.run()["held"]
    before = host.shown()
    # What a worker has shown in one directory is named as where somebody else renews it.
    other: dict[str, Any] = {
        "mounted_dir": str(host.output),
        "output_dir": str(host.directory / "copy"),
        "store_dir": str(host.directory / "store-2"),
    }
    answer = host.run(**other)
    assert answer["error"]["code"] == "not-permitted"
    assert f"{host.output}/key.pem is this agent's own file" in answer["error"]["message"]
    assert "PROV_CERT" in answer["error"]["hint"]
    assert (answer["held"], host.shown()) == (None, before)
    files = host.make()
    for name, data in files.items():
        assert host.run(**other)["error"]["code"] == "not-permitted"
        (host.output / name).unlink()
        (host.output / name).write_bytes(data)
    answer = host.run(**other)
    assert answer["held"]["serial"] != own["serial"]
    assert (host.directory / "copy" / "key.pem").read_bytes() == files["key.pem"]


def test_as_many_roots_as_an_operating_system_trusts_are_taken(host: Host) -> None:
    files = host.make(roots=host.material.root_bundle + ca_material.many_roots(144))
    host.put(files)
    assert host.run()["held"]["identity"] == WEB
    assert host.shown() == files
    assert host.run("inspect")["held"]["identity"] == WEB
