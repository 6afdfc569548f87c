"""What a client of secret discovery asks, and what it reads in the answer: key, chain and roots.

The other side of `secrets` and `subscription`, for workers alone. Sources: envoy
api/envoy/service/discovery/v3/discovery.proto, secret.proto as in `secrets`.
"""

from collections.abc import Callable
from typing import NamedTuple

from .. import protobuf
from . import secrets

METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
# Istio's server refuses a client that has no node with a name (istio/istio pkg/xds).
_NODE_NAME = b"istio-hostagent"
# DiscoveryRequest, DiscoveryResponse, Node.
_NODE, _RESOURCE_NAMES, _TYPE_URL = 2, 3, 4
_RESOURCES = 2
_NODE_ID, _NODE_CLUSTER = 1, 2
# Any; Secret; TlsCertificate; CertificateValidationContext; DataSource.
_VALUE = 2
_NAME, _TLS_CERTIFICATE, _VALIDATION_CONTEXT = 1, 2, 4
_CHAIN, _KEY = 1, 2
_TRUSTED_CA = 1
_INLINE = (2, 3)  # as bytes, as text

# The parts of a set, by name.
Texts = dict[str, bytes]
KEY, CHAIN, ROOTS = "key", "chain", "roots"


class Dialect(NamedTuple):
    """How a server is asked for a set: by a call that stays open, with one request.

    `parse`: what one message of the answer holds; raises ValueError. `lacking`: ends a sentence
    that says which parts it does not give.
    """

    title: str
    method: str
    headers: tuple[str, ...]
    request: bytes
    parse: Callable[[bytes], Texts]
    lacking: str


def make_dialect() -> Dialect:
    """That of secret discovery."""
    return Dialect(
        title="the secret server",
        method=METHOD,
        headers=(),
        request=render_request(),
        parse=parse_response,
        lacking="by the names default and ROOTCA",
    )


def render_request() -> bytes:
    """Ask for the two secrets of a workload, by Istio's names, which are SPIRE's defaults, too."""
    node = protobuf.render_bytes(_NODE_ID, _NODE_NAME)
    node += protobuf.render_bytes(_NODE_CLUSTER, _NODE_NAME)
    names = (protobuf.render_bytes(_RESOURCE_NAMES, name) for name in secrets.NAMES)
    kind = protobuf.render_bytes(_TYPE_URL, secrets.TYPE)
    return protobuf.render_bytes(_NODE, node) + b"".join(names) + kind


def parse_response(message: bytes) -> Texts:
    """Give what one answer holds of a set; raises ValueError where it is broken.

    Secrets of other names are left out, and so is what is named as a file, not given.
    """
    found: Texts = {}
    for number, resource in protobuf.parse_bytes(message):
        if number == _RESOURCES:
            for inner, secret in protobuf.parse_bytes(resource):
                if inner == _VALUE:
                    found |= _parse_secret(secret)
    return found


def _parse_secret(secret: bytes) -> Texts:
    fields = dict(protobuf.parse_bytes(secret))
    name = fields.get(_NAME)
    if name == secrets.CERTIFICATE:
        pair = dict(protobuf.parse_bytes(fields.get(_TLS_CERTIFICATE, b"")))
        found = {KEY: _inline(pair.get(_KEY, b"")), CHAIN: _inline(pair.get(_CHAIN, b""))}
        return {part: text for part, text in found.items() if text}
    if name == secrets.ROOTS:
        context = dict(protobuf.parse_bytes(fields.get(_VALIDATION_CONTEXT, b"")))
        roots = _inline(context.get(_TRUSTED_CA, b""))
        return {ROOTS: roots} if roots else {}
    return {}


def _inline(source: bytes) -> bytes:
    """The content of a DataSource, empty where it has none."""
    return next((text for number, text in protobuf.parse_bytes(source) if number in _INLINE), b"")
