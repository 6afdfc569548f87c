"""Keys and certificates of the demo authority: root, intermediate, server, token key; and issuing.

Demo and tests only, no part of the product: private keys lie in plain files of one directory.

    root-cert.pem   what clients trust       root-key.pem
    ca-cert.pem     the intermediate         ca-key.pem
    server-cert.pem with the intermediate    server-key.pem
    jwt-key.pem     signs bootstrap tokens   trust-domain

Leaves are signed by the intermediate, so whoever forgets to send it is found out. All keys but an
RS256 token key are EC P-256.
"""

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import ca_token

PublicKey = (
    ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
)
SERVER_NAMES = ("istiod.istio-system.svc", "localhost", "127.0.0.1")
ROOT_LIFE = datetime.timedelta(days=3650)
CA_LIFE = datetime.timedelta(days=365)
_USAGE = dict.fromkeys(
    [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Signer:
    """A certificate authority: its certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Material:
    """Everything the authority owns. `root_bundle` is returned last in each answer."""

    directory: Path
    trust_domain: str
    root_bundle: bytes
    intermediate: Signer
    token_key: ca_token.Key


@dataclass(frozen=True)
class Leaf:
    """What is to be certified: one URI identity, a validity, and a common name if any."""

    identity: str
    start: datetime.datetime
    end: datetime.datetime
    common_name: str = ""


def create(
    directory: Path,
    trust_domain: str = "cluster.local",
    *,
    names: Sequence[str] = (),
    token_algorithm: str = "ES256",
) -> Material:
    """Make a new authority in `directory` (created if absent) and load it.

    `names`: further DNS names or addresses of the server certificate.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = _now()
    root = new_root("Demo root, not for production", now)
    intermediate = new_intermediate(root, now)
    server = new_key()
    chain = server_certificate(intermediate, server, [*SERVER_NAMES, *names], now)
    token_key: ca_token.Key = new_key()
    if token_algorithm == "RS256":
        token_key = rsa.generate_private_key(65537, 2048)
    for stem, signer in (("root", root), ("ca", intermediate)):
        (directory / f"{stem}-cert.pem").write_bytes(signer.pem)
        _write_private(directory / f"{stem}-key.pem", key_pem(signer.key))
    (directory / "server-cert.pem").write_bytes(chain + intermediate.pem)
    _write_private(directory / "server-key.pem", key_pem(server))
    _write_private(directory / "jwt-key.pem", key_pem(token_key))
    (directory / "trust-domain").write_text(trust_domain + "\n")
    return load(directory)


def load(directory: Path) -> Material:
    """Read what `create` wrote. Raises OSError or ValueError."""
    signing_key = _load_key(directory / "ca-key.pem")
    if not isinstance(signing_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{directory}/ca-key.pem is no elliptic curve key")
    certificate = x509.load_pem_x509_certificate((directory / "ca-cert.pem").read_bytes())
    return Material(
        directory=directory,
        trust_domain=(directory / "trust-domain").read_text().strip(),
        root_bundle=(directory / "root-cert.pem").read_bytes(),
        intermediate=Signer(certificate, signing_key),
        token_key=_load_key(directory / "jwt-key.pem"),
    )


def foreign(material: Material) -> Material:
    """Return the same authority with an unrelated root and intermediate, in memory only."""
    root = new_root("Demo root of somebody else", _now())
    return replace(material, root_bundle=root.pem, intermediate=new_intermediate(root, _now()))


def issue(signer: Signer, key: PublicKey, leaf: Leaf) -> bytes:
    """Return a workload certificate (PEM) as istiod makes it; its end is cut to the signer's."""
    name = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)] if leaf.common_name else []
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(leaf.identity)])
    builder = _builder(x509.Name(name), key, signer.certificate, signer.key)
    builder = builder.not_valid_before(leaf.start)
    builder = builder.not_valid_after(min(leaf.end, not_after(signer.certificate)))
    builder = builder.add_extension(san, critical=True)
    return _sign_end_entity(builder, signer)


