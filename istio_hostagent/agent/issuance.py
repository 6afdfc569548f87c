"""What the certificate worker is asked, and what it answers, as values."""

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..config import model
from ..identity import model as identities

# How long one conversation with the CA may take.
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Report:
    """What the worker said of the certificate on disk; instants are unix seconds."""

    identity: str
    serial: str
    not_before: float
    not_after: float
    received: float

    @property
    def validity(self) -> identities.Validity:
        """The same dates as the schedule wants them."""
        return identities.Validity(
            date(self.not_before), date(self.not_after), date(self.received)
        )


@dataclass(frozen=True)
class Trouble:
    """Why the last attempt gave no certificate."""

    code: str
    message: str
    hint: str

    @property
    def text(self) -> str:
        """The message, and what to do about it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


def date(unix_s: float) -> datetime:
    """An instant as the schedule wants it."""
    return datetime.fromtimestamp(unix_s, timezone.utc)


def make_request(settings: model.IdentitySettings, operation: str, store: str) -> dict[str, Any]:
    """The certificate worker's request, without any secret in it."""
    return {
        "op": operation,
        "ca_host": settings.ca_host,
        "ca_port": settings.ca_port,
        "server_name": settings.server_name,
        "spiffe_id": settings.spiffe_id,
        "cluster_id": settings.cluster_id,
        "token_file": str(settings.token_file),
        "root_file": str(settings.root_file),
        "output_dir": str(settings.output_dir),
        "store_dir": store,
        "ttl_s": int(settings.ttl.total_seconds()),
        "grace_ratio": settings.grace_ratio,
        "headers": [list(header) for header in settings.headers],
        "timeout_s": TIMEOUT_S,
    }
