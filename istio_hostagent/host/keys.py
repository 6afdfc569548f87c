"""Private keys: made, written as PEM, read back.

Not here: where they are stored (`certificatestore`). Imported by workers alone. No function puts
anything of a key into a message.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..config import model

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def generate_key(kind: model.KeyKind = model.KeyKind.EC_P256) -> PrivateKey:
    """Return a fresh key; EC P-256 takes a hundredth of the time that RSA-2048 does."""
    match kind:
        case model.KeyKind.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case model.KeyKind.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, int(kind.value.removeprefix("rsa-")))


def render_key(key: PrivateKey, *, is_traditional: bool = False) -> bytes:
    """Return a key as PEM, not encrypted: PKCS#8, which Envoy and pilot-agent both read.

    `is_traditional`: PKCS#1 for RSA, SEC 1 for EC, as the classic node agent wrote it.
    """
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL
        if is_traditional
        else serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_part(key: PrivateKey) -> bytes:
    """Return the public part of a private key as SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def public_part_of_pem(pem: bytes) -> bytes:
    """Return the public part of a stored key of any kind; raises ValueError.

    The reason never quotes the text: a library's own message might.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise ValueError("the key is encrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("the key cannot be decoded") from error
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
