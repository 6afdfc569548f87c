"""SPIFFE's Workload API: what a workload asks for its X.509 identity, and what the answer holds.

Certificates and key come as DER, and leave as PEM. Not taken: bundles of other trust domains and
revocation lists. Sources: spiffe/spiffe standards/SPIFFE_Workload_API.md and
SPIFFE_Workload_Endpoint.md (the header), go-spiffe proto/spiffe/workload/workload.proto.
"""

import base64

from .. import protobuf
from . import asking

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
# Without it a server refuses: a program that is tricked into a request elsewhere does not send it.
HEADER = "workload.spiffe.io: true"
# X509SVIDResponse; X509SVID.
_SVIDS = 1
_ID, _CHAIN, _KEY, _BUNDLE = 1, 2, 3, 4
_SEQUENCE = 0x30
_LINE = 64


def make_dialect(wanted: str) -> asking.Dialect:
    """How it is asked; of several identities the one called `wanted`, else the first."""
    return asking.Dialect(
        title="the SPIFFE Workload API",
        method=METHOD,
        headers=(HEADER,),
        request=b"",
        parse=lambda message: parse_response(message, wanted),
        lacking="for the identity that it gives this workload",
    )


def parse_response(message: bytes, wanted: str) -> asking.Texts:
    """Give key, chain and roots of one identity; raises ValueError where it is broken.

    The first is the default of who is given several (SPIFFE_Workload_API.md, 5.2.1).
    """
    svids = [
        dict(protobuf.parse_bytes(v)) for n, v in protobuf.parse_bytes(message) if n == _SVIDS
    ]
    named = (each for each in svids if each.get(_ID) == wanted.encode())
    found = next(named, svids[0] if svids else {})
    key, chain, roots = (found.get(each, b"") for each in (_KEY, _CHAIN, _BUNDLE))
    texts = {
        asking.KEY: _render("PRIVATE KEY", key) if key else b"",
        asking.CHAIN: b"".join(_render("CERTIFICATE", each) for each in _split(chain)),
        asking.ROOTS: b"".join(_render("CERTIFICATE", each) for each in _split(roots)),
    }
    return {part: text for part, text in texts.items() if text}


def _split(data: bytes) -> list[bytes]:
    """Certificates that stand one behind the other, each a SEQUENCE (X.690, 8.1.3 and 10.1)."""
    found = []
    while data:
        if len(data) < 2 or data[0] != _SEQUENCE:
            raise ValueError("what should be certificates is none")
        size, head = data[1], 2
        if size > 0x80:
            head += size - 0x80
            size = int.from_bytes(data[2:head], "big")
        if size == 0x80 or len(data) < head + size:
            raise ValueError("the last certificate is cut off")
        found.append(data[: head + size])
        data = data[head + size :]
    return found


def _render(title: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[at : at + _LINE] for at in range(0, len(text), _LINE))
    return f"-----BEGIN {title}-----\n{lines}\n-----END {title}-----\n".encode()
