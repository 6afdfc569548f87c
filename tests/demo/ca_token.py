"""Bootstrap tokens of the demo authority, like those of Kubernetes service accounts.

Demo and tests only, no part of the product. The rules are istiod's with a JWT rule, as measured:
`aud` must be an array holding the audience, `exp` is required, `nbf` may lie up to five minutes
ahead, the scheme is exactly `Bearer`. A key of the elliptic curve signs ES256, an RSA key RS256
(RFC 7518).
"""

import base64
import json
import re
from collections.abc import Sequence

from cryptography import exceptions
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

AUDIENCE = "istio-ca"
ISSUER = "https://demo.invalid"
NOT_BEFORE_LEEWAY_S = 300

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_SUBJECT = re.compile(r"system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)")


class TokenRefused(Exception):
    """The token proves nothing; the text is for the authority's own log only."""


def mint(
    key: Key, subject: str, *, now: float, ttl_s: float, audiences: Sequence[str] = (AUDIENCE,)
) -> str:
    """Return a signed token for `system:serviceaccount:NAMESPACE:ACCOUNT`, good from 5 s ago."""
    issued = int(now) - 5
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": list(audiences),
        "iat": issued,
        "nbf": issued,
        "exp": int(now + ttl_s),
    }
    return sign(key, claims)


def sign(key: Key, claims: dict[str, object]) -> str:
    """Return a token with exactly these claims: tests make wrong ones with it."""
    head = {"alg": _algorithm(key), "typ": "JWT"}
    signed = ".".join(_encode(json.dumps(part).encode()) for part in (head, claims))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    else:
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return signed + "." + _encode(signature)


def identity_of(
    authorization: str, key: Key, *, now: float, trust_domain: str, audience: str = AUDIENCE
) -> str:
    """Return the SPIFFE identity that an `authorization` header proves.

    Raises TokenRefused with the cause.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme != "Bearer":
        raise TokenRefused("the scheme is not exactly 'Bearer'")
    claims = _verified_claims(token, key)
    audiences = claims.get("aud")
    if not isinstance(audiences, list) or audience not in audiences:
        raise TokenRefused(f"aud is {audiences!r}, no array with {audience!r}")
    expiry = claims.get("exp")
    if not isinstance(expiry, int | float):
        raise TokenRefused("exp is missing")
    if expiry <= now:
        raise TokenRefused(f"expired {now - expiry:.0f} s ago")
    start = claims.get("nbf", 0)
    if not isinstance(start, int | float) or start > now + NOT_BEFORE_LEEWAY_S:
        raise TokenRefused(f"not valid before {start!r}")
    account = _SUBJECT.fullmatch(str(claims.get("sub")))
    if account is None:
        raise TokenRefused(f"sub is {claims.get('sub')!r}, no service account")
    return f"spiffe://{trust_domain}/ns/{account[1]}/sa/{account[2]}"


def _verified_claims(token: str, key: Key) -> dict[str, object]:
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenRefused("not three parts")
    try:
        head, claims = (json.loads(_decode(part)) for part in parts[:2])
        signature = _decode(parts[2])
    except (ValueError, RecursionError) as error:
        raise TokenRefused(f"not a JSON web token: {error}") from error
    if not isinstance(head, dict) or not isinstance(claims, dict):
        raise TokenRefused("header or claims are no JSON object")
    if head.get("alg") != _algorithm(key):
        raise TokenRefused(f"alg is {head.get('alg')!r}, the key signs {_algorithm(key)}")
    try:
        _check_signature(key, f"{parts[0]}.{parts[1]}".encode(), signature)
    except exceptions.InvalidSignature as error:
        raise TokenRefused("signed by another key") from error
    return claims


def _check_signature(key: Key, signed: bytes, signature: bytes) -> None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        der = utils.encode_dss_signature(r, s)
        key.public_key().verify(der, signed, ec.ECDSA(hashes.SHA256()))
    else:
        key.public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())


def _algorithm(key: Key) -> str:
    return "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
