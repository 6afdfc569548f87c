"""What every CA protocol is given and gives back, whichever it is."""

from typing import NamedTuple


class Shown(NamedTuple):
    """What a message itself says of who asks, beside the transport's credential.

    `platform`: "onprem", "gcp" or "aws"; `document`: bytes that prove it, if any.
    """

    platform: str = "onprem"
    document: bytes = b""

    def __repr__(self) -> str:
        """Without the document, which may be a token."""
        return f"Shown({self.platform!r})"


class Answer(NamedTuple):
    """What a CA has signed, PEM: leaf and intermediates, and the roots.

    `roots` is None where the protocol hands out none.
    """

    chain: bytes
    roots: bytes | None
