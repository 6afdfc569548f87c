"""Is this chain ours, and does it lead to a root we trust?

Not here: what is done about a chain that is not. Every fault is a `CertificateUntrusted` whose
message continues the words "the certificate ..."; nothing of a key is in it.
The checks are those of RFC 5280 6.1 that matter to a workload chain of a mesh, and the SPIFFE
rule of exactly one URI name. x509.verification of newer libraries is not used: Debian 12 lacks
it. Quirks of classic CAs (no key identifiers, SHA-1) are not excused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from ..errors import CertificateUntrusted
from . import certificates, model

# A CA whose clock is this far ahead of ours is believed. There is no such grace at the end.
CLOCK_SKEW = timedelta(seconds=60)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)


@dataclass(frozen=True)
class Expected:
    """What a certificate must be good for: a key, one name, a moment.

    `public_key` is a SubjectPublicKeyInfo, DER.
    """

    public_key: bytes
    spiffe_id: str
    now: datetime


def validate(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], expected: Expected
) -> model.Validity:
    """Return the validity of a chain (leaf first) that stands every check.

    Raises CertificateUntrusted for the first check that fails.
    """
    if not chain:
        raise CertificateUntrusted("is missing: there is not one in the text")
    if not roots:
        raise CertificateUntrusted("cannot be checked: no root certificate is trusted")
    try:
        _check_leaf(chain[0], expected)
        _check_path(chain, roots, expected)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateUntrusted(f"cannot be decoded: {error}") from error
    return certificates.validity(chain[0])


def check_leaf(leaf: x509.Certificate, expected: Expected) -> None:
    """Check the leaf alone: key, name, purpose and time; raises CertificateUntrusted."""
    try:
        _check_leaf(leaf, expected)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateUntrusted(f"cannot be decoded: {error}") from error


def _check_leaf(leaf: x509.Certificate, expected: Expected) -> None:
    if certificates.public_key(leaf) != expected.public_key:
        raise CertificateUntrusted("is for another key than ours")
    names = certificates.uri_names(leaf)
    if names != (expected.spiffe_id,):
        stated = " and ".join(names) or "nobody (no URI name)"
        raise CertificateUntrusted(
            f"is for {stated}, not for {expected.spiffe_id}",
            hint="the credential shown to the CA decides the name: compare trust domain, namespace"
            " and service account with the token's",
        )
    constraints = certificates.find_extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateUntrusted("is a CA's own, not a workload's")
    usage = certificates.find_extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise CertificateUntrusted("may not be used for signatures, which TLS needs")
    purposes = certificates.find_extension(leaf, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes:
        for purpose, role in (
            (ExtendedKeyUsageOID.CLIENT_AUTH, "client"),
            (ExtendedKeyUsageOID.SERVER_AUTH, "server"),
        ):
            if purpose not in purposes:
                raise CertificateUntrusted(f"may not be used by a TLS {role}")
    _check_time(leaf, expected.now, "")


def _check_path(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], expected: Expected
) -> None:
    for certificate in chain:
        unknown = certificates.critical_extensions(certificate) - _UNDERSTOOD
        if unknown:
            oid = min(each.dotted_string for each in unknown)
            raise CertificateUntrusted(f"has a critical extension that we do not know: {oid}")
    for depth, issuer in enumerate(chain[1:]):
        if chain[depth].issuer != issuer.subject:
            raise CertificateUntrusted(
                f"is not followed by its issuer in its chain: {_name(issuer.subject)} instead of"
                f" {_name(chain[depth].issuer)}"
            )
        _check_authority(issuer, depth, expected)
        if not _is_signed_by(chain[depth], issuer):
            raise CertificateUntrusted(f"is not signed by its issuer {_name(issuer.subject)}")
    if len(chain) > 1 and any(chain[-1] == root for root in roots):
        return
    candidates = [root for root in roots if root.subject == chain[-1].issuer]
    signers = [root for root in candidates if _is_signed_by(chain[-1], root)]
    if not signers:
        raise CertificateUntrusted(
            f"leads to {_name(chain[-1].issuer)}, which is no root that we trust",
            hint="if the mesh has a new root, put it beside the old one into the root file; if"
            " that is the name of an intermediate, the CA has left it out",
        )
    faults = []
    for root in signers:
        try:
            _check_authority(root, len(chain) - 1, expected)
        except CertificateUntrusted as fault:
            faults.append(fault)
        else:
            return
    raise faults[0]


def _check_authority(authority: x509.Certificate, below: int, expected: Expected) -> None:
    """Check one issuer with `below` intermediates between it and the leaf."""
    who = f"has an issuer ({_name(authority.subject)}) that "
    constraints = certificates.find_extension(authority, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise CertificateUntrusted(f"{who}is no CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise CertificateUntrusted(
            f"{who}allows {constraints.path_length} more CAs below it, not {below}"
        )
    usage = certificates.find_extension(authority, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise CertificateUntrusted(f"{who}may not sign certificates")
    limits = certificates.find_extension(authority, x509.NameConstraints)
    if limits is not None and not _is_name_allowed(limits, expected.spiffe_id):
        raise CertificateUntrusted(f"{who}may not sign for {expected.spiffe_id}")
    _check_time(authority, expected.now, who)


def _check_time(certificate: x509.Certificate, now: datetime, who: str) -> None:
    validity = certificates.validity(certificate)
    if validity.not_before > now + CLOCK_SKEW:
        raise CertificateUntrusted(
            f"{who}is valid only from {validity.not_before:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"this host's clock says {now:%Y-%m-%d %H:%M:%S} UTC",
        )
    if validity.not_after <= now:
        raise CertificateUntrusted(
            f"{who}expired on {validity.not_after:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"this host's clock says {now:%Y-%m-%d %H:%M:%S} UTC",
        )


def _is_name_allowed(limits: x509.NameConstraints, spiffe_id: str) -> bool:
    """Whether URI constraints leave room for a name (RFC 5280 4.2.1.10).

    They look at the host part: a domain, or everything below one with a dot in front.
    """
    host = spiffe_id.removeprefix("spiffe://").partition("/")[0].lower()

    def is_within(subtree: x509.GeneralName) -> bool:
        domain = str(subtree.value).lower()
        return host.endswith(domain) if domain.startswith(".") else host == domain

    uri = x509.UniformResourceIdentifier
    excluded = [each for each in limits.excluded_subtrees or () if isinstance(each, uri)]
    permitted = [each for each in limits.permitted_subtrees or () if isinstance(each, uri)]
    if any(is_within(each) for each in excluded):
        return False
    return not permitted or any(is_within(each) for each in permitted)


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    algorithm = certificate.signature_hash_algorithm
    if not isinstance(key, ed25519.Ed25519PublicKey) and not isinstance(algorithm, _HASHES):
        return False
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, signed, ec.ECDSA(algorithm))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _name(name: x509.Name) -> str:
    text = name.rfc4514_string()[:100]
    return "".join(c if c.isprintable() else "?" for c in text) or "an empty name"
