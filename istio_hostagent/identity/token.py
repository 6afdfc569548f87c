"""What a bootstrap token says about itself, and what is wrong with it, in one sentence.

Not here: verification; only the CA can do that. istiod answers every refusal with the same text
("request authenticate failure") and keeps the cause to its own log, so we look before the
operator has to. No sentence holds the token or its signature.
"""

import base64
import binascii
import contextlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

# What istiod accepts unless told otherwise (TOKEN_AUDIENCES).
AUDIENCE = "istio-ca"
# istiod tolerates a start this far ahead (measured: +60 s accepted, +600 s refused).
START_TOLERANCE = timedelta(seconds=60)


_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+=*")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+=*\s*")
_NOTHING = frozenset(
    ("null", "undefined", "none", "nil", "<nil>", "<none>", "<no value>", "false")
)
# Where what makes tokens puts them in its JSON: TokenRequest of Kubernetes, OAuth, vaults.
_IN_JSON = (("status", "token"), ("token",), ("access_token",), ("data", "token"), ("id_token",))
# And the end of its life: Kubernetes (RFC 3339), Azure (unix seconds).
_ENDS = ("expirationTimestamp", "expires_on", "expires_at", "expiry")
_ASK_AGAIN = "ask for one again: kubectl create token ACCOUNT --audience istio-ca"


def find_mistake(data: bytes, path: str) -> str:
    """Say what a token's file holds instead of a token, and how to mend it; or nothing.

    The text continues a sentence that begins with the name of the token.
    """
    path = shlex.quote(path)  # a command is shown with it, for a shell of root's
    if data.startswith(_UTF16):
        return _mend("is UTF-16 text", _rewrite(f"iconv -f UTF-16 -t ASCII {path}", path))
    if data.startswith(_BOM):
        return _mend("begins with a byte order mark", f"sed -i '1s/^\\xef\\xbb\\xbf//' {path}")
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        return "holds no token, but bytes that are no text"
    if not text:
        return "is empty"
    if text.strip("\"'").lower() in _NOTHING:
        return f"holds the word {text}: what made it found no token; {_ASK_AGAIN}"
    return _find_in_text(text, path)


def _find_in_text(text: str, path: str) -> str:
    if text[0] in "{[":
        return _find_in_json(text, path)
    if text[0] in "\"'" or text[-1] in "\"'":
        return _mend("is in quotes", f'sed -i "s/[\\"\']//g" {path}')
    if re.match(r"(?i)(authorization\s*:\s*)?bearer\b", text):
        return _mend("begins with the word Bearer", f"sed -i 's/^.*[Bb]earer *//' {path}")
    if text.startswith("-----BEGIN"):
        return "is a PEM file, not a token"
    if text.startswith("<"):
        return f"is a web page, not a token; {_ASK_AGAIN}"
    if re.match(r"(?i)error\b", text):
        return f"holds an error message of what was to make it; {_ASK_AGAIN}"
    label = re.match(r"[A-Za-z_]+\s*[=:]\s*", text)
    if label and _JWT.fullmatch(text[label.end() :]):
        return _mend("has a name in front of it", f"sed -i 's/^[A-Za-z_]*[=: ]*//' {path}")
    joined = "".join(text.split())
    if joined != text and _JWT.fullmatch(joined):
        lines = len(text.splitlines())
        what = f"is wrapped over {lines} lines" if lines > 1 else "has blanks in it"
        return _mend(what, _rewrite(f"tr -d '[:space:]' < {path}", path))
    if _BASE64.fullmatch(text) and _is_encoded(joined):
        return _mend("is encoded once more", _rewrite(f"base64 -d {path}", path))
    return "" if text.isprintable() and " " not in text else "holds no token, but other text"


def _find_in_json(text: str, path: str) -> str:
    try:
        keys, _, _ = _search_json(text)
    except ValueError as error:
        return f"{error}; {_ASK_AGAIN}"
    place = "".join(f".{key}" for key in keys)
    return _mend("is JSON with the token in it", _rewrite(f"jq -r {place} {path}", path))