def pair(
    material: Material, identity: str, *, life_s: float, age_s: float = 120.0
) -> tuple[bytes, bytes]:
    """Return (chain, key) in PEM of a new key certified for `identity`; life may be negative.

    `age_s`: it was issued so long ago, or as long before its end if that is over.
    """
    key, now = new_key(), _now()
    start = now - datetime.timedelta(seconds=age_s - min(life_s, 0.0))
    leaf = Leaf(identity, start, now + datetime.timedelta(seconds=life_s))
    chain = issue(material.intermediate, key.public_key(), leaf) + material.intermediate.pem
    return chain, key_pem(key)


def split(pems: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM bundle, in order. Raises ValueError."""
    return [x509.load_pem_x509_certificate(each) for each in _PEM.findall(pems)]


def uris_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URI names of a certificate."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(san.value.get_values_for_type(x509.UniformResourceIdentifier))


def not_before(certificate: x509.Certificate) -> datetime.datetime:
    """Return the start of validity, aware, whatever the library's generation."""
    return _aware(certificate, "not_valid_before")


def not_after(certificate: x509.Certificate) -> datetime.datetime:
    """Return the end of validity, aware, whatever the library's generation."""
    return _aware(certificate, "not_valid_after")


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ca_token.Key) -> bytes:
    """Return a private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_root(name: str, now: datetime.datetime) -> Signer:
    """Return a self-signed root."""
    key = new_key()
    builder = _builder(_named(name), key.public_key(), None, key)
    builder = _validity(builder, now, ROOT_LIFE)
    return Signer(_as_authority(builder, None).sign(key, hashes.SHA256()), key)


def many_roots(count: int) -> bytes:
    """The certificates of so many other authorities, PEM."""
    return b"".join(new_root(f"Root {number}", _now()).pem for number in range(count))


def new_intermediate(root: Signer, now: datetime.datetime) -> Signer:
    """Return a signing authority under `root`."""
    key = new_key()
    builder = _builder(_named("Demo intermediate"), key.public_key(), root.certificate, root.key)
    builder = _validity(builder, now, CA_LIFE)
    return Signer(_as_authority(builder, 0).sign(root.key, hashes.SHA256()), key)


def server_certificate(
    signer: Signer, key: ec.EllipticCurvePrivateKey, names: Sequence[str], now: datetime.datetime
) -> bytes:
    """Return a server certificate (PEM, without its chain) for DNS names and addresses."""
    builder = _builder(_named("istiod demo"), key.public_key(), signer.certificate, signer.key)
    builder = _validity(builder, now, CA_LIFE)
    general = x509.SubjectAlternativeName([_general_name(name) for name in names])
    return _sign_end_entity(builder.add_extension(general, critical=False), signer)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _aware(certificate: x509.Certificate, attribute: str) -> datetime.datetime:
    # cryptography 42 added the _utc names and deprecates the naive ones, 38 has those alone.
    if hasattr(certificate, attribute + "_utc"):
        value = getattr(certificate, attribute + "_utc")
    else:
        value = getattr(certificate, attribute).replace(tzinfo=datetime.UTC)
    assert isinstance(value, datetime.datetime)
    return value


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    key: PublicKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority, critical=False)
    )


def _validity(
    builder: x509.CertificateBuilder, now: datetime.datetime, life: datetime.timedelta
) -> x509.CertificateBuilder:
    # An hour back: machines whose clocks lag a little can join, too.
    start = now - datetime.timedelta(hours=1)
    return builder.not_valid_before(start).not_valid_after(now + life)


def _as_authority(
    builder: x509.CertificateBuilder, path_length: int | None
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(**{**_USAGE, "key_cert_sign": True, "crl_sign": True})
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)


def _sign_end_entity(builder: x509.CertificateBuilder, signer: Signer) -> bytes:
    usage = x509.KeyUsage(**{**_USAGE, "digital_signature": True, "key_encipherment": True})
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    builder = builder.add_extension(constraints, critical=True)
    certificate = builder.sign(signer.key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def _load_key(path: Path) -> ca_token.Key:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError(f"{path} holds no key this authority uses")
    return key


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)
