"""Certificates as no CA should issue them, each wrong in one way.

Tests only. Each function of WRONG takes an `Issuing` and returns what the CA answers: the chain, leaf
first, and the roots.
"""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


@dataclass(frozen=True)
class Signer:
    """A certificate that signs, and its key."""

    certificate: x509.Certificate
    key: Key


@dataclass(frozen=True)
class Issuing:
    """What is asked for, and who signs below which root."""

    key: PublicKey
    identity: str
    root: Signer
    signer: Signer


@dataclass(frozen=True)
class Issued:
    """An answer: the chain, leaf first, and the roots, where the protocol hands them out."""

    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @property
    def parts(self) -> list[bytes]:
        """Leaf, intermediates and at last all roots, in PEM."""
        return [*map(pem, self.chain), b"".join(map(pem, self.roots))]


def pem(certificate: x509.Certificate) -> bytes:
    """One certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def leaf(
    asked: Issuing,
    *,
    names: Sequence[str] | None = None,
    key: PublicKey | None = None,
    start: datetime.timedelta = -HOUR,
    end: datetime.timedelta | datetime.datetime = HOUR,
    is_authority: bool = False,
    can_sign: bool = True,
    purposes: Sequence[ObjectIdentifier] = BOTH,
    has_unknown_extension: bool = False,
    signer: Signer | None = None,
) -> x509.Certificate:
    """A workload's certificate, right unless something else is said."""
    signer = signer or asked.signer
    now = _now()
    stated = [asked.identity] if names is None else names
    builder = _builder("", key or asked.key, signer.certificate.subject)
    builder = builder.not_valid_before(now + start)
    builder = builder.not_valid_after(now + end if isinstance(end, datetime.timedelta) else end)
    if stated:
        uris = [x509.UniformResourceIdentifier(name) for name in stated]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=True)
    constraints = x509.BasicConstraints(ca=is_authority, path_length=None)
    builder = builder.add_extension(constraints, critical=True)
    usage = _usage(digital_signature=can_sign, key_encipherment=True, key_cert_sign=is_authority)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    if has_unknown_extension:
        unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    return builder.sign(signer.key, hashes.SHA256())


def authority(
    parent: Signer | None, *, end: datetime.timedelta = DAY, is_authority: bool = True
) -> Signer:
    """Somebody who signs, and perhaps may not; without `parent` a root."""
    key, now = ec.generate_private_key(ec.SECP256R1()), _now()
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Somebody else")])
    issuer = parent.certificate.subject if parent else subject
    constraints = x509.BasicConstraints(ca=is_authority, path_length=None)
    builder = _builder("Somebody else", key.public_key(), issuer)
    builder = builder.not_valid_before(now - 30 * DAY).not_valid_after(now + end)
    builder = builder.add_extension(constraints, critical=True)
    return Signer(builder.sign(parent.key if parent else key, hashes.SHA256()), key)


def server(
    key: PublicKey,
    names: x509.SubjectAlternativeName,
    start: datetime.datetime,
    end: datetime.datetime,
    signer: Signer,
) -> bytes:
    """A server's certificate, PEM."""
    builder = _builder("Server", key, signer.certificate.subject)
    builder = builder.not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(list(BOTH)), critical=False)
    return pem(builder.sign(signer.key, hashes.SHA256()))


def _right(asked: Issuing, made: x509.Certificate) -> Issued:
    return Issued((made, asked.signer.certificate), (asked.root.certificate,))


def _by(asked: Issuing, signer: Signer) -> Issued:
    made = leaf(asked, signer=signer)
    return Issued((made, signer.certificate), (asked.root.certificate,))


def _of_a_new_root(asked: Issuing) -> Issued:
    root = authority(None)
    return Issued((leaf(asked, signer=root),), (root.certificate,))


def _forged(asked: Issuing) -> Issued:
    """It names our intermediate as its issuer, but another key has signed it."""
    forger = Signer(asked.signer.certificate, ec.generate_private_key(ec.SECP256R1()))
    return _right(asked, leaf(asked, signer=forger))


def _reversed(asked: Issuing) -> Issued:
    return Issued((asked.signer.certificate, leaf(asked)), (asked.root.certificate,))


def _shuffled(asked: Issuing) -> Issued:
    below = authority(asked.signer)
    chain = (leaf(asked, signer=below), asked.signer.certificate, below.certificate)
    return Issued(chain, (asked.root.certificate,))


def _another_key(asked: Issuing) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return _right(asked, leaf(asked, key=key))


_ANY = "spiffe://cluster.local/ns/vms/sa/"
_FOREVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
WRONG: dict[str, Callable[[Issuing], Issued]] = {
    "another key": _another_key,
    "another name": lambda asked: _right(asked, leaf(asked, names=[_ANY + "db"])),
    "another trust domain": lambda asked: _right(
        asked, leaf(asked, names=[asked.identity.replace("cluster.local", "td.example")])
    ),
    "two names": lambda asked: _right(asked, leaf(asked, names=[asked.identity, _ANY + "db"])),
    "the name twice": lambda asked: _right(asked, leaf(asked, names=[asked.identity] * 2)),
    "no name": lambda asked: _right(asked, leaf(asked, names=[])),
    "a CA's own": lambda asked: _right(asked, leaf(asked, is_authority=True)),
    "no signatures": lambda asked: _right(asked, leaf(asked, can_sign=False)),
    "no server": lambda asked: _right(asked, leaf(asked, purposes=BOTH[:1])),
    "no client": lambda asked: _right(asked, leaf(asked, purposes=BOTH[1:])),
    "expired": lambda asked: _right(asked, leaf(asked, start=-2 * HOUR, end=-HOUR)),
    "not yet valid": lambda asked: _right(asked, leaf(asked, start=HOUR, end=2 * HOUR)),
    "for ever": lambda asked: _right(asked, leaf(asked, end=_FOREVER)),
    "unknown critical extension": lambda asked: _right(
        asked, leaf(asked, has_unknown_extension=True)
    ),
    "leaf last": _reversed,
    "intermediates in the wrong order": _shuffled,
    "no intermediate": lambda asked: Issued((leaf(asked),), (asked.root.certificate,)),
    "forged": _forged,
    "an issuer that is no CA": lambda asked: _by(asked, authority(asked.root, is_authority=False)),
    "an issuer that has expired": lambda asked: _by(asked, authority(asked.root, end=-DAY)),
    "a new root": _of_a_new_root,
    "signed by itself": lambda asked: Issued(
        (leaf(asked, signer=authority(None)),), (asked.root.certificate,)
    ),
}


def _builder(organization: str, key: PublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization or " ")]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
    )


def _usage(
    *, digital_signature: bool, key_encipherment: bool, key_cert_sign: bool
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
