"""The certificate that is held, as bytes of the forms that other programs read.

Loaded by `outputs` in a process of istio-proxy's: what is read was written by that user, and no
library parses it as root.
"""

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from ..config import model
from ..errors import CertificateUntrusted
from ..host import certificatestore, generations, outputfiles
from ..identity import certificates
from . import certificatesets

# What a keystore shows its entry as.
_NAME = b"istio-hostagent"


def read(output_dir: str, store_dir: str, identity: str) -> generations.Files:
    """What readers see, if it is a whole set for this identity; raises HostAgentError."""
    visible = certificatestore.CertificateStore(output_dir, store_dir).read().visible
    certificatesets.validate(visible, identity, f"the certificate in {output_dir}")
    return visible


def render(held: generations.Files, kind: model.OutputKind, password: bytes) -> dict[str, bytes]:
    """The files of an output by name, of a single one by CONTENT; raises HostAgentError."""
    key, chain = held.key or b"", held.chain or b""
    match kind:
        case model.OutputKind.FILES:
            return dict(held.content())
        case model.OutputKind.PEM:
            return {outputfiles.CONTENT: key.rstrip(b"\n") + b"\n" + chain}
    loaded = serialization.load_pem_private_key(key, None)
    if not isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CertificateUntrusted("a key of this kind has no place in PKCS#12")
    leaf, *others = certificates.parse_certificates(chain)
    roots = certificates.parse_certificates(held.root or b"", limit=certificatesets.MAX_ROOTS)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    above: list[x509.Certificate] = [*others, *(each for each in roots if each not in others)]
    data = pkcs12.serialize_key_and_certificates(_NAME, loaded, leaf, above, encryption)
    return {outputfiles.CONTENT: data}
