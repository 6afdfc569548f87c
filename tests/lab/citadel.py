"""A stand-in for Citadel, the CA of Istio 0.2 to 1.0, that answers as a measured one does.

Tests only. It speaks HandleCSR over TLS 1.2 and nothing else; its certificates are RSA and have no
key identifiers; it copies names and extensions of whatever it is asked for, gives a certificate
without a life to who asks for none, and never hands out its root.
"""

import base64
import datetime
import functools
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.demo import ca_http2, ca_material, ca_policy, ca_server, ca_wire

METHOD = "/istio.v1.auth.IstioCAService/HandleCSR"
NAMES = ("istio-ca", "istio-citadel", "istio-citadel.istio-system.svc.cluster.local")
MAX_TTL_S = 90 * 24 * 3600
_YEAR = datetime.timedelta(days=365)


class Citadel(ca_server.DemoAuthority):
    """One that runs in threads of this process; switches as of its base.

    `is_in_two_fields`: leaf and intermediates apart, as since 0.7. `is_plugged`: an intermediate
    signs. `is_approving`: whether it says yes.
    """

    def __init__(
        self, directory: Path, *, is_plugged: bool = False, name: str = "Citadel"
    ) -> None:
        ca_material.create(directory)
        super().__init__(directory)
        self.is_in_two_fields = True
        self.is_approving = True
        self.is_plugged = is_plugged
        self._max_ttl_s = MAX_TTL_S
        self.root = _Signer.make(f"{name} root", None)
        self.signer = _Signer.make(f"{name} intermediate", self.root) if is_plugged else self.root
        (directory / "root-cert.pem").write_bytes(self.root.pem)
        key = _key("server")
        leaf = self.signer.issue(key.public_key(), [x509.DNSName(name) for name in NAMES], 86400)
        # Of a chain it shows its leaf alone.
        (directory / "server-cert.pem").write_bytes(leaf)
        (directory / "server-key.pem").write_bytes(_key_pem(key))
        self._context = _context(directory, self.signer.pem + self.root.pem)
        self.asked: list[
            tuple[dict[int, list[object]], x509.CertificateSigningRequest | None]
        ] = []

    def bootstrap(self, identity: str, *, life_s: float = 3600.0) -> tuple[bytes, bytes]:
        """A chain and a key as its secret controller makes them for a service account."""
        key = _key("bootstrap")
        names = [x509.UniformResourceIdentifier(identity)]
        chain = self.signer.issue(key.public_key(), names, life_s)
        return chain + (self.signer.pem if self.is_plugged else b""), _key_pem(key)

    def _answer(self, request: ca_http2.Request, held: str | None) -> ca_http2.Reply:
        try:
            return ca_http2.Reply(self._handle(request, held))
        except ca_wire.Refused as refused:
            return ca_http2.Reply(status=refused.status, text=refused.text)

    def _handle(self, request: ca_http2.Request, held: str | None) -> bytes:
        if request.path != METHOD:
            service = request.path.rpartition("/")[0].strip("/")
            raise ca_wire.Refused(ca_wire.UNIMPLEMENTED, f"unknown service {service}")
        fields: dict[int, list[object]] = {}
        for number, value in ca_wire.read_fields(ca_wire.parse_frame(request.body)):
            fields.setdefault(number, []).append(value)
        self.asked.append((fields, None))
        if held is None and "authorization" not in request.metadata:
            raise ca_wire.Refused(ca_wire.UNAUTHENTICATED, "request authenticate failure")
        pem = fields.get(1, [b""])[-1]
        assert isinstance(pem, bytes)
        csr = x509.load_pem_x509_csr(pem)
        self.asked[-1] = (fields, csr)
        minutes = fields.get(4, [0])[-1]
        assert isinstance(minutes, int)
        if minutes * 60 > self._max_ttl_s:
            asked, limit = (ca_policy.go_duration(s) for s in (minutes * 60, self._max_ttl_s))
            text = f"requested TTL {asked} is greater than the max allowed TTL {limit}"
            raise ca_wire.Refused(ca_wire.INTERNAL, f"CSR signing error ({text})")
        key = csr.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            cause = "x509: requested SignatureAlgorithm does not match private key type"
            raise ca_wire.Refused(ca_wire.INTERNAL, f"CSR signing error ({cause})")
        if not self.is_approving:
            return ca_wire.render_field(3, b"")
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        leaf = self.signer.issue(key, list(names), minutes * 60)
        chain = self.signer.pem if self.is_plugged else b""
        approved = b"\x08\x01"
        if not self.is_in_two_fields:
            return approved + ca_wire.render_field(3, leaf + chain)
        parts = ca_wire.render_field(3, leaf)
        return approved + parts + (ca_wire.render_field(4, chain) if chain else b"")

    @property
    def max_ttl_s(self) -> int:
        """The longest life that may be asked for."""
        return self._max_ttl_s

    @max_ttl_s.setter
    def max_ttl_s(self, value: int) -> None:
        self._max_ttl_s = value


class _Signer:
    def __init__(self, certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> None:
        self.certificate, self.key = certificate, key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def make(cls, organization: str, parent: "_Signer | None") -> "_Signer":
        key, now = _key(organization), _now()
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(parent.certificate.subject if parent else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + _YEAR)
            .add_extension(constraints, critical=True)
            .sign(parent.key if parent else key, hashes.SHA256())
        )
        return cls(certificate, key)

    def issue(
        self, key: rsa.RSAPublicKey, names: Sequence[x509.GeneralName], life_s: float
    ) -> bytes:
        now = _now()
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        organization = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, " ")])
        end = now + datetime.timedelta(seconds=life_s)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(organization)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - datetime.timedelta(seconds=1))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def jwt(claims: str) -> str:
    """A token that nobody has signed."""
    parts = (b'{"alg":"none"}', claims.encode(), b"x")
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _context(directory: Path, roots: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    # Neither its root nor its leaves have key identifiers.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", ssl.VERIFY_DEFAULT)
    context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    return context


@functools.cache
def _key(_purpose: str) -> rsa.RSAPrivateKey:
    """One for each purpose in all tests: making one takes a tenth of a second."""
    return rsa.generate_private_key(65537, 2048)


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
