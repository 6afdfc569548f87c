"""The certificate files that a classic CA keeps for each service account, in a Secret.

Source: istio security/pkg/k8s/controller/secret.go (0.2 to 1.0): type istio.io/key-and-cert.
"""

import datetime
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..errors import HostAgentError
from ..identity import certificates
from . import dates, failures, resources
from .client import Client, decode

ROOT, CHAIN, KEY = FILES = ("root-cert.pem", "cert-chain.pem", "key.pem")


class CertificateUnusable(HostAgentError):
    """What the cluster holds for a service account is no certificate that a host can use."""

    code = "certificate-unusable"
    exit_status = 65


def fetch(
    client: Client,
    account: str,
    namespace: str,
    *,
    prefix: str,
    root_alone: bool,
    now: datetime.datetime,
) -> dict[str, bytes]:
    """Return the files by name. Raises ObjectMissing and CertificateUnusable."""
    name = f"{prefix}{account}"
    try:
        secret = client.get(resources.SECRETS, name, namespace)
    except failures.ObjectMissing as error:
        why = _why_missing(client, account, namespace)
        raise failures.ObjectMissing(
            f"there is no Secret {name} in namespace {namespace}", hint=why
        ) from error
    wanted = (ROOT,) if root_alone else FILES
    found = {file: decode(secret, file) for file in wanted}
    title = f"Secret {name} in namespace {namespace}"
    if lacking := [file for file, data in found.items() if not data]:
        raise CertificateUnusable(f"{title}: has no {' and no '.join(lacking)}")
    files = {file: data for file, data in found.items() if data}
    check(title, files, now)
    return files


def _why_missing(client: Client, account: str, namespace: str) -> str:
    if client.find(resources.NAMESPACES, namespace) is None:
        return f"there is no namespace {namespace}; `kubectl create namespace {namespace}`"
    if client.find(resources.SERVICE_ACCOUNTS, account, namespace) is None:
        return f"there is no service account {account}, for which the CA would make it"
    return "does the CA (istio-ca, Citadel) of the cluster run?"


def check(title: str, files: Mapping[str, bytes], now: datetime.datetime) -> None:
    """See that what is there of the three files can be used; raises CertificateUnusable.

    Of several roots one that has not ended is enough.
    """
    for file in (ROOT, CHAIN):
        if file not in files:
            continue
        try:
            found = certificates.parse_certificates(files[file])
        except ValueError as error:
            raise CertificateUnusable(f"{title}: {file}: {error}") from error
        if not found:
            raise CertificateUnusable(f"{title}: {file} is no certificate in PEM")
        end = max(map(dates.end_of, found if file == ROOT else found[:1]))
        if end <= now:
            raise CertificateUnusable(
                f"{title}: {file} ended on {end:%Y-%m-%d %H:%M} UTC",
                hint="delete it, and the CA makes it anew",
            )
    if KEY in files:
        try:
            key = serialization.load_pem_private_key(files[KEY], None)
        except (ValueError, TypeError) as error:
            raise CertificateUnusable(f"{title}: key.pem is no private key in PEM") from error
        certificate = x509.load_pem_x509_certificate(files[CHAIN])
        if _public(key.public_key()) != _public(certificate.public_key()):
            raise CertificateUnusable(f"{title}: key.pem is not the key of cert-chain.pem")


def _public(key: object) -> bytes:
    data = key.public_bytes(  # type: ignore[attr-defined] # every kind of public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert isinstance(data, bytes)
    return data
