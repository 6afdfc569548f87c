"""What the demo authority answers: who is asking, what they get, and the ways it can misbehave.

Demo and tests only, no part of the product. No input or output here. Rules and texts are those of
a measured istiod 1.30: a certificate beats a token, every failure to authenticate has one
text, the identity in the certificate is the caller's and never the request's.
"""

import base64
import binascii
import datetime
import enum
import re
from dataclasses import dataclass

from cryptography import exceptions, x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from . import ca_material, ca_token, ca_wire

DEFAULT_TTL_S = 24 * 3600
MAX_TTL_S = 90 * 24 * 3600
BACKDATE = datetime.timedelta(minutes=2)
_CSR = re.compile(rb"-----BEGIN ([A-Z ]+)-----\s(.*?)-----END \1-----", re.DOTALL)


class Mode(enum.StrEnum):
    """How the authority behaves; all but OK are failures a client must survive."""

    OK = "ok"
    MUTE = "mute"  # accepts TCP and says nothing, not even TLS
    REFUSE = "refuse"  # UNAVAILABLE
    INTERNAL = "internal"  # INTERNAL
    WRONG_KEY = "wrong-key"  # a certificate for a key that is not the caller's
    WRONG_NAME = "wrong-name"  # a certificate for another identity
    WRONG_ROOT = "wrong-root"  # a chain to an unrelated root, which comes last
    EXPIRED = "expired"  # a certificate whose end has passed
    GARBAGE = "garbage"  # an answer that is no protobuf
    EMPTY_CHAIN = "empty-chain"  # an answer without any certificate
    HALF_FRAME = "half-frame"  # the connection closes in the middle of the answer


@dataclass(frozen=True)
class Settings:
    """One consistent view of the switches; `life_s` overrides what callers ask for."""

    mode: Mode = Mode.OK
    life_s: float | None = None
    skew_s: float = 0.0
    max_ttl_s: int = MAX_TTL_S


@dataclass(frozen=True)
class Caller:
    """What a connection and its headers say about who is asking."""

    certificate_identity: str | None
    authorization: str | None


def authenticate(caller: Caller, material: ca_material.Material, *, now: float) -> tuple[str, str]:
    """Return (identity, "certificate" or "token"). Raises Refused: one text for every cause."""
    if caller.certificate_identity is not None:
        return caller.certificate_identity, "certificate"
    try:
        if caller.authorization is None:
            raise ca_token.TokenRefused("neither certificate nor token")
        identity = ca_token.identity_of(
            caller.authorization,
            material.token_key,
            now=now,
            trust_domain=material.trust_domain,
        )
    except ca_token.TokenRefused as error:
        raise ca_wire.Refused(
            ca_wire.UNAUTHENTICATED, "request authenticate failure", str(error)
        ) from error
    return identity, "token"


def certificate_problem(
    uris: tuple[str, ...], end: datetime.datetime, trust_domain: str, *, now: float
) -> str:
    """Return why a client certificate that chains to our root is not taken; "" if it is."""
    if len(uris) != 1:
        return f"{len(uris)} URI names in the client certificate, not one"
    if not uris[0].startswith(f"spiffe://{trust_domain}/"):
        return f"{uris[0]} is not in trust domain {trust_domain}"
    if end.timestamp() < now:
        return "client certificate expired"
    return ""


def sign(
    call: ca_wire.SigningCall,
    identity: str,
    material: ca_material.Material,
    settings: Settings,
    *,
    now: float,
) -> bytes:
    """Return the response message for an authenticated caller.

    Raises Refused with istiod's status and text. `now`: seconds since 1970 by the authority's
    own clock. The modes that are about the connection (MUTE, HALF_FRAME) sign as OK does.
    """
    if settings.mode is Mode.REFUSE:
        raise ca_wire.Refused(ca_wire.UNAVAILABLE, "demo authority told to refuse")
    if settings.mode is Mode.INTERNAL:
        raise ca_wire.Refused(ca_wire.INTERNAL, "demo authority told to fail")
    request = _parse_csr(call.csr)
    life_s = _life(call.ttl_s, settings)
    if settings.mode is Mode.GARBAGE:
        return b"\xff" * 64
    if settings.mode is Mode.EMPTY_CHAIN:
        return ca_wire.render_chain([])
    start = datetime.datetime.fromtimestamp(int(now), datetime.UTC) - BACKDATE
    end = start + BACKDATE + datetime.timedelta(seconds=life_s)
    if settings.mode is Mode.EXPIRED:
        start, end = start - datetime.timedelta(days=1), start
    if settings.mode is Mode.WRONG_NAME:
        identity += "-somebody-else"
    key = request.public_key()
    if settings.mode is Mode.WRONG_KEY:
        key = ca_material.new_key().public_key()
    if not isinstance(
        key,
        ec.EllipticCurvePublicKey
        | rsa.RSAPublicKey
        | ed25519.Ed25519PublicKey
        | ed448.Ed448PublicKey,
    ):
        raise _signing_error("x509: unsupported public key type")
    signing = ca_material.foreign(material) if settings.mode is Mode.WRONG_ROOT else material
    common_name = ""
    # istiod repeats the identity as common name for a request that has one, where it fits.
    if request.subject.get_attributes_for_oid(NameOID.COMMON_NAME) and len(identity) <= 64:
        common_name = identity
    leaf = ca_material.Leaf(identity, start, end, common_name)
    chain = [ca_material.issue(signing.intermediate, key, leaf), signing.intermediate.pem]
    return ca_wire.render_chain([*chain, signing.root_bundle])


def go_duration(seconds: int) -> str:
    """Return a duration as Go prints it: 2160h0m1s, 1m0s, 30s."""
    hours, rest = divmod(seconds, 3600)
    minutes, second = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{second}s"
    return f"{minutes}m{second}s" if minutes else f"{second}s"


def _life(ttl_s: int, settings: Settings) -> float:
    if ttl_s > settings.max_ttl_s:
        asked, limit = go_duration(ttl_s), go_duration(settings.max_ttl_s)
        raise _signing_error(f"requested TTL {asked} is greater than the max allowed TTL {limit}")
    if settings.life_s is not None:
        return settings.life_s
    return ttl_s if ttl_s > 0 else min(DEFAULT_TTL_S, settings.max_ttl_s)


def _parse_csr(pem: bytes) -> x509.CertificateSigningRequest:
    # The label counts for nothing: istiod takes "NEW CERTIFICATE REQUEST" as well.
    found = _CSR.search(pem)
    if found is None:
        raise _signing_error("certificate signing request is not properly encoded")
    try:
        request = x509.load_der_x509_csr(base64.b64decode(found[2]))
        # A request may parse and still hold an extension or a key that does not.
        serialized = request.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, binascii.Error, exceptions.UnsupportedAlgorithm) as error:
        raise _signing_error("failed to parse X.509 certificate signing request") from error
    if not serialized or not request.is_signature_valid:
        is_rsa = isinstance(request.public_key(), rsa.RSAPublicKey)
        cause = "crypto/rsa: verification error" if is_rsa else "x509: ECDSA verification failure"
        raise _signing_error(cause)
    return request


def _signing_error(cause: str) -> ca_wire.Refused:
    return ca_wire.Refused(ca_wire.INVALID_ARGUMENT, f"CSR signing error ({cause})")
