"""Look at, obtain, renew or give back the workload certificate; runs as istio-proxy.

In:  {"op": "inspect" | "ensure" | "renew" | "release", "ca_host", "ca_port", "server_name",
      "spiffe_id", "cluster_id", "token_file", "root_file", "has_public_roots", "output_dir",
      "store_dir", "ttl_s", "headers": [[name, value]], "timeout_s", "grace_ratio"}
Out: {"held": {...} | null} and, where the operation failed, "error": {"code", "message", "hint"}.
`held` has "identity", "serial", "not_before", "not_after" and "received" (unix seconds),
"copied" (obtained by another machine, whose disk this one is a copy of), "obtained" (by this call)
and "via" ("token", "certificate", or "" if not obtained).

`inspect` only looks: an error says why nothing is held. `ensure` obtains a certificate unless a
whole one of ours is held that is not copied, and more than `grace_ratio` of its life is left; if
what is held is no good for this request, an earlier one of ours that is good is shown again,
before the CA is asked. `renew` obtains one. Beside the certificate before, the last one of another
identity is kept while it is good, so that a host can return to settings whose token is gone.
A failure takes nothing away. Nothing printed holds a key or a token.
"""

import contextlib
import errno
import json
import os
import resource
import sys
from dataclasses import replace
from datetime import UTC, datetime

from cryptography import x509

from ..errors import CertificateUntrusted, HostAgentError
from ..host import access, credentials, generations, keys, machineid
from ..identity import certificates, csr, model, protocol, schedule, trust
from . import ca_request


def main() -> None:
    """Read one request, write one answer; an error that was foreseen is an answer."""
    # A core file would hold the key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    value = json.load(sys.stdin)
    value["ttl_s"] = int(value.get("ttl_s", 0))
    value["headers"] = tuple((name, text) for name, text in value.get("headers", ()))
    json.dump(perform(ca_request.Request(**value)), sys.stdout)


def perform(request: ca_request.Request) -> dict[str, object]:
    """Do what is asked and return the answer."""
    store = credentials.Credentials(request.output_dir, request.store_dir)
    try:
        match request.op:
            case "inspect":
                return _answer(validate_held(store.read(), request))
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


def validate_held(snapshot: credentials.Snapshot, request: ca_request.Request) -> model.Held:
    """Validate what the readers of the output directory see; raises CertificateUntrusted."""
    if snapshot.unreadable:
        path = os.path.join(request.output_dir, snapshot.unreadable[0])
        denied = OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        raise CertificateUntrusted(f"{path} {access.explain(path, denied)}")
    held = _validate(snapshot.visible, request.output_dir, request.spiffe_id)
    return held._replace(is_copied=ca_request.is_copied(snapshot))


def _validate(seen: generations.Files, place: str, spiffe_id: str) -> model.Held:
    if seen.key is None or seen.chain is None or seen.root is None:
        raise CertificateUntrusted(f"no certificate is held in {place}")
    with ca_request.described("the held certificate"):
        public_key = keys.public_part_of_pem(seen.key)
        chain = certificates.parse_certificates(seen.chain)
        roots = certificates.parse_certificates(seen.root)
        trust.validate(chain, roots, trust.Expected(public_key, spiffe_id, ca_request.now()))
    return _held(chain, roots, datetime.fromtimestamp(seen.received, UTC))


