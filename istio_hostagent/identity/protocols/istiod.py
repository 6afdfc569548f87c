"""istiod's certificate service: one method, two messages.

Source: istio.io/api, security/v1alpha1/ca.proto.
"""

from ... import protobuf
from .messages import Answer, Shown

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

_CSR, _VALIDITY = 1, 3
_CHAIN = 1


def render(csr: bytes, ttl_s: int, _shown: Shown) -> bytes:
    """Return an IstioCertificateRequest; `ttl_s` 0 leaves the life to the CA."""
    message = protobuf.render_bytes(_CSR, csr)
    return message + protobuf.render_int(_VALIDITY, ttl_s) if ttl_s > 0 else message


def parse(message: bytes) -> Answer:
    """Read an IstioCertificateResponse: leaf, intermediates, root bundle.

    Unknown fields are skipped, as protobuf wants it. Raises ValueError for a broken message.
    """
    parts = [each for number, each in protobuf.parse_bytes(message) if number == _CHAIN]
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} parts instead of at least a certificate and a root")
    return Answer(chain=b"\n".join(parts[:-1]), roots=parts[-1])
