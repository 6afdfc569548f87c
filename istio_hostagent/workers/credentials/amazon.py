"""The signed identity document of a machine of Amazon EC2, as the classic protocol carries it.

It stands in the message itself, beside a connection on which nothing else is shown. A Citadel of
Istio 0.3 to 1.0 accepts it only if somebody has added an authenticator for it: none of them had
one of its own.
Sources: docs.aws.amazon.com, EC2, "Instance identity documents" and IMDSv2; istio/istio
security/pkg/platform/aws.go (0.6.0: JSON of the document's bytes, which is base64 in quotes).
"""

import base64
import json

from ...host import ca
from ...identity import credentials
from ...identity.protocols import messages
from . import metadata
from .request import Candidate, Request

VIA = credentials.AMAZON
ADDRESS = "169.254.169.254"
_LIFE_S = "60"


def find(request: Request, timeout_s: float = metadata.TIMEOUT_S) -> Candidate:
    """Fetch the document, or say why there is none."""
    name = "the identity document of EC2"
    if request.protocols[0] != "citadel":
        return Candidate(VIA, None, f"{name} is not part of istiod's protocol")
    base = f"http://{request.metadata_address or ADDRESS}/latest"
    try:
        session = metadata.fetch(
            f"{base}/api/token",
            {"X-aws-ec2-metadata-token-ttl-seconds": _LIFE_S},
            method="PUT",
            timeout_s=timeout_s / 2,
        )
        document = metadata.fetch(
            f"{base}/dynamic/instance-identity/document",
            {"X-aws-ec2-metadata-token": session.decode("ascii").strip()},
            timeout_s=timeout_s / 2,
        )
    except ValueError as error:
        return Candidate(VIA, None, f"{name} {error}")
    shown = messages.Shown("aws", json.dumps(base64.b64encode(document).decode()).encode())
    return Candidate(VIA, ca.NOTHING, shown=shown)
