"""Text to a bearer token as a credential, wherever it came from.

Not here: where it comes from (`tokenfile`, `command`, `google`).
"""

from ...host import ca
from ...identity import token
from ...identity.protocols import messages
from . import pairs
from .request import Candidate

# HTTP/2 servers refuse headers of more than 8 to 64 KiB; a token of Kubernetes has 1 to 2.
MAX_TOKEN = 65536


def make_candidate(
    via: str,
    name: str,
    text: str,
    *,
    audience: str,
    platform: str = "onprem",
    until: float | None = None,
) -> Candidate:
    """A candidate from a token that looks like one; `name` is what messages call it.

    `until`: unix seconds, where its source says that and the token itself does not.
    """
    now = pairs.now()
    end = token.find_end(text) or until
    explanation = f"{name} {token.explain(text, now, audience=audience)}"
    if token.is_expired(text, now):
        return Candidate(via, None, explanation, until=end)
    if end is not None and end <= now.timestamp():
        return Candidate(via, None, f"{name} has expired, as its source says", until=end)
    shown = messages.Shown(platform, text.encode() if platform == "gcp" else b"")
    return Candidate(via, ca.Token(text), "", shown, end, explanation)
