"""The certificate worker against a real, running istiod.

It needs a cluster, so it is not started here: the environment says where it is, and the tests skip
without.

    ISTIO_HOSTAGENT_TEST_CA        HOST:PORT of its TLS port (15012)
    ISTIO_HOSTAGENT_TEST_ROOT      file: the mesh's root certificate
    ISTIO_HOSTAGENT_TEST_TOKEN     file: a bootstrap token it accepts
    ISTIO_HOSTAGENT_TEST_IDENTITY  spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT of that token
    ISTIO_HOSTAGENT_TEST_NAME      its TLS name, istiod.istio-system.svc if not said
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from istio_hostagent import workers
from istio_hostagent.identity import certificates

pytestmark = pytest.mark.interop

LAUNCH = Path(workers.__file__).with_name("launch.py")
NEEDED = ("CA", "ROOT", "TOKEN", "IDENTITY")
PREFIX = "ISTIO_HOSTAGENT_TEST_"


@dataclass(frozen=True)
class Host:
    """A host's directories, and requests of the worker to the istiod of the environment."""

    directory: Path

    @property
    def token_file(self) -> Path:
        return self.directory / "token"

    @property
    def output(self) -> Path:
        return self.directory / "certs"

    def run(self, op: str, **changed: object) -> dict[str, dict[str, object]]:
        address, _, port = os.environ[PREFIX + "CA"].rpartition(":")
        request = {
            "op": op,
            "ca_host": address.strip("[]"),
            "ca_port": int(port),
            "server_name": os.environ.get(PREFIX + "NAME", "istiod.istio-system.svc"),
            "spiffe_id": os.environ[PREFIX + "IDENTITY"],
            "cluster_id": "Kubernetes",
            "token_file": str(self.token_file),
            "root_file": str(self.directory / "root.pem"),
            "output_dir": str(self.output),
            "store_dir": str(self.directory / "store"),
            "ttl_s": 3600,
        }
        done = subprocess.run(
            [sys.executable, "-I", str(LAUNCH), "certificate"],
            input=json.dumps({**request, **changed}),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        answer: dict[str, dict[str, object]] = json.loads(done.stdout)
        return answer

    def error(self, op: str, **changed: object) -> tuple[str, str]:
        error = self.run(op, **changed)["error"]
        return str(error["code"]), str(error["message"])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    missing = [PREFIX + name for name in NEEDED if PREFIX + name not in os.environ]
    if missing:
        reason = f"no running istiod is named: set {', '.join(missing)}"
        if "interop" in os.environ.get("HOSTAGENT_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    made = Host(tmp_path)
    shutil.copy(os.environ[PREFIX + "TOKEN"], made.token_file)
    shutil.copy(os.environ[PREFIX + "ROOT"], tmp_path / "root.pem")
    return made


def changed_claims(token: str, **claims: object) -> str:
    """The token with other claims, whose signature is therefore wrong."""
    head, body, signature = token.strip().split(".")
    known = json.loads(base64.urlsafe_b64decode(body + "=="))
    text = base64.urlsafe_b64encode(json.dumps({**known, **claims}).encode())
    return f"{head}.{text.rstrip(b'=').decode()}.{signature}"


def test_first_certificate_by_token_then_renewal_without_it(host: Host) -> None:
    first = host.run("ensure")["held"]
    assert (first["via"], first["obtained"]) == ("token", True)
    assert first["identity"] == os.environ[PREFIX + "IDENTITY"]
    assert 3000 < float(str(first["not_after"])) - float(str(first["received"])) <= 3600
    assert host.run("ensure")["held"]["serial"] == first["serial"]
    host.token_file.unlink()
    second = host.run("renew")["held"]
    assert (second["via"], second["obtained"]) == ("certificate", True)
    assert second["serial"] != first["serial"]


def test_token_with_a_wrong_signature_is_refused_and_explained(host: Host) -> None:
    token = host.token_file.read_text()
    host.token_file.write_text(changed_claims(token, extra="x"))
    code, message = host.error("ensure")
    assert code == "certificate-refused"
    assert "UNAUTHENTICATED" in message
    assert "its signing key or the cluster id is not known to the CA" in message


def test_token_for_another_audience_is_refused_and_explained(host: Host) -> None:
    token = host.token_file.read_text()
    host.token_file.write_text(changed_claims(token, aud=["api"]))
    code, message = host.error("ensure")
    assert code == "certificate-refused"
    assert "is meant for api (claim aud), not for istio-ca" in message


def test_what_is_no_token_is_refused_and_explained(host: Host) -> None:
    host.token_file.write_text("nonsense")
    code, message = host.error("ensure")
    assert code == "certificate-refused"
    assert "is not a JWT" in message


def test_expired_token_is_not_sent(host: Host) -> None:
    token = host.token_file.read_text()
    host.token_file.write_text(changed_claims(token, exp=1600000000))
    code, message = host.error("ensure")
    assert code == "certificate-refused"
    assert "nothing to show to the CA" in message
    assert "expired on 2020-09-13" in message


def test_life_that_is_too_long_is_refused_with_the_limit(host: Host) -> None:
    code, message = host.error("ensure", ttl_s=90 * 86400 + 1)
    assert code == "certificate-refused"
    assert "INVALID_ARGUMENT" in message
    assert "max allowed TTL" in message


def test_wrong_name_of_the_ca_is_noticed(host: Host) -> None:
    code, message = host.error("ensure", server_name="elsewhere.example")
    assert code == "authority-unavailable"
    assert "elsewhere.example" in message


def test_certificate_shown_without_its_intermediate_gives_way_to_the_token(host: Host) -> None:
    host.run("ensure")
    chain = host.output / "cert-chain.pem"
    found = certificates.parse_certificates(chain.read_bytes())
    if len(found) < 2:
        pytest.skip("this CA signs with its root: there is no intermediate to leave out")
    chain.unlink()
    chain.write_bytes(certificates.render_certificates(found[:1]))
    held = host.run("renew")["held"]
    assert (held["via"], held["obtained"]) == ("token", True)
    host.token_file.unlink()
    assert host.run("renew")["held"]["via"] == "certificate"
