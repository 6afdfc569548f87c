"""Say what a set of key, chain and roots is, and whether it fits together.

In:  {"directory": a path}, read by this process's user, or {"files": [[name, base64], ...],
     "user": [uid, gid] that parses them, where this process is root's}
Out: "identity" (empty: none is stated), "key" (its kind, empty without one), "chain" and "roots",
     lists of {"subject", "issuer", "serial", "not_before", "not_after", "fingerprint", "names"},
     and "faults": sentences, none where everything fits. "error" in place of these where the
     directory cannot be read.

In a directory the files have Istio's names or those of a Kubernetes secret; others are told apart
by what is in them. Nothing printed holds a key. Files may hold keys that root alone may read, and
are not to be parsed as root: a child does so that is istio-proxy's and that it cannot look into.
"""

import binascii
import json
import os
import sys
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..errors import HostAgentError, NotPermitted
from ..host import access, cores, generations, keys
from ..identity import certificates
from . import apart, certificatesets

# Of roots so many are shown: an operating system trusts 144.
MAX_SHOWN = 64
MAX_ANSWER = 1 << 20
# Istio's names, and those of a Kubernetes secret of type tls (cert-manager).
_NAMES = (generations.NAMES, ("tls.key", "tls.crt", "ca.crt"))
_CHILD = "the process that parses certificate files"
_PRIVATE = b"PRIVATE KEY-----"

# A name to be shown, and a content.
Named = tuple[str, bytes]


def main() -> None:
    """Read one request, write one answer."""
    cores.forbid()  # one would hold the key
    request = json.load(sys.stdin)
    try:
        if "directory" in request:
            found = _read_directory(request["directory"])
            answer = describe(found)
        else:
            found = [(name, binascii.a2b_base64(text)) for name, text in request["files"]]
            answer = _describe_apart(found, request.get("user"))
    except HostAgentError as error:
        failure = {"code": error.code, "message": error.message, "hint": error.hint}
        answer = {"error": failure}
    json.dump(answer, sys.stdout)


def _describe_apart(found: list[Named], user: list[int] | None) -> dict[str, Any]:
    if user is None:
        return describe(found)
    uid, gid = user[:2]
    answer: dict[str, Any] = apart.run(
        uid, gid, lambda: describe(found), name=_CHILD, max_bytes=MAX_ANSWER
    )
    return answer


def describe(found: list[Named]) -> dict[str, Any]:
    """The answer for these files."""
    faults: list[str] = []
    key = _find_key(found, faults)
    sets = _find_certificates(found, faults)
    public = _public_part(key, faults)
    chain_name, chain = _choose_chain(sets, public)
    roots = tuple(each for name, some in sets if name != chain_name for each in some)
    if key is None:
        faults.append("there is no key")
    if not chain:
        faults.append("there is no certificate")
    elif not roots:
        faults.append("there are no roots beside the certificate")
    identity = ""
    try:
        names = certificates.uri_names(chain[0]) if chain else ()
        identity = names[0] if len(names) == 1 else ""
        if key and chain and roots and not faults:
            pem = certificates.render_certificates
            files = generations.Files(key, pem(chain), pem(roots))
            certificatesets.validate(files, identity or "a SPIFFE ID", "the certificate")
            certificatesets.check_for_envoy(chain[0], "the certificate")
    except HostAgentError as error:
        faults.append(f"{error.message} ({error.hint})" if error.hint else error.message)
    except ValueError as error:
        faults.append(f"the certificate cannot be decoded: {error}")
    return {
        "identity": identity,
        "key": _kind(key) if public else "",
        "chain": [_facts(each) for each in chain[:MAX_SHOWN]],
        "roots": [_facts(each) for each in roots[:MAX_SHOWN]],
        "faults": faults,
    }


def _read_directory(place: str) -> list[Named]:
    """The files of a set; a link that is swapped meanwhile makes it be read again."""
    try:
        with generations.open_directory(place) as directory:
            there, found = os.listdir(directory), []
            names = next((some for some in _NAMES if set(some) & set(there)), _NAMES[0])
            for _ in range(5):
                before = _state(directory)
                found = _read_names(directory, place, [each for each in names if each in there])
                if _state(directory) == before:
                    break
    except OSError as error:
        raise NotPermitted(f"{place} {access.explain(place, error)}") from error
    return found


def _state(directory: int) -> str:
    try:
        return os.readlink("..data", dir_fd=directory)
    except OSError:
        return ""


def _read_names(directory: int, place: str, names: list[str]) -> list[Named]:
    found = []
    for name in names:
        path = os.path.join(place, name)
        try:
            data, _ = generations.read_file(name, within=directory, is_link_followed=True)
        except OSError as error:
            raise NotPermitted(f"{path} {access.explain(path, error)}") from error
        found.append((name, data))
    return found


def _find_key(found: list[Named], faults: list[str]) -> bytes | None:
    with_key = [(name, data) for name, data in found if _PRIVATE in data]
    if len(with_key) > 1:
        faults.append(f"more than one file has a key: {', '.join(name for name, _ in with_key)}")
    return with_key[0][1] if with_key else None


def _find_certificates(
    found: list[Named], faults: list[str]
) -> list[tuple[str, tuple[x509.Certificate, ...]]]:
    sets = []
    for name, data in found:
        try:
            some = certificates.parse_certificates(data, limit=certificatesets.MAX_ROOTS)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        if some:
            sets.append((name, some))
        elif _PRIVATE not in data:
            faults.append(f"{name} has neither a key nor a certificate")
    return sets


def _public_part(key: bytes | None, faults: list[str]) -> bytes | None:
    if key is None:
        return None
    try:
        return keys.public_part_of_pem(key)
    except ValueError as error:
        faults.append(str(error))
        return None


def _choose_chain(
    sets: list[tuple[str, tuple[x509.Certificate, ...]]], public: bytes | None
) -> tuple[str, tuple[x509.Certificate, ...]]:
    """The certificates that begin with that of the key; else those named so, or with no CA's."""
    for name, some in sets:
        try:
            if public is not None and certificates.public_key(some[0]) == public:
                return name, some
        except ValueError:
            continue
    for name, some in sets:
        if name in (generations.CHAIN, "tls.crt") or not _is_authority(some[0]):
            return name, some
    return "", ()


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificates.find_extension(certificate, x509.BasicConstraints)
    except ValueError:
        return False
    return constraints is not None and constraints.ca


def _kind(pem: bytes | None) -> str:
    """The kind of the key, in the words of `config.model.KeyKind` where it has one."""
    key = serialization.load_pem_private_key(pem or b"", None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"ec-{key.curve.name.replace('secp256r1', 'p256').replace('secp384r1', 'p384')}"
    if isinstance(key, rsa.RSAPrivateKey):
        return f"rsa-{key.key_size}"
    return type(key).__name__.strip("_").removesuffix("PrivateKey").lower()


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    validity = certificates.validity(certificate)
    try:
        names = certificates.uri_names(certificate)
    except ValueError:
        names = ()
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_before": max(validity.not_before.timestamp(), 0),
        "not_after": max(validity.not_after.timestamp(), 0),
        "fingerprint": certificates.fingerprint(certificate),
        "names": list(names[:16]),
    }


if __name__ == "__main__":
    main()
