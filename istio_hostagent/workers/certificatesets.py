"""Sets of key, chain and roots that fit together, as far as a reader of them may tell.

Not here: where a set comes from, and who is shown it.
"""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..errors import CertificateUntrusted
from ..host import generations, keys
from ..identity import certificates, model, trust
from .credentials import pairs

# What Envoy loads (BoringSSL; envoy source/common/tls/context_impl.cc).
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_LEAST_RSA_BITS = 2048
# In a file of roots: an operating system trusts 144 (Debian 12).
MAX_ROOTS = 1024


def validate(files: generations.Files, spiffe_id: str, subject: str) -> model.Held:
    """Validate a set that has all three files for this identity.

    `subject`: the certificate's name in a sentence. Raises CertificateUntrusted.
    """
    if files.key is None or files.chain is None or files.root is None:
        missing = next(name for name in generations.NAMES if name not in dict(files.content()))
        raise CertificateUntrusted(f"{subject} is not there as a whole: {missing} is missing")
    with pairs.described(subject):
        public_key = keys.public_part_of_pem(files.key)
        chain = certificates.parse_certificates(files.chain)
        roots = certificates.parse_certificates(files.root, limit=MAX_ROOTS)
        trust.validate(chain, roots, trust.Expected(public_key, spiffe_id, pairs.now()))
    return describe(chain, roots, datetime.fromtimestamp(files.received, UTC))


def check_for_envoy(leaf: x509.Certificate, subject: str) -> None:
    """Whether Envoy takes the key of a certificate: raises CertificateUntrusted if not."""
    key = leaf.public_key()
    is_curve = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    is_rsa = isinstance(key, rsa.RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS
    if not is_curve and not is_rsa:
        raise CertificateUntrusted(
            f"{subject} has a key that Envoy does not take",
            hint="it takes RSA from 2048 bits on, and EC P-256, P-384 and P-521",
        )


def describe(
    chain: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...], received: datetime
) -> model.Held:
    """What is said of a set that was validated."""
    return model.Held(
        identity=certificates.uri_names(chain[0])[0],
        serial=f"{chain[0].serial_number:x}",
        validity=certificates.validity(chain[0], received),
        root_fingerprints=tuple(certificates.fingerprint(root) for root in roots),
    )