def _search_json(text: str) -> tuple[tuple[str, ...], str, float | None]:
    """Return where a token is, the token, and its end in unix seconds; raises ValueError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("is no token, but something like JSON that is not whole") from error
    for keys in _IN_JSON:
        value = _look_up(found, keys)
        if isinstance(value, str) and value:
            return keys, value, _find_end_beside(found, keys)
    raise ValueError("is JSON without a token in it")


def _look_up(found: object, keys: Sequence[str]) -> object:
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _find_end_beside(found: object, keys: Sequence[str]) -> float | None:
    for name in _ENDS:
        value = _look_up(found, (*keys[:-1], name))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return float(value[:12])
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                moment = datetime.fromisoformat(value)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def extract(printed: bytes) -> tuple[str, float | None]:
    """Return the token that a program has printed, alone or in JSON, and the end in that JSON.

    The end is in unix seconds, None where none is said. Raises ValueError.

    The reason continues a sentence that begins with the name of the token, and quotes nothing.
    """
    try:
        text = printed.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise ValueError("is no token, but bytes that are no text") from error
    until = None
    if text[:1] in ("{", "["):
        _, text, until = _search_json(text)
    if not text:
        raise ValueError("is empty")
    if text.lower() in _NOTHING:
        raise ValueError("is a word that means that there is none")
    if not text.isprintable() or " " in text:
        raise ValueError("is no token, but other text")
    return text, until


def find_end(token: str) -> float | None:
    """Until when a token says that it is good, unix seconds; None where it does not say."""
    try:
        expires = parse_claims(token).expires
    except ValueError:
        return None
    return expires.timestamp() if expires is not None else None


def _is_encoded(text: str) -> bool:
    try:
        return bool(_JWT.fullmatch(base64.b64decode(text, validate=True).decode("ascii").strip()))
    except (binascii.Error, UnicodeDecodeError):
        return False


def _mend(what: str, command: str) -> str:
    return f"{what}; mend it with: {command}"


def _rewrite(command: str, path: str) -> str:
    """A command that puts its output into the file, which keeps its owner."""
    return f't=$({command}) && printf %s "$t" > {path}'


@dataclass(frozen=True)
class Claims:
    """The claims that decide, None or empty where the token has none (RFC 7519 4.1)."""

    subject: str
    audiences: tuple[str, ...]
    is_audience_list: bool
    not_before: datetime | None
    expires: datetime | None


def parse_claims(token: str) -> Claims:
    """Return the claims of a JWT in compact form; raises ValueError with what it is instead."""
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("is not a JWT (three parts joined by dots)")
    try:
        body = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_")
        claims = json.loads(body)
    except (binascii.Error, UnicodeError, ValueError, RecursionError) as error:
        raise ValueError("is not a JWT (its middle part cannot be decoded)") from error
    if not isinstance(claims, dict):
        raise ValueError("is not a JWT (its middle part is no JSON object)")
    audience = claims.get("aud", [])
    audiences = audience if isinstance(audience, list) else [audience]
    return Claims(
        subject=_printable(str(claims.get("sub", ""))),
        audiences=tuple(_printable(str(each)) for each in audiences),
        is_audience_list=isinstance(audience, list),
        not_before=_parse_moment(claims.get("nbf"), "nbf"),
        expires=_parse_moment(claims.get("exp"), "exp"),
    )


def is_expired(token: str, now: datetime) -> bool:
    """Whether the token says of itself that its time is over; False for what is no JWT."""
    try:
        expires = parse_claims(token).expires
    except ValueError:
        return False
    return expires is not None and expires <= now


def explain(token: str, now: datetime, *, audience: str = AUDIENCE) -> str:
    """Say what is wrong with a token, or, if nothing meets the eye, what it claims.

    The text continues a sentence that begins with the name of the token.
    """
    try:
        claims = parse_claims(token)
    except ValueError as error:
        return str(error)
    if claims.expires is not None and claims.expires <= now:
        return f"expired on {_text(claims.expires)}, {_span(now - claims.expires)} ago"
    if claims.not_before is not None and claims.not_before > now + START_TOLERANCE:
        early = _span(claims.not_before - now)
        return f"is valid only from {_text(claims.not_before)}, {early} ahead of this host's clock"
    if audience not in claims.audiences:
        stated = ", ".join(claims.audiences) or "nobody"
        return f"is meant for {stated} (claim aud), not for {audience}"
    if not claims.is_audience_list:
        return "has an aud claim that is a text, which istiod refuses; it must be a list"
    if claims.expires is None:
        return "has no exp claim, without which istiod refuses it"
    life = _span(claims.expires - now)
    return (
        f"looks right (subject {claims.subject}, valid for another {life}), so its issuer, its"
        " signing key or the cluster id is not known to the CA"
    )


def _parse_moment(value: object, claim: str) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is not a JWT (its {claim} claim is no number)")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"is not a JWT (its {claim} claim is no moment)") from error


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} seconds"
