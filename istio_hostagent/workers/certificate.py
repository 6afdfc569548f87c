"""Look at, obtain, renew or give back the workload certificate; runs as istio-proxy.

In:  {"op": "inspect" | "ensure" | "renew" | "release", "ca_host", "ca_port", "server_name",
      "spiffe_id", "cluster_id", "token_file", "root_file", "output_dir", "store_dir", "ttl_s",
      "headers": [[name, value]], "timeout_s", "grace_ratio"}
Out: {"held": {...} | null} and, where the operation failed, "error": {"code", "message", "hint"}.
`held` has "identity", "serial", "not_before", "not_after" and "received" (unix seconds),
"obtained" (by this call) and "via" ("token", "certificate", or "" if not obtained).

`inspect` only looks: an error says why nothing is held. `ensure` obtains a certificate unless a
whole one of ours is held and more than `grace_ratio` of its life is left; `renew` obtains one.
A failure changes no file. Nothing printed holds a key or a token.
"""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from ..errors import CertificateRefused, CertificateUntrusted, HostAgentError
from ..host import ca, credentials, files, generations, keys
from ..identity import certificates, csr, model, protocol, schedule, token, trust

# Less than this left is too little for a call.
SHORTEST_CALL_S = 0.2
# HTTP/2 servers refuse headers of more than 8 to 64 KiB; a token of Kubernetes has 1 to 2.
MAX_TOKEN = 65536


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


def main() -> None:
    """Read one request, write one answer; an error that was foreseen is an answer."""
    # A core file would hold the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    value = json.load(sys.stdin)
    value["ttl_s"] = int(value.get("ttl_s", 0))
    value["headers"] = tuple((name, text) for name, text in value.get("headers", ()))
    json.dump(perform(Request(**value)), sys.stdout)


def perform(request: Request) -> dict[str, object]:
    """Do what is asked and return the answer."""
    store = credentials.Credentials(request.output_dir, request.store_dir)
    try:
        match request.op:
            case "inspect":
                return _answer(judge_held(store.read(), request))
            case "release":
                with store.lock():
                    store.release()
                return {"held": None}
            case "ensure" | "renew":
                with store.lock():
                    return _ensure(store, request)
    except HostAgentError as error:
        answer = {"code": error.code, "message": error.message, "hint": error.hint}
        return {"held": _held_anyway(store, request), "error": answer}
    raise ValueError(f"unknown op {request.op!r}")


def judge_held(snapshot: credentials.Snapshot, request: Request) -> model.Held:
    """Judge what the readers of the output directory see; raises CertificateUntrusted."""
    seen = snapshot.visible
    if snapshot.unreadable:
        raise CertificateUntrusted(f"{snapshot.unreadable[0]} cannot be read by this user")
    if seen.key is None or seen.chain is None or seen.root is None:
        raise CertificateUntrusted(f"no certificate is held in {request.output_dir}")
    with _described("the held certificate"):
        public_key = keys.public_part_of_pem(seen.key)
        chain = certificates.parse_certificates(seen.chain)
        roots = certificates.parse_certificates(seen.root)
        expected = trust.Expected(public_key, request.spiffe_id, _now())
        trust.judge(chain, roots, expected)
    return _held(chain, roots, datetime.fromtimestamp(seen.received, UTC))


def _ensure(store: credentials.Credentials, request: Request) -> dict[str, object]:
    snapshot = store.read()
    if request.op == "ensure":
        with contextlib.suppress(CertificateUntrusted):
            held = judge_held(snapshot, request)
            now = _now()
            due = schedule.next_attempt(
                held.validity, now, failures=0, jitter=0.0, ratio=request.grace_ratio
            )
            if due > now:
                return _answer(held)
    roots = _trusted_roots(snapshot, request)
    candidates = (_certificate(snapshot, request), _token(request))
    key = keys.generate_key()
    via, response = _ask(request, roots, candidates, csr.build_request(key, request.spiffe_id))
    with _described("the CA's answer"):
        chain, bundle = _parse_answer(response)
    with _described("the CA's answer is discarded: the certificate"):
        expected = trust.Expected(keys.public_part(key), request.spiffe_id, _now())
        trust.judge(chain, roots, expected)
        # What the readers are given must fit together as well.
        trust.judge(chain, bundle, expected)
    store.install(
        generations.Files(
            key=keys.render_key(key),
            chain=certificates.render_certificates(chain),
            root=certificates.render_certificates(bundle),
        )
    )
    return _answer(_held(chain, bundle, _now()), via=via)