def _ensure(store: credentials.Credentials, request: ca_request.Request) -> dict[str, object]:
    snapshot = store.read()
    held = _without_asking(store, snapshot, request) if request.op == "ensure" else None
    if held is not None:
        return _answer(held)
    roots = ca_request.trusted_roots(snapshot, request)
    candidates = ca_request.find_candidates(snapshot, request)
    key = keys.generate_key()
    via, response = ca_request.ask(
        request, roots, candidates, csr.build_request(key, request.spiffe_id)
    )
    with ca_request.described("the CA's answer"):
        chain, bundle = _parse_answer(response)
    with ca_request.described("the CA's answer is discarded: the certificate"):
        expected = trust.Expected(keys.public_part(key), request.spiffe_id, ca_request.now())
        # Public roots say who the CA is, not what it signs with: it is believed when it says so.
        if not request.has_public_roots:
            trust.validate(chain, roots, expected)
        # What the readers are given must fit together as well.
        trust.validate(chain, bundle, expected)
    store.install(
        generations.Files(
            key=keys.render_key(key),
            chain=certificates.render_certificates(chain),
            root=certificates.render_certificates(bundle),
            machine=machineid.read(),
        ),
        spared=_of_another_identity(snapshot, request),
    )
    return _answer(_held(chain, bundle, ca_request.now()), via=via)


def _without_asking(
    store: credentials.Credentials, snapshot: credentials.Snapshot, request: ca_request.Request
) -> model.Held | None:
    """Return what is held, or one of ours that is shown again; None if the CA has to be asked."""
    with contextlib.suppress(CertificateUntrusted):
        held = validate_held(snapshot, request)
        return None if _is_due(held, request) else held
    for each in (snapshot.stored, *snapshot.kept):
        with contextlib.suppress(CertificateUntrusted):
            held = _validate(each, each.name, request.spiffe_id)
            if snapshot.visible.root not in (None, snapshot.stored.root):
                # A root that the operator has put in place of ours since has the last word.
                dropped = replace(each, root=snapshot.visible.root)
                _validate(dropped, each.name, request.spiffe_id)
            store.show(each.name, spared=_of_another_identity(snapshot, request))
            held = held._replace(is_copied=ca_request.is_of_another_machine(each))
            return None if _is_due(held, request) else held
    return None


def _is_due(held: model.Held, request: ca_request.Request) -> bool:
    if held.is_copied:
        return True
    now = ca_request.now().timestamp()
    life = schedule.Life(held.validity.start.timestamp(), held.validity.not_after.timestamp())
    ratio = request.grace_ratio
    return schedule.next_attempt(life, now, failures=0, jitter=0.0, ratio=ratio) <= now


def _of_another_identity(snapshot: credentials.Snapshot, request: ca_request.Request) -> str:
    """Name the last generation of ours that is good, for somebody else; empty without one."""
    for each in (snapshot.stored, *snapshot.kept):
        with (
            contextlib.suppress(CertificateUntrusted),
            ca_request.described("the kept certificate"),
        ):
            leaves = certificates.parse_certificates(each.chain or b"")[:1]
            identities = {name for leaf in leaves for name in certificates.uri_names(leaf)}
            for identity in identities - {request.spiffe_id}:
                _validate(each, each.name, identity)
                return each.name
    return ""


def _parse_answer(
    response: bytes,
) -> tuple[tuple[x509.Certificate, ...], tuple[x509.Certificate, ...]]:
    """Return (chain, root bundle): the bundle is the last part (istiod); raises ValueError."""
    parts = protocol.parse_response(response)
    if len(parts) < 2:
        raise ValueError(f"{len(parts)} parts instead of at least a certificate and a root")
    chain = certificates.parse_certificates(b"\n".join(parts[:-1]))
    return chain, certificates.parse_certificates(parts[-1])


def _held(
    chain: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...], received: datetime
) -> model.Held:
    return model.Held(
        identity=certificates.uri_names(chain[0])[0],
        serial=f"{chain[0].serial_number:x}",
        validity=certificates.validity(chain[0], received),
        root_fingerprints=tuple(certificates.fingerprint(root) for root in roots),
    )


def _held_anyway(
    store: credentials.Credentials, request: ca_request.Request
) -> dict[str, object] | None:
    """What is held after a failure: it was not touched."""
    try:
        return _facts(validate_held(store.read(), request), via="")
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
        "copied": held.is_copied,
        "obtained": bool(via),
        "via": via,
    }


if __name__ == "__main__":
    main()
