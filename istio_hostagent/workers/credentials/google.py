"""The identity document of a virtual machine of Google Compute Engine: a token signed by Google.

Sources: cloud.google.com, Compute Engine, "Verify VM identity"; istio/istio
security/pkg/credentialfetcher/plugin/gce.go (1.30: the audience is the trust domain);
security/pkg/platform/gcp.go (0.3 to 1.0: it is grpc://ADDRESS of the CA).
"""

from urllib.parse import quote

from ...identity import credentials
from . import metadata, tokens
from .request import Candidate, Request

VIA = credentials.GOOGLE
ADDRESS = "169.254.169.254"
_FLAVOR = ("Metadata-Flavor", "Google")
_PATH = "/computeMetadata/v1/instance/service-accounts/default/identity"


def find(request: Request, timeout_s: float = metadata.TIMEOUT_S) -> Candidate:
    """Fetch the token for this CA, or say why there is none."""
    name = "the identity document of Compute Engine"
    audience = find_audience(request)
    host = request.metadata_address or ADDRESS
    url = f"http://{host}{_PATH}?audience={quote(audience, safe='')}&format=full"
    try:
        text = (
            metadata.fetch(url, dict([_FLAVOR]), required=_FLAVOR, timeout_s=timeout_s)
            .decode("ascii")
            .strip()
        )
    except ValueError as error:
        return Candidate(VIA, None, f"{name} {error}")
    return tokens.make_candidate(VIA, name, text, audience=audience, platform="gcp")


def find_audience(request: Request) -> str:
    """For whom the token is meant: what the CA of each generation accepts."""
    if request.protocols[0] == "citadel":
        return f"grpc://{request.ca_host}:{request.ca_port}"
    return request.spiffe_id.removeprefix("spiffe://").partition("/")[0]
