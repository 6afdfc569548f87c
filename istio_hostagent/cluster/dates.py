"""Now, and when certificates and tokens end."""

import base64
import datetime
import json

from cryptography import x509


def now() -> datetime.datetime:
    """Return the time, aware."""
    return datetime.datetime.now(datetime.timezone.utc)


def end_of(certificate: x509.Certificate) -> datetime.datetime:
    """Return the end of its life, aware."""
    # cryptography 42 has the name with _utc and deprecates the other, 38 has the other alone.
    if hasattr(certificate, "not_valid_after_utc"):
        end = certificate.not_valid_after_utc
    else:
        end = certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)
    assert isinstance(end, datetime.datetime)
    return end


def end_of_token(token: str) -> float | None:
    """Return when a JSON web token ends, in seconds since 1970, or None if it does not say.

    Nothing is verified.
    """
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None
