"""The two secrets that a proxy of Istio's asks for, in the form in which Envoy takes them.

Istio's names: `default` is key and certificate chain, `ROOTCA` the roots (istio/istio,
pkg/security). The messages are envoy.extensions.transport_sockets.tls.v3.Secret within
google.protobuf.Any (envoy api/envoy/extensions/transport_sockets/tls/v3/secret.proto).
"""

import zlib

from .. import protobuf

CERTIFICATE, ROOTS = b"default", b"ROOTCA"
NAMES = (CERTIFICATE, ROOTS)
TYPE = b"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

# Secret: name, and one of the two; TlsCertificate; CertificateValidationContext; DataSource; Any.
_NAME, _TLS_CERTIFICATE, _VALIDATION_CONTEXT = 1, 2, 4
_CHAIN, _KEY = 1, 2
_TRUSTED_CA = 1
_INLINE_BYTES = 2
_TYPE_URL, _VALUE = 1, 2


class Secret:
    """One secret: `resource` is the Any. Two are equal if they say the same.

    `version` is made from what is public in it. It has no representation that could be printed.
    """

    __slots__ = ("name", "resource", "version")

    def __init__(self, name: bytes, body: bytes, public: bytes) -> None:
        """`body`: the fields of the message behind the name. `public`: what the version is of."""
        self.name = name
        self.resource = protobuf.render_bytes(_TYPE_URL, TYPE) + protobuf.render_bytes(
            _VALUE, protobuf.render_bytes(_NAME, name) + body
        )
        self.version = b"%08x-%d" % (zlib.crc32(public), len(public))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.resource == self.resource

    __hash__ = None  # type: ignore[assignment]  # nobody keys a table by a secret


Secrets = dict[bytes, Secret]


def make(key: bytes, chain: bytes, roots: bytes) -> Secrets:
    """Return the secrets by name, from PEM texts."""
    pair = protobuf.render_bytes(_CHAIN, _inline(chain)) + protobuf.render_bytes(
        _KEY, _inline(key)
    )
    context = protobuf.render_bytes(_TRUSTED_CA, _inline(roots))
    made = (
        Secret(CERTIFICATE, protobuf.render_bytes(_TLS_CERTIFICATE, pair), chain),
        Secret(ROOTS, protobuf.render_bytes(_VALIDATION_CONTEXT, context), roots),
    )
    return {secret.name: secret for secret in made}


def _inline(text: bytes) -> bytes:
    return protobuf.render_bytes(_INLINE_BYTES, text)
