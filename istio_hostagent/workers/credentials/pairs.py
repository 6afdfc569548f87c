"""Certificates as credentials: the one that is held, and one that somebody has provided.

An expired one is never shown: with it istiod refuses even a good token. Not here: whether the
chain is believed, which is for the CA to say.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from cryptography import x509

from ...errors import CertificateUntrusted
from ...host import ca, certificatestore, generations, keys, machineid
from ...identity import certificates, credentials, names, trust
from .request import Candidate, Request


def find_held(snapshot: certificatestore.Snapshot, request: Request) -> Iterator[Candidate]:
    """Every pair of ours that is good: what readers see first."""
    own = (snapshot.stored, *snapshot.kept)
    seen = (snapshot.visible,) if _is_among(snapshot.visible, own) else ()
    found = tuple(_choose(credentials.CERTIFICATE, "the held certificate", (*seen, *own), request))
    yield from found or (Candidate(credentials.CERTIFICATE, None, "no certificate is held"),)


def find_provisioned(snapshot: certificatestore.Snapshot, request: Request) -> Iterator[Candidate]:
    """Every pair that somebody has put there and that is good."""
    provided = find_provided(snapshot, request)
    return _choose(credentials.PROVISIONED, "the provisioned certificate", provided, request)


def find_provided(
    snapshot: certificatestore.Snapshot, request: Request
) -> tuple[generations.Files, ...]:
    """Every pair of somebody else's: in the output directory now, or before us, or elsewhere."""
    own = (snapshot.stored, *snapshot.kept)
    seen = () if _is_among(snapshot.visible, own) else (snapshot.visible,)
    return (read_provisioned(request), *seen, snapshot.provided)


def _is_among(pair: generations.Files, others: Iterable[generations.Files]) -> bool:
    return any(pair.key is not None and pair.key == each.key for each in others)


def read_provisioned(request: Request) -> generations.Files:
    """What lies in PROV_CERT, where that is not the directory into which we write."""
    place = request.provisioned_dir
    if not place or os.path.realpath(place) == os.path.realpath(request.output_dir):
        return generations.Files()
    files, _ = read_directory(place)  # what is missing is said of what needs it
    return files


def read_directory(place: str) -> tuple[generations.Files, OSError | None]:
    """What somebody else keeps in a directory, and why one of the files is not among that.

    Links are followed; `filename` of the error is the path of the file.
    """
    found: dict[str, bytes] = {}
    received, failure = 0.0, None
    path = place
    try:
        with generations.open_directory(place) as directory:
            for name in generations.NAMES:
                path = os.path.join(place, name)
                try:
                    found[name], written = generations.read_file(
                        name, within=directory, is_link_followed=True
                    )
                except OSError as error:
                    failure = failure or OSError(error.errno, error.strerror, path)
                    continue
                received = written if name == generations.CHAIN else received
    except OSError as error:
        failure = OSError(error.errno, error.strerror, place)
    key, chain, root = map(found.get, generations.NAMES)
    return generations.Files(key, chain, root, received), failure


def is_copied(snapshot: certificatestore.Snapshot) -> bool:
    """Whether what readers see was obtained by another machine, whose disk was copied."""
    key = snapshot.visible.key
    ours = [each for each in (snapshot.stored, *snapshot.kept) if key and each.key == key]
    return any(map(is_of_another_machine, ours))


def is_of_another_machine(pair: generations.Files) -> bool:
    """Whether another machine is known to have obtained a pair."""
    here = machineid.read()
    return bool(here and pair.machine and pair.machine != here)


def _choose(
    via: str, name: str, pairs: Iterable[generations.Files], request: Request
) -> Iterator[Candidate]:
    """Each good pair once, or what is wrong with the first; nothing where there is none."""
    reason = ""
    is_any_good = False
    looked: set[tuple[bytes, bytes]] = set()
    for pair in pairs:
        if pair.key is None or pair.chain is None or (pair.key, pair.chain) in looked:
            continue
        looked.add((pair.key, pair.chain))
        try:
            chain = check_pair(pair, name, request.spiffe_id)
        except CertificateUntrusted as error:
            # The first one is what the operator knows by this name.
            reason = reason or _explain(pair, name, request, error)
        else:
            is_any_good = True
            until = certificates.validity(chain[0]).not_after.timestamp()
            pem = certificates.render_certificates(chain)
            yield Candidate(via, ca.ClientCertificate(pem, pair.key, name), until=until)
    if reason and not is_any_good:
        yield Candidate(via, None, reason)


def _explain(
    pair: generations.Files, name: str, request: Request, error: CertificateUntrusted
) -> str:
    """What is wrong with a pair; of one that may say who this host is, why it does not."""
    leaf = first_certificate(pair)
    with contextlib.suppress(ValueError):
        stated = certificates.uri_names(leaf) if leaf is not None else ()
        fixed = {*request.named_parts, "trust_domain"}
        if len(stated) == 1 and names.agrees(stated[0], request.spiffe_id, fixed):
            try:
                check_pair(pair, name, stated[0])
            except CertificateUntrusted as other:
                return other.message
    return error.message


def check_pair(pair: generations.Files, name: str, spiffe_id: str) -> tuple[x509.Certificate, ...]:
    """Its chain, if the leaf is for its key, for this name and in time; CertificateUntrusted."""
    with described(name):
        chain = certificates.parse_certificates(pair.chain or b"")
        if not chain:
            raise ValueError("there is none in its file")
        public_key = keys.public_part_of_pem(pair.key or b"")
        trust.check_leaf(chain[0], trust.Expected(public_key, spiffe_id, now()))
    return chain


def first_certificate(pair: generations.Files) -> x509.Certificate | None:
    """The leaf of a pair, None where there is none that can be decoded."""
    with contextlib.suppress(ValueError):
        return next(iter(certificates.parse_certificates(pair.chain or b"")), None)
    return None


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
