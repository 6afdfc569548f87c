"""A certificate in hand, as a worker sees it.

Not here: certificates themselves (`certificates`), belief in them (`trust`), renewal (`schedule`).
Nothing here holds a key or a token.
"""

from datetime import datetime
from typing import NamedTuple


class Validity(NamedTuple):
    """From when to when a certificate holds; every datetime is aware.

    `received`: when it came into our hands. CAs date certificates back (istiod by two minutes),
    which for a life of seconds would make renewal due on arrival.
    """

    not_before: datetime
    not_after: datetime
    received: datetime | None = None

    @property
    def start(self) -> datetime:
        """The moment from which the life in our hands is counted."""
        if self.received is None or not self.not_before < self.received < self.not_after:
            return self.not_before
        return self.received


class Held(NamedTuple):
    """A validated certificate.

    `serial` is hexadecimal without prefix; `root_fingerprints` are SHA-256, hexadecimal, of the
    root bundle beside it, in its order. `is_copied`: another machine obtained it.
    """

    identity: str
    serial: str
    validity: Validity
    root_fingerprints: tuple[str, ...]
    is_copied: bool = False
