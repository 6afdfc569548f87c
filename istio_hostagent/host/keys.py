"""Private keys: made, written as PEM, read back.

Not here: where they are stored (`credentials`). Imported by workers alone. No function puts
anything of a key into a message.
"""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh EC P-256 key: a hundredth of the time that RSA-2048 takes."""
    return ec.generate_private_key(ec.SECP256R1())


def render_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key as PKCS#8, PEM, not encrypted, which Envoy and pilot-agent both read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_part(key: ec.EllipticCurvePrivateKey) -> bytes:
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
