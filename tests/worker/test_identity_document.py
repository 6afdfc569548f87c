"""The examples of docs/identity.md, each as it stands there, as far as a certificate."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from istio_hostagent.agent import issuance
from istio_hostagent.config import build, model
from tests.demo import ca_token
from tests.demo.ca import DemoAuthority
from tests.lab import metadata
from tests.lab.citadel import Citadel

from .test_certificate_worker import Host, held_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "identity.md"
EXAMPLES = re.findall(r"```sh\n# ([a-z0-9: -]+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
ROOT_ONLY = model.Trust(is_root_only=True)
FACTS = model.HostFacts(proxy_uid=998, proxy_gid=998)


def settings_of(text: str) -> model.IdentitySettings:
    """What the lines of an example mean in hostagent.env, without a problem or warning."""
    layer = model.Layer("/etc/istio-hostagent/hostagent.env", text.encode(), ROOT_ONLY)
    outcome = build.build_config([layer], FACTS)
    assert (outcome.problems, outcome.warnings) == ((), ())
    assert outcome.config is not None
    return outcome.config.identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoAuthority]:
    with DemoAuthority.create(tmp_path_factory.mktemp("ca")) as running:
        yield running


@pytest.fixture(scope="module")
def citadel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Citadel]:
    made = Citadel(tmp_path_factory.mktemp("citadel"))
    with made:
        yield made


def test_the_document_has_an_example_for_each_credential() -> None:
    names = {name for name, _ in EXAMPLES if not name.startswith("key")}
    assert names == {"token", "provisioned", "command", "google", "amazon"}


@pytest.mark.parametrize(
    ("name", "text"), EXAMPLES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(EXAMPLES)]
)
def test_each_example_leads_to_a_certificate(
    tmp_path: Path, authority: DemoAuthority, citadel: Citadel, name: str, text: str
) -> None:
    settings = settings_of(text)
    is_classic = settings.protocols[0] is model.CaProtocol.CITADEL
    ca: DemoAuthority = citadel if is_classic else authority
    host = Host(tmp_path / "host", ca)
    host.output.mkdir(parents=True)
    root = citadel.root.pem if is_classic else authority.root_file.read_bytes()
    (host.output / "root-cert.pem").write_bytes(root)
    subject = f"system:serviceaccount:{settings.namespace}:{settings.service_account}"
    request = issuance.make_request(settings, "renew", str(tmp_path / "store"))
    # What is different on a machine of a test: addresses and places.
    del request["op"]
    changed: dict[str, object] = {
        "ca_host": "127.0.0.1",
        "ca_port": ca.port,
        "output_dir": str(host.output),
        "root_file": str(host.output / "root-cert.pem"),
        "provisioned_dir": str(host.output),
        "token_file": str(host.token_file),
    }
    if not is_classic:
        # The name in the address is the one that is verified; no key of the examples says another.
        assert settings.server_name == "istiod.istio-system.svc"
    if name == "token" or name.startswith("key"):
        host.give_token(ca.token(subject))
    if name == "command":
        [program, *arguments] = settings.token_command
        assert program == "/usr/local/bin/mesh-token"
        script = tmp_path / "mesh-token"
        token = ca.token(subject, audiences=arguments)
        script.write_text(f"#!/bin/sh\necho {token}\n")
        script.chmod(0o755)
        changed["token_command"] = [str(script), *arguments]
    if name == "provisioned":
        identity = "spiffe://cluster.local/ns/vms/sa/web"
        chain, key_pem = citadel.bootstrap(identity)
        (host.output / "cert-chain.pem").write_bytes(chain)
        (host.output / "key.pem").write_bytes(key_pem)
    behaviour = metadata.Behaviour(
        lambda audience: ca.token(subject, audiences=[audience, ca_token.AUDIENCE])
    )
    with metadata.MetadataServer(behaviour) as server:
        answer = host.run("renew", **{**request, **changed, "metadata_address": server.address})
    if name == "amazon":
        # As the document says, no CA accepts it by itself; it was shown.
        assert "a document in the request: UNAUTHENTICATED" in str(answer["error"])
        return
    held = held_of(answer)
    assert held["via"] == ("token" if name.startswith("key") else name)
    assert held["protocol"] == ("citadel" if is_classic else "istiod")
    key = serialization.load_pem_private_key((host.output / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    if name.startswith("key"):
        assert str(key.key_size) in name
