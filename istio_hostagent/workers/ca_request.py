"""The certificate worker's conversation with the CA: protocols and credentials, one by one.

Not here: what is done with the answer (`certificate`), how a credential is found (`credentials`).
Nothing of a key or a token is in an error.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from cryptography import x509

from ..config import model as config
from ..errors import (
    AuthorityUnavailable,
    CertificateRefused,
    CertificateUntrusted,
    CredentialMissing,
    HostAgentError,
)
from ..host import access, ca, certificatestore, files, keys
from ..identity import certificates, csr, protocols
from ..identity import credentials as credential_kinds
from ..identity.protocols import messages
from . import certificatesets, credentials
from .credentials import pairs
from .credentials.request import Candidate, Request

# Less than this left is too little for a call.
SHORTEST_CALL_S = 0.2
# How a certificate is asked for where no key says so: what a Citadel signs is RSA.
_USUAL_KEYS = {
    protocols.ISTIOD.name: config.KeyKind.EC_P256,
    protocols.CITADEL.name: config.KeyKind.RSA_2048,
}
_MORE_PROTOCOLS = "ISTIO_HOSTAGENT_CA_PROTOCOL=auto tries both"


@dataclass(frozen=True)
class Accepted:
    """What a CA has signed and what was checked: a chain for our key, and its roots."""

    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]


@dataclass(frozen=True)
class Obtained:
    """A certificate, its key, and what was shown for it."""

    key: keys.PrivateKey
    accepted: Accepted
    protocol: str
    via: str


class Conversation:
    """One attempt; what was looked for, and what came of it, is noted in `looked`."""

    def __init__(
        self,
        snapshot: certificatestore.Snapshot,
        request: Request,
        roots: Iterable[tuple[x509.Certificate, ...]],
        looked: dict[str, credential_kinds.Credential],
        accept: Callable[[keys.PrivateKey, messages.Answer], Accepted],
    ) -> None:
        """Nothing is sent yet; `roots` are the sets by which the CA is recognised.

        `accept`: checks an answer for a key; raises CertificateUntrusted.
        """
        self._snapshot = snapshot
        self._request = request
        self._deadline = time.monotonic() + request.timeout_s
        self._roots = tuple(roots)
        self._looked = looked
        self._accept = accept
        self._found: dict[tuple[str, str], tuple[Candidate, ...]] = {}

    def hold(self) -> Obtained:
        """Ask by each protocol in turn; raises HostAgentError with what was tried."""
        unknown: list[ca.ProtocolUnknown] = []
        others: list[HostAgentError] = []
        for name in self._request.protocols:
            try:
                return self._ask_by(protocols.BY_NAME[name])
            except ca.ProtocolUnknown as error:
                unknown.append(error)
            except (ca.ServerUntrusted, CredentialMissing) as error:
                # By the other protocol the CA has another name, and other credentials count.
                others.append(error)
        if others:
            raise others[0]
        told = "; ".join(error.message for error in unknown)
        tried = " and ".join(self._request.protocols)
        hint = "" if len(self._request.protocols) > 1 else _MORE_PROTOCOLS
        raise CertificateRefused(
            f"the CA does not speak the protocol of {tried}: {told}", hint=hint
        )

    def _ask_by(self, protocol: protocols.Protocol) -> Obtained:
        request = replace(self._request, protocols=(protocol.name,))
        authority = self._find_authority(protocol)
        kind = config.KeyKind(request.key_kind) if request.key_kind else _USUAL_KEYS[protocol.name]
        key = keys.generate_key(kind)
        signing_request = csr.build_request(key, request.spiffe_id)
        failures: list[HostAgentError] = []
        reasons = []
        for candidate in self._find_candidates(request):
            self._note(candidate, candidate.reason)
            if candidate.credential is None:
                reasons.append(candidate.reason)
                continue
            if authority.is_plain and isinstance(candidate.credential, ca.ClientCertificate):
                reasons.append(f"{candidate.credential} cannot be shown without TLS")
                self._note(candidate, reasons[-1])
                continue
            try:
                message = self._call(authority, protocol, signing_request, candidate)
                with pairs.described("the CA's answer"):
                    answer = protocol.parse(message)
                accepted = self._accept(key, answer)
            except ca.ProtocolUnknown:
                raise
            except (
                *(CertificateRefused, CertificateUntrusted, CredentialMissing),
                ca.CertificateIgnored,
            ) as error:
                self._note(candidate, error.message)
                failures.append(error)
                is_doubted = isinstance(error, ca.CredentialRejected | ca.CertificateIgnored)
                if candidate.explanation and is_doubted:
                    reasons.append(candidate.explanation)
                continue
            except AuthorityUnavailable as error:
                # A clear no to the credential before is a reason as well.
                told = [
                    each.message
                    for each in failures
                    if not isinstance(each, ca.CertificateIgnored)
                ]
                if not told or isinstance(error, ca.ServerUntrusted):
                    raise
                raise AuthorityUnavailable(
                    "; ".join([*told, error.message]), hint=error.hint
                ) from error
            return Obtained(key, accepted, protocol.name, candidate.via)
        if not failures:
            raise CredentialMissing("nothing to show to the CA: " + "; ".join(reasons))
        told = list(dict.fromkeys(failure.message for failure in failures))
        raise type(failures[-1])("; ".join(told + reasons), hint=failures[-1].hint)

    def _find_candidates(self, request: Request) -> Iterator[Candidate]:
        """Give them as they are needed; what one protocol has found serves the next."""
        for source in credentials.list_sources(self._snapshot, request):
            place = (source.kind, request.protocols[0] if source.is_of_protocol else "")
            if place not in self._found:
                # Half of what is left: those that come next need time, and so does the CA.
                left_s = max(self._deadline - time.monotonic(), SHORTEST_CALL_S)
                self._found[place] = tuple(source.find(left_s / 2))
            yield from self._found[place]

    def _find_authority(self, protocol: protocols.Protocol) -> ca.Authority:
        request, roots = self._request, self._roots
        if protocol is protocols.CITADEL:
            # One with an intermediate shows its own leaf alone; ours came with it.
            roots += (_intermediates(self._snapshot),)
        return ca.Authority(
            host=request.ca_host,
            port=request.ca_port,
            server_name=self._server_name(protocol),
            roots=certificates.render_certificates(join(roots)),
            cluster_id=request.cluster_id,
            headers=request.headers,
        )

    def _server_name(self, protocol: protocols.Protocol) -> str:
        request = self._request
        named = dict(zip(request.protocols, request.server_names, strict=False))
        return named.get(protocol.name) or request.server_name or request.ca_host

    def _call(
        self,
        authority: ca.Authority,
        protocol: protocols.Protocol,
        signing_request: bytes,
        candidate: Candidate,
    ) -> bytes:
        """Send the request; a life that the CA finds too long is asked for as it allows it."""
        assert candidate.credential is not None
        ttl_s = self._request.ttl_s
        while True:
            message = protocol.render(signing_request, ttl_s, candidate.shown)
            left_s = self._deadline - time.monotonic()
            if left_s < SHORTEST_CALL_S:
                raise AuthorityUnavailable(
                    f"there was no time left to show {candidate.credential} to CA {authority}"
                )
            try:
                return ca.call(
                    authority,
                    protocol.method,
                    message,
                    candidate.credential,
                    timeout_s=left_s,
                )
            except ca.ServerUntrusted as error:
                raise _look_at(error) from None
            except HostAgentError as error:
                longest_s = protocols.find_longest_life(error.message)
                if longest_s is None or longest_s >= ttl_s:
                    raise
                ttl_s = longest_s

    def _note(self, candidate: Candidate, reason: str) -> None:
        self._looked[candidate.via] = credential_kinds.Credential(
            candidate.via, reason, candidate.until
        )


def _look_at(error: ca.ServerUntrusted) -> ca.ServerUntrusted:
    """Say what is wrong with the certificate of the CA itself, if it is its time."""
    try:
        shown = certificates.parse_certificates(error.shown)[:1]
    except ValueError:
        return error
    now = pairs.now()
    for validity in map(certificates.validity, shown):
        wrong = ""
        if validity.not_after <= now:
            wrong = f"expired on {validity.not_after:%Y-%m-%d %H:%M:%S} UTC"
        elif now < validity.not_before:
            wrong = f"is valid only from {validity.not_before:%Y-%m-%d %H:%M:%S} UTC"
        if wrong:
            return ca.ServerUntrusted(
                f"{error.message} The CA's own certificate {wrong}",
                hint=f"this host's clock says {now:%Y-%m-%d %H:%M:%S} UTC",
            )
    return error


def trusted_roots(
    snapshot: certificatestore.Snapshot, request: Request
) -> tuple[tuple[x509.Certificate, ...], ...]:
    """Return each set of roots that we have reason to trust, the operator's first.

    Then those that an operator had put there before, and those last handed out. Raises
    CredentialMissing where there is not one.
    """
    found: list[tuple[x509.Certificate, ...]] = []
    faults = []
    texts: list[bytes] = []
    if not request.root_file:
        faults.append("no root file is named")
    else:
        try:
            texts.append(files.read_bounded(request.root_file))
        except OSError as error:
            faults.append(f"{request.root_file} {access.explain(request.root_file, error)}")
    kept = (snapshot.provided.root, snapshot.visible.root, snapshot.stored.root)
    for text in texts + [each for each in kept if each]:
        try:
            roots = certificates.parse_certificates(text, limit=certificatesets.MAX_ROOTS)
        except ValueError as error:
            faults.append(f"{request.root_file}: {error}")
        else:
            found.extend([roots] if roots and roots not in found else [])
    if not found:
        reason = "; ".join(faults) or f"{request.root_file} holds none"
        raise CredentialMissing(f"no root certificate to recognise the CA by: {reason}")
    return tuple(found)


def join(sets: Iterable[tuple[x509.Certificate, ...]]) -> tuple[x509.Certificate, ...]:
    """Return each certificate of several sets once."""
    return tuple(
        {certificates.fingerprint(each): each for each_set in sets for each in each_set}.values()
    )


def _intermediates(snapshot: certificatestore.Snapshot) -> tuple[x509.Certificate, ...]:
    """The intermediates of the pairs in hand."""
    found = []
    for pair in (snapshot.visible, snapshot.stored, snapshot.provided):
        try:
            found.append(certificates.parse_certificates(pair.chain or b"")[1:])
        except ValueError:
            continue  # said where the pair itself is looked at
    return join(found)