def _ask(
    request: Request,
    roots: tuple[x509.Certificate, ...],
    candidates: tuple[Candidate, ...],
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
        raise CertificateRefused("nothing to show to the CA: " + "; ".join(reasons))
    told = [failure.message for failure in failures]
    raise type(failures[-1])("; ".join(told + reasons), hint=failures[-1].hint)


def _parse_answer(
    response: bytes,
) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """Return (chain, root bundle): the bundle is the last part (istiod); raises ValueError."""
    parts = protocol.parse_response(response)
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} parts instead of at least a certificate and a root")
    chain = certificates.parse_certificates(b"\n".join(parts[:-1]))
    return chain, certificates.parse_certificates(parts[-1])


def _trusted_roots(
    snapshot: credentials.Snapshot, request: Request
) -> tuple[x509.Certificate, ...]:
    """Return every root we have reason to trust: the operator's, and those last handed out."""
    roots: dict[str, x509.Certificate] = {}
    faults = []
    try:
        texts = [files.read_bounded(request.root_file)]
    except OSError as error:
        texts = []
        faults.append(f"{request.root_file}: {os.strerror(error.errno or 0)}")
    kept = (snapshot.provided.root, snapshot.visible.root, snapshot.stored.root)
    for text in texts + [each for each in kept if each]:
        try:
            found = certificates.parse_certificates(text)
        except ValueError as error:
            faults.append(f"{request.root_file}: {error}")
        else:
            roots.update((certificates.fingerprint(each), each) for each in found)
    if not roots:
        reason = "; ".join(faults) or f"{request.root_file} holds none"
        raise CertificateRefused(f"no root certificate to recognise the CA by: {reason}")
    return tuple(roots.values())


def _certificate(snapshot: credentials.Snapshot, request: Request) -> Candidate:
    """Choose the pair to show: what readers see, else our own last one, else the provided one."""
    reason = "no certificate is held"
    for pair in (snapshot.visible, snapshot.stored, snapshot.provided):
        if pair.key is None or pair.chain is None:
            continue
        try:
            with _described("the held certificate"):
                chain = certificates.parse_certificates(pair.chain)
                if not chain:
                    raise ValueError("there is none in its file")
                public_key = keys.public_part_of_pem(pair.key)
                # With an expired one istiod refuses even a good token.
                trust.check_leaf(chain[0], trust.Expected(public_key, request.spiffe_id, _now()))
        except CertificateUntrusted as error:
            reason = error.message
        else:
            shown = ca.ClientCertificate(certificates.render_certificates(chain), pair.key)
            return Candidate("certificate", shown)
    return Candidate("certificate", None, reason)


def _token(request: Request) -> Candidate:
    name = f"the token {request.token_file}"
    try:
        text = files.read_bounded(request.token_file).decode("ascii").strip()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        return Candidate("token", None, f"{name} cannot be read ({reason})")
    except UnicodeDecodeError:
        text = ""
    if len(text) > MAX_TOKEN:
        return Candidate("token", None, f"{name} is no token: longer than {MAX_TOKEN} characters")
    if not text or not text.isprintable() or " " in text:
        return Candidate("token", None, f"{name} holds no token")
    if token.is_expired(text, _now()):
        return Candidate("token", None, f"{name} {token.explain(text, _now())}")
    return Candidate("token", ca.Token(text))


def _explain(shown: ca.Token, request: Request) -> str:
    return f"the token {request.token_file} {token.explain(shown.text, _now())}"


def _held(
    chain: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...], received: datetime
) -> model.Held:
    return model.Held(
        identity=certificates.uri_names(chain[0])[0],
        serial=f"{chain[0].serial_number:x}",
        validity=certificates.validity(chain[0], received),
        root_fingerprints=tuple(certificates.fingerprint(root) for root in roots),
    )


def _held_anyway(store: credentials.Credentials, request: Request) -> dict[str, object] | None:
    """What is held after a failure: it was not touched."""
    try:
        return _facts(judge_held(store.read(), request), via="")
    except HostAgentError:
        return None


def _answer(held: model.Held, *, via: str = "") -> dict[str, object]:
    return {"held": _facts(held, via=via)}


def _facts(held: model.Held, *, via: str) -> dict[str, object]:
    return {
        "identity": held.identity,
        "serial": held.serial,
        "not_before": held.validity.not_before.timestamp(),
        "not_after": held.validity.not_after.timestamp(),
        "received": held.validity.start.timestamp(),
        "obtained": bool(via),
        "via": via,
    }


@contextlib.contextmanager
def _described(subject: str) -> Iterator[None]:
    """Complete the sentences about a certificate that begin without their subject."""
    try:
        yield
    except CertificateUntrusted as error:
        raise CertificateUntrusted(f"{subject} {error.message}", hint=error.hint) from error
    except ValueError as error:
        raise CertificateUntrusted(f"{subject} cannot be used: {error}") from error


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
