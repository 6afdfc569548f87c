"""The examples of docs/identity.md about files of others, outputs and the hook, as they stand."""

import contextlib
import io
import os
import re
import subprocess
from pathlib import Path

import pytest

from istio_hostagent.cli import main
from istio_hostagent.config import build, model
from istio_hostagent.host import accounts
from tests.demo import ca_material
from tests.lab.workers import NOBODY, run_worker

from .test_outputs import Host, facts, host, read_set

__all__ = ["host"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "identity.md"
EXAMPLES = re.findall(
    r"```sh\n# In (\S+)[^\n]*: [^\n]*\n(.*?)```", DOCUMENT.read_text(), re.DOTALL
)
ROOT_ONLY = model.Trust(is_root_only=True)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


def config_of(key: str, number: int = 0) -> model.Config:
    """What the example with this key means on this host, without a problem or warning."""
    text = [text for _, text in EXAMPLES if f"{key}=" in text][number]
    users, groups = accounts.read_users(), accounts.read_groups()
    layer = model.Layer("/etc/istio-hostagent/hostagent.env", text.encode(), ROOT_ONLY)
    outcome = build.build_config([layer], model.HostFacts(998, 998, users=users, groups=groups))
    assert (outcome.problems, outcome.warnings) == ((), ())
    assert outcome.config is not None
    return outcome.config


def test_files_that_somebody_else_renews(tmp_path: Path) -> None:
    settings = config_of("FILE_MOUNTED_CERTS").identity
    assert (settings.mounted_dir, settings.output_dir) == ("/srv/svid", "/etc/certs")
    material = ca_material.create(tmp_path / "ca", trust_domain=settings.trust_domain)
    chain, key = ca_material.pair(material, "spiffe://example.org/web", life_s=3600.0)
    there = tmp_path / "svid"
    there.mkdir()
    for name, data in (("key", key), ("cert-chain", chain), ("root-cert", material.root_bundle)):
        (there / f"{name}.pem").write_bytes(data)
    request = {
        "op": "ensure",
        "spiffe_id": settings.spiffe_id,
        "named_parts": settings.named_parts,
        "output_dir": str(tmp_path / "certs"),
        "store_dir": str(tmp_path / "store"),
        "mounted_dir": str(there),
    }
    assert run_worker("certificate", request)["held"]["identity"] == "spiffe://example.org/web"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main.main(["cert", "--check", str(there)]) == 0


def test_another_agents_secret_server() -> None:
    settings = config_of("WORKLOAD_IDENTITY_SOCKET_FILE").identity
    assert settings.secret_source == "/run/spire/sockets/agent.sock"
    assert (settings.trust_domain, settings.output_dir) == ("example.org", "/etc/certs")


@needs_root
def test_further_places(host: Host) -> None:
    outputs = config_of("ISTIO_HOSTAGENT_OUTPUTS").delivery.outputs
    files = host.hold()
    (host.out / "etc" / "haproxy").mkdir(parents=True)
    (host.out / "etc" / "mesh.password").write_text("changeit\n")
    (host.out / "etc" / "mesh.password").chmod(0o600)
    made = []
    for each in outputs:
        password = f"{host.out}{each.password_file}" if each.password_file else ""
        moved = each._replace(path=f"{host.out}{each.path}", password_file=password)
        made.append(moved._asdict() | {"kind": each.kind.value})
    assert host.write(*made) == [True, True, True]
    etc = host.out / "etc"
    assert (etc / "haproxy/mesh.pem").read_bytes() == files["key.pem"] + files["cert-chain.pem"]
    assert facts(etc / "haproxy/mesh.pem")[0] == 0o640
    assert read_set(etc / "postgresql-mesh") == files
    assert facts(etc / "postgresql-mesh" / "key.pem")[0] == 0o400
    command = ["openssl", "pkcs12", "-in", str(etc / "mesh.p12"), "-passin", "pass:changeit"]
    shown = subprocess.run([*command, "-nodes"], capture_output=True, text=True, check=True)
    assert shown.stdout.count("BEGIN CERTIFICATE") == 3
    assert "PRIVATE KEY" in shown.stdout
    assert NOBODY not in {facts(path)[1] for path in etc.rglob("*")}


def test_the_hooks_mean_what_is_said() -> None:
    units = config_of("ISTIO_HOSTAGENT_RENEW_HOOK").delivery.hook
    assert units == model.RenewHook(units=("nginx.service", "haproxy.service"))
    command = config_of("ISTIO_HOSTAGENT_RENEW_HOOK", 1).delivery.hook.command
    assert command == ("/usr/bin/logger", "-t", "mesh", "renewed")
