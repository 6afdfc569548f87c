"""The classic certificate service of Istio 0.2 to 1.0, which Citadel still had in 1.1.

One message each way serves all these releases: Istio 0.2 has another message in field 2 of the
request, which a CA of 0.3 or later takes for bytes and ignores if they are empty; so what is not
needed there is left out. The answer had the leaf and its intermediates in one field up to 0.6, in
two since. The root is never in it.
Sources: istio/istio proto/ca_service.proto (0.2.12), security/proto/ca_service.proto (0.3.0,
0.5.1, 0.6.0, 0.7.1), security/proto/istioca.proto (0.8.0, 1.0.9).
"""

from ... import protobuf
from .messages import Answer, Shown

METHOD = "/istio.v1.auth.IstioCAService/HandleCSR"

_CSR, _CREDENTIAL, _CREDENTIAL_TYPE, _TTL_MINUTES = 1, 2, 3, 4
_IS_APPROVED, _STATUS, _CERTIFICATE, _CHAIN = 1, 2, 3, 4
# Of google.rpc.Status (google/rpc/status.proto).
_STATUS_MESSAGE = 2
_MINUTE_S = 60
# It takes 0 as it stands and gives a certificate that has ended: so we never leave it out.
DEFAULT_TTL_S = 24 * 60 * _MINUTE_S


def render(csr: bytes, ttl_s: int, shown: Shown) -> bytes:
    """Return a CsrRequest; a life below one minute is one minute."""
    minutes = max(1, (ttl_s or DEFAULT_TTL_S) // _MINUTE_S)
    message = protobuf.render_bytes(_CSR, csr)
    if shown.document:
        message += protobuf.render_bytes(_CREDENTIAL, shown.document)
    message += protobuf.render_bytes(_CREDENTIAL_TYPE, shown.platform.encode())
    return message + protobuf.render_int(_TTL_MINUTES, minutes)


def parse(message: bytes) -> Answer:
    """Read a CsrResponse; raises ValueError for a broken message and for one that says no."""
    fields = dict(protobuf.parse(message))  # of one that is there twice, the last counts
    if fields.get(_IS_APPROVED) != 1:
        status = dict(protobuf.parse_bytes(_bytes(fields, _STATUS)))
        words = status.get(_STATUS_MESSAGE, b"").decode("utf-8", "replace")
        reason = "".join(c if c.isprintable() else " " for c in words)
        raise ValueError(f"the request is not approved {reason[:200]}".rstrip())
    parts = [part for number in (_CERTIFICATE, _CHAIN) if (part := _bytes(fields, number))]
    return Answer(chain=b"\n".join(parts), roots=None)


def _bytes(fields: dict[int, int | bytes], number: int) -> bytes:
    value = fields.get(number, b"")
    return value if isinstance(value, bytes) else b""
