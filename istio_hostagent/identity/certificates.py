"""PEM text to certificates, and the few things read from one, for cryptography 38 to 43 alike.

Not here: whether to believe a certificate (`trust`). Everything raises ValueError with a reason
for data that is no certificate; the library's own exceptions stop here.
"""

from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from . import model

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
# What the library raises beside ValueError for a certificate that it loaded before.
_UNDECODABLE = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion)
_ExtensionType = TypeVar("_ExtensionType", bound=x509.ExtensionType)


def parse_certificates(pem: bytes, *, limit: int = 64) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM text in their order; text between them is ignored.

    Raises ValueError for a broken block and for more than `limit` of them.
    """
    # Debian 12's cryptography has no load_pem_x509_certificates.
    certificates: list[x509.Certificate] = []
    position = 0
    while (start := pem.find(_BEGIN, position)) >= 0:
        end = pem.find(_END, start)
        if end < 0:
            raise ValueError("the last certificate has no END line")
        if len(certificates) == limit:
            raise ValueError(f"more than {limit} certificates")
        position = end + len(_END)
        try:
            certificate = x509.load_pem_x509_certificate(pem[start:position] + b"\n")
            # Names are decoded when first asked for; a bad one must not wait until then.
            certificate.subject, certificate.issuer  # noqa: B018  # for its errors
        except (ValueError, TypeError, KeyError, x509.InvalidVersion) as error:
            place = len(certificates) + 1
            raise ValueError(f"certificate {place} cannot be decoded: {error}") from error
        certificates.append(certificate)
    return tuple(certificates)


def render_certificates(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """Return PEM of certificates, and of nothing else that stood between them."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def find_extension(
    certificate: x509.Certificate, kind: type[_ExtensionType]
) -> _ExtensionType | None:
    """Return an extension, None if the certificate has none of the kind; raises ValueError."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except _UNDECODABLE as error:
        raise ValueError(f"its extensions cannot be decoded: {error}") from error


def critical_extensions(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """Return the kinds of the critical extensions; raises ValueError."""
    try:
        return frozenset(each.oid for each in certificate.extensions if each.critical)
    except _UNDECODABLE as error:
        raise ValueError(f"its extensions cannot be decoded: {error}") from error


def uri_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URI names of a certificate, in their order; raises ValueError."""
    names = find_extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def validity(certificate: x509.Certificate, received: datetime | None = None) -> model.Validity:
    """Return from when to when a certificate holds."""
    return model.Validity(
        not_before=_moment(certificate, "not_valid_before"),
        not_after=_moment(certificate, "not_valid_after"),
        received=received,
    )


def public_key(certificate: x509.Certificate) -> bytes:
    """Return the public key as SubjectPublicKeyInfo, DER; raises ValueError."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(certificate: x509.Certificate) -> str:
    """Return SHA-256 of the certificate, hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _moment(certificate: x509.Certificate, name: str) -> datetime:
    # The aware properties start with cryptography 42 and the naive ones are deprecated from there;
    # Debian 12 has 38, against which the types are checked.
    moment: datetime | None = getattr(certificate, f"{name}_utc", None)
    if moment is None:
        naive: datetime = getattr(certificate, name)
        return naive.replace(tzinfo=UTC)
    return moment
