"""The request that is sent to the CA.

Not here: the making of the key. A request carries one name and nothing else: a classic Citadel
copies every extension it is given into the certificate.
"""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def build_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, spiffe_id: str) -> bytes:
    """Return a signing request (PKCS#10, PEM) for one URI name, with an empty subject.

    The name is critical, as RFC 5280 4.2.1.6 wants it beside an empty subject. Raises ValueError
    for a name that is not ASCII.
    """
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)
