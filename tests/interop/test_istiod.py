"""The certificate worker against a real istiod: what it gets, what is refused, what comes after.

conftest.py says how istiod is named; without it these tests skip.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from istio_hostagent import workers
from istio_hostagent.identity import certificates
from tests.demo import evidence

from . import authority as authorities
from . import istiod as istiods
from .authority import Authority, TokenKind
from .istiod import Istiod

LAUNCH = Path(workers.__file__).with_name("launch.py")


@dataclass(frozen=True)
class Client:
    """A host's directories beside istiod, and the worker that keeps a certificate in them."""

    istiod: Istiod
    directory: Path

    @property
    def token_file(self) -> Path:
        return self.directory / "token"

    @property
    def root_file(self) -> Path:
        return self.directory / "root.pem"

    @property
    def output(self) -> Path:
        return self.directory / "certs"

    def run(self, op: str, **changed: object) -> dict[str, dict[str, object]]:
        request = {
            "op": op,
            "ca_host": istiods.ADDRESS,
            "ca_port": istiods.PORT,
            "server_name": istiods.NAME,
            "spiffe_id": authorities.IDENTITY,
            "cluster_id": istiods.CLUSTER_ID,
            "token_file": str(self.token_file),
            "root_file": str(self.root_file),
            "output_dir": str(self.output),
            "store_dir": str(self.directory / "store"),
            "ttl_s": 3600,
        }
        done = self.istiod.network.run(
            [sys.executable, "-I", str(LAUNCH), "certificate"],
            stdin=json.dumps({**request, **changed}),
            timeout=60,
            check=True,
        )
        answer: dict[str, dict[str, object]] = json.loads(done.stdout)
        return answer

    def held(self, op: str, **changed: object) -> dict[str, object]:
        """What is held after an operation that must succeed."""
        answer = self.run(op, **changed)
        assert "error" not in answer, answer["error"]
        return answer["held"]

    def error(self, op: str, **changed: object) -> tuple[str, str]:
        """Code and message of an operation that must fail."""
        error = self.run(op, **changed)["error"]
        return str(error["code"]), str(error["message"])

    def files(self) -> dict[str, bytes]:
        """What the readers of its certificates see."""
        return {path.name: path.read_bytes() for path in self.output.iterdir() if path.is_file()}

    def roots(self) -> int:
        """How many roots the readers are given."""
        return len(certificates.parse_certificates((self.output / "root-cert.pem").read_bytes()))


@pytest.fixture
def client(istiod: Istiod, tmp_path: Path) -> Client:
    made = Client(istiod, tmp_path / "host")
    made.directory.mkdir()
    made.root_file.write_bytes(istiod.authority.root_bundle)
    made.token_file.write_text(istiod.authority.token())
    return made


class TestAsking:
    def test_first_certificate_by_token_then_renewal_without_it(self, client: Client) -> None:
        first = client.held("ensure")
        assert (first["via"], first["obtained"]) == ("token", True)
        assert first["identity"] == authorities.IDENTITY
        assert 3500 < float(str(first["not_after"])) - float(str(first["received"])) <= 3600
        assert client.roots() == 1
        assert client.held("ensure")["serial"] == first["serial"]

        client.token_file.unlink()
        second = client.held("renew")
        assert (second["via"], second["obtained"]) == ("certificate", True)
        assert second["serial"] != first["serial"]

    def test_an_expired_certificate_gives_way_to_the_token(self, client: Client) -> None:
        token = client.token_file.read_text()
        end = float(str(client.held("ensure", ttl_s=20)["not_after"]))
        evidence.wait_until("the certificate's end", lambda: time.time() > end, timeout_s=60.0)

        client.token_file.unlink()
        code, message = client.error("renew")
        assert code == "credential-missing"
        assert "nothing to show to the CA: the held certificate expired on" in message
        assert f"the token {client.token_file} does not exist" in message

        client.token_file.write_text(token)
        held = client.held("renew")
        assert (held["via"], held["obtained"]) == ("token", True)

    def test_a_certificate_without_its_intermediate_gives_way_to_one_that_is_whole(
        self, client: Client
    ) -> None:
        client.held("ensure")
        chain = client.output / "cert-chain.pem"
        leaf, _intermediate = certificates.parse_certificates(chain.read_bytes())
        chain.unlink()
        chain.write_bytes(certificates.render_certificates((leaf,)))
        held = client.held("renew")
        # Ours that is whole is shown next, so that no token is needed.
        assert (held["via"], held["obtained"]) == ("certificate", True)
        client.token_file.unlink()
        assert client.held("renew")["via"] == "certificate"


