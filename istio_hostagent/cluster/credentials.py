"""Why an API server may not know who asks: what the credential itself says of its dates."""

import datetime

from cryptography import x509

from . import dates
from .access import Access


def why_unknown(access: Access, now: float) -> str:
    """Return a sentence about the user's own credential, whose end is the usual reason."""
    user = access.user
    place = f"{user.place.file}:{user.place.line}"
    data = user.certificate_data
    if user.certificate_file and not data:
        try:
            with open(user.certificate_file, "rb") as opened:
                data = opened.read()
        except OSError:
            return f"{user.certificate_file} cannot be read any more"
    if data and (end := _end_of_certificate(data)) is not None and end < now:
        return f"the client certificate of {place} ended on {_date(end)}"
    token = user.token
    if token and (end := dates.end_of_token(token)) is not None and end < now:
        return f"the token of {place} ended on {_date(end)}"
    if user.plugin is not None:
        return f"exec plugin {user.plugin.command} of {place} tells a credential that is refused"
    if not data and not token and not user.token_file and not user.name:
        return f"{place} has no credential"
    return f"the credential of {place} is refused: is it of this cluster?"


def _end_of_certificate(pem: bytes) -> float | None:
    try:
        return float(dates.end_of(x509.load_pem_x509_certificate(pem)).timestamp())
    except ValueError:
        return None


def _date(moment: float) -> str:
    when = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    return when.strftime("%Y-%m-%d %H:%M UTC")
