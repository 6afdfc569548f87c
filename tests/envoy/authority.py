"""A small certificate authority, and the layout in which the product keeps its certificates."""

import datetime
import ipaddress
import itertools
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_generations = itertools.count()


class Authority:
    """A root that issues workload certificates."""

    def __init__(self, name: str = "root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.root = (
            self._builder(self._name, self._key)
            .add_extension(constraints, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, san: str) -> dict[str, bytes]:
        """Return the three PEM files of a certificate for a URI or an IP address, by name."""
        key = ec.generate_private_key(ec.SECP256R1())
        name: x509.GeneralName
        if "://" in san:
            name = x509.UniformResourceIdentifier(san)
        else:
            name = x509.IPAddress(ipaddress.ip_address(san))
        leaf = (
            self._builder(x509.Name([]), key)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return {
            "key.pem": private,
            "cert-chain.pem": leaf.public_bytes(serialization.Encoding.PEM),
            "root-cert.pem": self.root.public_bytes(serialization.Encoding.PEM),
        }

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.utcnow()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


def install(files: dict[str, bytes], output_dir: Path, uid: int) -> None:
    """Put the files behind `..data` and switch to them with one rename, as the product does."""
    store = output_dir.parent / "store" / str(next(_generations))
    store.mkdir(parents=True)
    for name, data in files.items():
        (store / name).write_bytes(data)
        (store / name).chmod(0o600)
        os.chown(store / name, uid, uid)
        link = output_dir / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    staged = store / "staged"
    staged.symlink_to(store)
    staged.rename(output_dir / "..data")
