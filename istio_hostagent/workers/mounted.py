"""The certificate that somebody else renews: no CA is asked.

FILE_MOUNTED_CERTS: cert-manager, a helper of SPIRE or an operator writes the three files; a reader
of theirs may find a new key beside an old chain. So what is there is read until it fits together,
and readers are shown a copy of it, switched as one. While it does not fit, what they were shown
before stays. WORKLOAD_IDENTITY_SOCKET_FILE: another agent gives the three out by a secret server;
SPIFFE_ENDPOINT_SOCKET: by SPIFFE's Workload API.
Not here: renewal, which is that other program's. Runs as istio-proxy.
"""

import os
import time

from ..config import model as config
from ..errors import CertificateUntrusted, CredentialMissing, NotPermitted
from ..host import access, certificatestore, generations, secretclient
from ..identity import certificates, model, names
from ..sds import asking, workloadapi
from . import certificatesets
from .credentials import pairs
from .credentials.request import Request

# A writer that is in the middle of it: so often, and so many seconds apart, it is read again.
ATTEMPTS, PAUSE_S = 10, 0.2
# With this part of its life left somebody should have renewed it: SPIRE does so at a half,
# cert-manager at a third.
LATE_PART = 0.1
# The link through which a directory of OUTPUT_CERTS shows a generation (`certificatestore`).
_DATA = "..data"


def adopt(store: certificatestore.CertificateStore, request: Request) -> tuple[model.Held, bool]:
    """Show readers what somebody else has; also says whether that is new to them.

    Files that are the agent's own are refused. Raises AuthorityUnavailable, CredentialMissing,
    NotPermitted, CertificateUntrusted, and what `store` raises.
    """
    if request.mounted_dir:
        _require_of_others(request)
    visible = store.read().visible
    found, held = _read_whole(request)
    is_new = found.content() != visible.content()
    if is_new:
        store.install(found)
    else:
        _check_in_time(held, request)
    return held, is_new


def identify(files: generations.Files, request: Request) -> str:
    """The identity that a set states, where this host may have it; else the configured one."""
    leaf = pairs.first_certificate(files)
    try:
        stated = certificates.uri_names(leaf) if leaf is not None else ()
    except ValueError:
        stated = ()
    is_ours = len(stated) == 1 and names.fits(stated[0], request.spiffe_id, request.named_parts)
    return stated[0] if is_ours else request.spiffe_id


def _require_of_others(request: Request) -> None:
    """Raises NotPermitted where the directory is ours, or a file is a link of ours.

    Once the copy is shown, what we had put there is given back, and the links are gone.
    """
    place, store_dir = request.mounted_dir, request.store_dir
    if os.path.realpath(place) == os.path.realpath(request.output_dir):
        raise NotPermitted(
            f"OUTPUT_CERTS leads to {place}, where somebody else renews the certificate",
            hint="leave OUTPUT_CERTS out, or name a directory for the copy that is shown",
        )
    data = os.path.realpath(os.path.join(place, _DATA))
    store, generation = os.path.split(data)
    is_in_store = os.path.dirname(store) == os.path.dirname(os.path.realpath(store_dir))
    if not is_in_store or not generations.is_generation(generation):
        return
    for name in generations.NAMES:
        path = os.path.join(place, name)
        if os.path.islink(path) and os.path.dirname(os.path.realpath(path)) == data:
            raise NotPermitted(
                f"FILE_MOUNTED_CERTS: {path} is this agent's own file, which nobody else renews",
                hint="put the other program's files in place of these links, or name their"
                " directory in PROV_CERT; without FILE_MOUNTED_CERTS this agent asks the CA",
            )


def _read_whole(request: Request) -> tuple[generations.Files, model.Held]:
    """What is there once it fits together; raises for what still does not when it is at rest."""
    found = _read(request)
    # What a server gives out is of one moment.
    for _ in range(0 if request.secret_source else ATTEMPTS):
        try:
            return found, _validate(found, request)
        except CertificateUntrusted:
            time.sleep(PAUSE_S)
            before, found = found, _read(request)
            if found == before:
                break
    return found, _validate(found, request)


def _read(request: Request) -> generations.Files:
    if request.secret_source:
        return _ask(request)
    found, failure = pairs.read_directory(request.mounted_dir)
    if failure is not None:
        path = failure.filename
        message = f"the certificate that somebody else renews: {path} "
        raise CredentialMissing(message + access.explain(path, failure)) from failure
    return found


def _ask(request: Request) -> generations.Files:
    path = request.secret_source
    if os.path.realpath(path) == config.OWN_SECRET_SOCKET:
        raise NotPermitted(
            f"{path} is the socket of this agent's own secret server",
            hint=f"{_key(request)} names that of another agent",
        )
    dialect = asking.make_dialect()
    if request.is_workload_api:
        dialect = workloadapi.make_dialect(request.spiffe_id)
    return secretclient.fetch(path, dialect, timeout_s=request.timeout_s)


def _validate(found: generations.Files, request: Request) -> model.Held:
    subject = _name(request)
    identity = identify(found, request)
    try:
        held = certificatesets.validate(found, identity, subject)
    except CertificateUntrusted as error:
        # The other hints are about a CA that is asked.
        hint = "whoever renews it has to put a good one there"
        if f"not for {request.spiffe_id}" in error.message:
            hint = "compare it with TRUST_DOMAIN, ISTIO_NAMESPACE and SERVICE_ACCOUNT"
        raise CertificateUntrusted(error.message, hint=error.hint and hint) from error
    certificatesets.check_for_envoy(
        certificates.parse_certificates(found.chain or b"")[0], subject
    )
    return held


def _name(request: Request) -> str:
    if request.secret_source:
        server = "SPIFFE Workload API" if request.is_workload_api else "secret server"
        return f"the certificate of the {server} at {request.secret_source}"
    return f"the certificate in {request.mounted_dir}"


def _key(request: Request) -> str:
    """By which an operator has said that somebody else renews it."""
    if not request.secret_source:
        return "FILE_MOUNTED_CERTS"
    return "SPIFFE_ENDPOINT_SOCKET" if request.is_workload_api else "WORKLOAD_IDENTITY_SOCKET_FILE"


def _check_in_time(held: model.Held, request: Request) -> None:
    """What readers have is all there is: raises CertificateUntrusted if it will soon be over."""
    validity = held.validity
    left = validity.not_after - pairs.now()
    if left < (validity.not_after - validity.not_before) * LATE_PART:
        raise CertificateUntrusted(
            f"{_name(request)} ends on {validity.not_after:%Y-%m-%d %H:%M:%S} UTC and"
            " was not renewed yet",
            hint=f"look at the program that renews it: this agent asks no CA ({_key(request)})",
        )
