"""What the certificate worker shows to the CA, and by which roots it knows that it is the CA.

Not here: what is done with the answer (`certificate`). Nothing of a key or a token is in an error.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from ..errors import CertificateUntrusted, CredentialMissing
from ..host import access, ca, credentials, files, generations, keys, machineid
from ..identity import certificates, protocol, token, trust

# Less than this left is too little for a call.
SHORTEST_CALL_S = 0.2
# HTTP/2 servers refuse headers of more than 8 to 64 KiB; a token of Kubernetes has 1 to 2.
MAX_TOKEN = 65536
# In the root file: an operating system trusts 144 (Debian 12).
MAX_ROOTS = 1024


@dataclass(frozen=True)
class Request:
    """What is asked of this process; the fields are the keys of the input."""

    op: str
    output_dir: str
    store_dir: str
    spiffe_id: str = ""
    ca_host: str = ""
    ca_port: int = 0
    server_name: str = ""
    cluster_id: str = ""
    token_file: str = ""
    root_file: str = ""
    has_public_roots: bool = False
    ttl_s: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0
    grace_ratio: float = 0.5


@dataclass(frozen=True)
class Candidate:
    """A credential to try, or the reason why there is none; `via` is its name in the answer."""

    via: str
    credential: ca.Credential | None
    reason: str = ""


def ask(
    request: Request,
    roots: tuple[x509.Certificate, ...],
    candidates: Iterable[Candidate],
    signing_request: bytes,
) -> tuple[str, bytes]:
    """Try the credentials in order; return the name of the one that worked and the answer."""
    deadline = time.monotonic() + request.timeout_s
    authority = ca.Authority(
        host=request.ca_host,
        port=request.ca_port,
        server_name=request.server_name or request.ca_host,
        roots=certificates.render_certificates(roots),
        cluster_id=request.cluster_id,
        headers=request.headers,
    )
    message = protocol.render_request(signing_request, request.ttl_s)
    failures: list[ca.CredentialRejected | ca.CertificateIgnored] = []
    reasons = []
    for candidate in candidates:
        if candidate.credential is None:
            reasons.append(candidate.reason)
            continue
        left_s = max(deadline - time.monotonic(), SHORTEST_CALL_S)
        try:
            return candidate.via, ca.call(
                authority, protocol.METHOD, message, candidate.credential, timeout_s=left_s
            )
        except (ca.CredentialRejected, ca.CertificateIgnored) as error:
            failures.append(error)
            if isinstance(candidate.credential, ca.Token):
                reasons.append(_explain(candidate.credential, request))
    if not failures:
        raise CredentialMissing("nothing to show to the CA: " + "; ".join(reasons))
    told = [failure.message for failure in failures]
    raise type(failures[-1])("; ".join(told + reasons), hint=failures[-1].hint)


def trusted_roots(
    snapshot: credentials.Snapshot, request: Request
) -> tuple[x509.Certificate, ...]:
    """Return every root we have reason to trust: the operator's, and those last handed out."""
    roots: dict[str, x509.Certificate] = {}
    faults = []
    try:
        texts = [files.read_bounded(request.root_file)]
    except OSError as error:
        texts = []
        faults.append(f"{request.root_file} {access.explain(request.root_file, error)}")
    kept = (snapshot.provided.root, snapshot.visible.root, snapshot.stored.root)
    for text in texts + [each for each in kept if each]:
        try:
            found = certificates.parse_certificates(text, limit=MAX_ROOTS)
        except ValueError as error:
            faults.append(f"{request.root_file}: {error}")
        else:
            roots.update((certificates.fingerprint(each), each) for each in found)
    if not roots:
        reason = "; ".join(faults) or f"{request.root_file} holds none"
        raise CredentialMissing(f"no root certificate to recognise the CA by: {reason}")
    return tuple(roots.values())


def find_candidates(snapshot: credentials.Snapshot, request: Request) -> Iterator[Candidate]:
    """Give what can be shown, the best first; a token that is not needed is not read.

    Its file may lie where nothing answers any more. A copied certificate is the last resort.
    """
    if is_copied(snapshot):
        yield find_token(request)
    yield find_certificate(snapshot, request)
    if not is_copied(snapshot):
        yield find_token(request)


def is_copied(snapshot: credentials.Snapshot) -> bool:
    """Whether what readers see was obtained by another machine, whose disk was copied."""
    key = snapshot.visible.key
    ours = [each for each in (snapshot.stored, *snapshot.kept) if key and each.key == key]
    return any(map(is_of_another_machine, ours))


def is_of_another_machine(pair: generations.Files) -> bool:
    """Whether another machine is known to have obtained a pair."""
    here = machineid.read()
    return bool(here and pair.machine and pair.machine != here)


def find_certificate(snapshot: credentials.Snapshot, request: Request) -> Candidate:
    """Choose the pair to show: what readers see, else one of our own, else the provided one."""
    reason = ""
    for pair in (snapshot.visible, snapshot.stored, *snapshot.kept, snapshot.provided):
        if pair.key is None or pair.chain is None:
            continue
        try:
            with described("the held certificate"):
                chain = certificates.parse_certificates(pair.chain)
                if not chain:
                    raise ValueError("there is none in its file")
                public_key = keys.public_part_of_pem(pair.key)
                # With an expired one istiod refuses even a good token.
                trust.check_leaf(chain[0], trust.Expected(public_key, request.spiffe_id, now()))
        except CertificateUntrusted as error:
            # The first one is what the operator knows as the held certificate.
            reason = reason or error.message
        else:
            shown = ca.ClientCertificate(certificates.render_certificates(chain), pair.key)
            return Candidate("certificate", shown)
    return Candidate("certificate", None, reason or "no certificate is held")


def find_token(request: Request) -> Candidate:
    """Read the bootstrap token, or say what is wrong with it."""
    name = f"the token {request.token_file}"
    try:
        data = files.read_bounded(request.token_file)
    except OSError as error:
        why = access.explain(request.token_file, error)
        return Candidate("token", None, f"{name} {why}")
    if len(data) > MAX_TOKEN:
        return Candidate("token", None, f"{name} is no token: longer than {MAX_TOKEN} characters")
    if mistake := token.find_mistake(data, request.token_file):
        return Candidate("token", None, f"{name} {mistake}")
    text = data.decode("ascii").strip()
    if token.is_expired(text, now()):
        return Candidate("token", None, f"{name} {token.explain(text, now())}")
    return Candidate("token", ca.Token(text))


def _explain(shown: ca.Token, request: Request) -> str:
    return f"the token {request.token_file} {token.explain(shown.text, now())}"


@contextlib.contextmanager
def described(subject: str) -> Iterator[None]:
    """Complete the sentences about a certificate that begin without their subject."""
    try:
        yield
    except CertificateUntrusted as error:
        raise CertificateUntrusted(f"{subject} {error.message}", hint=error.hint) from error
    except ValueError as error:
        raise CertificateUntrusted(f"{subject} cannot be used: {error}") from error


def now() -> datetime:
    """The instant by which certificates and tokens are validated."""
    return datetime.now(UTC)