class TestRefusals:
    # istiod has one answer to all of these; what it means, we say.
    @pytest.mark.parametrize(
        ("kind", "explanation"),
        [
            (TokenKind.TOO_EARLY, "is valid only from"),
            (TokenKind.OTHER_AUDIENCE, "is meant for api (claim aud), not for istio-ca"),
            (TokenKind.AUDIENCE_AS_TEXT, "it must be a list"),
            (TokenKind.WITHOUT_END, "has no exp claim"),
            (TokenKind.OTHER_KEY, "its signing key or the cluster id is not known to the CA"),
            (TokenKind.OTHER_ISSUER, "its issuer, its signing key or the cluster id is not known"),
            (TokenKind.GARBAGE, "is not a JWT"),
        ],
    )
    def test_a_bad_token_is_refused_and_explained(
        self, client: Client, authority: Authority, kind: TokenKind, explanation: str
    ) -> None:
        client.token_file.write_text(authority.token(kind))
        code, message = client.error("ensure")
        assert code == "certificate-refused"
        assert "UNAUTHENTICATED" in message
        assert explanation in message
        assert not client.output.exists() or client.files() == {}

    def test_an_expired_token_is_not_even_sent(self, client: Client, authority: Authority) -> None:
        client.token_file.write_text(authority.token(TokenKind.EXPIRED))
        code, message = client.error("ensure")
        assert code == "credential-missing"
        assert "nothing to show to the CA" in message
        assert "expired on" in message

    def test_a_life_that_is_too_long_becomes_the_longest_that_is_allowed(
        self, client: Client
    ) -> None:
        held = client.held("ensure", ttl_s=100 * 86400)
        end, start = held["not_after"], held["received"]
        assert isinstance(end, float)
        assert isinstance(start, float)
        assert end - start == pytest.approx(90 * 86400, abs=600)

    def test_the_protocol_is_found_out(self, client: Client) -> None:
        held = client.held("ensure", protocols=["citadel", "istiod"])
        assert held["protocol"] == "istiod"

    def test_the_classic_protocol_is_not_known_there(self, client: Client) -> None:
        code, message = client.error("ensure", protocols=["citadel"])
        assert code == "certificate-refused"
        assert "the CA does not speak the protocol of citadel" in message
        assert "unknown service istio.v1.auth.IstioCAService" in message

    @pytest.mark.parametrize("kind", ["ec-p256", "ec-p384", "rsa-2048"])
    def test_every_kind_of_key_is_certified(self, client: Client, kind: str) -> None:
        assert client.held("ensure", key_kind=kind)["obtained"] is True
        assert client.held("renew", key_kind=kind)["via"] == "certificate"

    def test_a_wrong_name_of_the_ca_is_noticed(self, client: Client) -> None:
        code, message = client.error("ensure", server_name="elsewhere.example")
        assert code == "authority-unavailable"
        assert "elsewhere.example" in message


class TestChangesOfIstiod:
    def test_away_and_back(self, client: Client) -> None:
        first = client.held("ensure")
        before = client.files()
        client.istiod.stop()
        answer = client.run("renew")
        assert answer["error"]["code"] == "authority-unavailable"
        assert answer["held"]["serial"] == first["serial"]
        assert client.files() == before

        client.istiod.start()
        held = client.held("renew")
        assert (held["via"], held["obtained"]) == ("certificate", True)

    def test_a_new_root_is_refused_until_the_operator_adds_it(self, client: Client) -> None:
        first = client.held("ensure")
        before = client.files()
        old, new = client.istiod.authority, client.istiod.authority.successor()
        client.istiod.restart(new)
        answer = client.run("renew")
        assert answer["error"]["code"] == "authority-unavailable"
        assert "not from a root that we trust" in str(answer["error"]["hint"])
        assert answer["held"]["serial"] == first["serial"]
        assert client.files() == before

        # The old certificate means nothing to the new root: only the token helps.
        client.root_file.write_bytes(old.root.pem + new.root.pem)
        token = client.token_file.read_text()
        client.token_file.unlink()
        _code, message = client.error("renew")
        assert (
            "asked with the held certificate: the connection ended after it was shown" in message
        )
        assert f"the token {client.token_file} does not exist" in message
        assert client.files() == before

        client.token_file.write_text(token)
        held = client.held("renew")
        assert (held["via"], held["obtained"]) == ("token", True)
        assert (client.output / "root-cert.pem").read_bytes().strip() == new.root.pem.strip()
        client.token_file.unlink()
        assert client.held("renew")["via"] == "certificate"

    def test_a_new_root_that_istiod_announced_needs_neither_token_nor_operator(
        self, client: Client
    ) -> None:
        client.held("ensure")
        client.token_file.unlink()
        old, new = client.istiod.authority, client.istiod.authority.successor()
        client.istiod.restart(old.beside(new))
        assert client.held("renew")["via"] == "certificate"
        assert client.roots() == 2

        client.istiod.restart(new.beside(old))
        assert client.held("renew")["via"] == "certificate"
        client.istiod.restart(new)
        assert client.held("renew")["via"] == "certificate"
        assert client.roots() == 1
