"""What a real istiod is given to certify with, and the bootstrap tokens that it accepts or not.

Tests only: keys lie in plain files. The token key is RSA because istiod's JWT rule takes nothing
but RS256 without being told.
"""

import base64
import datetime
import enum
import time
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.demo import ca_material, ca_token

AUDIENCE, ISSUER = ca_token.AUDIENCE, ca_token.ISSUER
TRUST_DOMAIN = "cluster.local"
NAMESPACE, SERVICE_ACCOUNT = "vms", "web"
SUBJECT = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
IDENTITY = f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{SERVICE_ACCOUNT}"
TOKEN_LIFE_S = 3600


class TokenKind(enum.StrEnum):
    """A good token, and one for each thing that can be wrong with one."""

    GOOD = "good"
    EXPIRED = "expired"
    TOO_EARLY = "too-early"
    OTHER_AUDIENCE = "other-audience"
    AUDIENCE_AS_TEXT = "audience-as-text"
    WITHOUT_END = "without-end"
    OTHER_KEY = "other-key"
    OTHER_ISSUER = "other-issuer"
    GARBAGE = "garbage"


@dataclass(frozen=True)
class Authority:
    """A root, an intermediate that signs for it, and the key of those who hand out tokens."""

    root: ca_material.Signer
    intermediate: ca_material.Signer
    token_key: rsa.RSAPrivateKey
    further_roots: bytes = b""

    @classmethod
    def create(cls) -> "Authority":
        """Make a new one, in memory."""
        root, intermediate = _new_signers("Test root")
        return cls(root, intermediate, _new_token_key())

    def successor(self) -> "Authority":
        """Return one with an unrelated root and intermediate; tokens stay good."""
        root, intermediate = _new_signers("Test root, the next one")
        return replace(self, root=root, intermediate=intermediate, further_roots=b"")

    def beside(self, other: "Authority") -> "Authority":
        """Return the same, which hands out the root of `other` along with its own."""
        return replace(self, further_roots=other.root.pem)

    @property
    def root_bundle(self) -> bytes:
        """Every root that is handed out, PEM."""
        return self.root.pem + self.further_roots

    def write(self, directory: Path) -> None:
        """Write the four files that istiod looks for in ROOT_CA_DIR; replaces earlier ones."""
        directory.mkdir(exist_ok=True)
        (directory / "root-cert.pem").write_bytes(self.root_bundle)
        (directory / "ca-cert.pem").write_bytes(self.intermediate.pem)
        (directory / "ca-key.pem").write_bytes(ca_material.key_pem(self.intermediate.key))
        (directory / "cert-chain.pem").write_bytes(self.intermediate.pem)

    def key_set(self) -> dict[str, object]:
        """Return the public token key as a JSON web key set (RFC 7517, RFC 7518 6.3.1)."""
        numbers = self.token_key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "alg": "RS256"}
        return {"keys": [{**key, "n": _number(numbers.n), "e": _number(numbers.e)}]}

    def token(self, kind: TokenKind = TokenKind.GOOD) -> str:
        """Return a token of this kind for SUBJECT."""
        if kind is TokenKind.GARBAGE:
            return "not.a.token"
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": ISSUER,
            "sub": SUBJECT,
            "aud": [AUDIENCE],
            "iat": now - 5,
            "nbf": now - 5,
            "exp": now + TOKEN_LIFE_S,
        }
        key = self.token_key
        match kind:
            case TokenKind.EXPIRED:
                claims["exp"] = now - 60
            case TokenKind.TOO_EARLY:
                claims["nbf"] = now + 600
            case TokenKind.OTHER_AUDIENCE:
                claims["aud"] = ["api"]
            case TokenKind.AUDIENCE_AS_TEXT:
                claims["aud"] = AUDIENCE
            case TokenKind.WITHOUT_END:
                del claims["exp"]
            case TokenKind.OTHER_ISSUER:
                claims["iss"] = "https://elsewhere.invalid"
            case TokenKind.OTHER_KEY:
                key = _new_token_key()
        return ca_token.sign(key, claims)


def _new_signers(name: str) -> tuple[ca_material.Signer, ca_material.Signer]:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    root = ca_material.new_root(name, now)
    return root, ca_material.new_intermediate(root, now)


def _new_token_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
