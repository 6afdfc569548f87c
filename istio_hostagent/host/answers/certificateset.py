"""The answer of the worker that says what a set of key, chain and roots is."""

from typing import Any, NamedTuple

from . import checks, formats

_MOST = 64
_MOST_NAMES = 16
_SERIAL = r"-?[0-9a-f]{1,256}"
_FINGERPRINT = r"[0-9a-f]{64}"
_KIND = r"[a-z0-9_-]{0,64}"


class Certificate(NamedTuple):
    """One certificate; names are texts of RFC 4514, instants unix seconds."""

    subject: str
    issuer: str
    serial: str
    not_before: float
    not_after: float
    fingerprint: str  # SHA-256, hexadecimal
    names: tuple[str, ...]  # URI names


class CertificateSet(NamedTuple):
    """What there is, and what does not fit; `error`: nothing could be read."""

    identity: str = ""
    key: str = ""
    chain: tuple[Certificate, ...] = ()
    roots: tuple[Certificate, ...] = ()
    faults: tuple[str, ...] = ()
    error: checks.Error | None = None


def _read(value: Any, _request: Any) -> CertificateSet:
    answer = checks.read_object(value, "answer")
    if (error := checks.read_error(answer)) is not None:
        return CertificateSet(error=error)
    return CertificateSet(
        checks.read_words(answer, "answer", "identity"),
        checks.read_matching(answer, "answer", "key", _KIND),
        tuple(map(_read_certificate, _read_list(answer, "chain", _MOST))),
        tuple(map(_read_certificate, _read_list(answer, "roots", _MOST))),
        _read_texts(answer, "faults", _MOST),
    )


def _read_list(answer: Any, key: str, most: int) -> list[Any]:
    found = answer.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise checks.Wrong(f"{key} is not a list of at most {most}")
    return found


def _read_texts(answer: Any, key: str, most: int) -> tuple[str, ...]:
    found = _read_list(answer, key, most)
    return tuple(checks.read_words({key: each}, "answer", key) for each in found)


def _read_certificate(value: Any) -> Certificate:
    found = checks.read_object(value, "certificate")
    return Certificate(
        checks.read_words(found, "certificate", "subject"),
        checks.read_words(found, "certificate", "issuer"),
        checks.read_matching(found, "certificate", "serial", _SERIAL),
        checks.read_moment(found, "certificate", "not_before"),
        checks.read_moment(found, "certificate", "not_after"),
        checks.read_matching(found, "certificate", "fingerprint", _FINGERPRINT),
        _read_texts(found, "names", _MOST_NAMES),
    )


FORMAT = formats.Format(1 << 20, 8000, _read)
