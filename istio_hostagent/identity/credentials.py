"""The kinds of credentials that can be shown to a CA, in the order in which they are tried.

Not here: finding one (`workers.credentials`). The names are those in status, JSON and journal.
"""

from typing import NamedTuple

from ..config import model as config

CERTIFICATE = "certificate"  # the one that is held
PROVISIONED = "provisioned"  # a certificate that somebody has put there
COMMAND = "command"
GOOGLE = config.Metadata.GOOGLE.value
AMAZON = config.Metadata.AMAZON.value
TOKEN = "token"  # noqa: S105  # its kind, not itself
# Not shown to a CA, but renewed by somebody else: in files, or given out by a secret server.
FILES = "files"
SOCKET = "socket"
KINDS = (CERTIFICATE, PROVISIONED, COMMAND, GOOGLE, AMAZON, TOKEN)


class Credential(NamedTuple):
    """What can be shown to a CA, as far as it was looked at.

    `via`: its kind, of KINDS. `reason`: why it is not there or was not accepted,
    empty if it is good, None if nobody has looked. `until`: unix seconds, None where that is not
    known.
    """

    via: str
    reason: str | None
    until: float | None


def configured(settings: config.IdentitySettings) -> tuple[str, ...]:
    """Those that may be tried with these settings, the best first."""
    if settings.renewed_in:
        return ()
    from_cloud = (settings.metadata.value,) if settings.metadata else ()
    return (
        CERTIFICATE,
        PROVISIONED,
        *((COMMAND,) if settings.token_command else ()),
        *from_cloud,
        TOKEN,
    )


def describe(
    settings: config.IdentitySettings,
    looked: tuple[Credential, ...],
    held_until: float | None,
    now: float,
) -> tuple[Credential, ...]:
    """What is known of each kind that may be tried, in this order.

    `looked`: what the last attempt has found; `held_until`: of the certificate in hand. One that
    was not looked for has nothing but its kind. One whose end has passed since says so.
    """
    found = {each.via: each for each in looked}
    refused = found.get(CERTIFICATE)
    is_refused = refused is not None and bool(refused.reason) and refused.until == held_until
    if held_until is not None and not is_refused:
        found[CERTIFICATE] = Credential(CERTIFICATE, "", held_until)
    described = (found.get(kind) or Credential(kind, None, None) for kind in configured(settings))
    return tuple(_aged(each, now) for each in described)


def _aged(credential: Credential, now: float) -> Credential:
    is_over = credential.until is not None and credential.until <= now
    if credential.reason == "" and is_over:
        return credential._replace(reason="it has expired since it was looked at")
    return credential
