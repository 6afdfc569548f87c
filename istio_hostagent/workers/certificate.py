"""Look at, obtain, renew or give back the workload certificate; runs as istio-proxy.

In:  the fields of `credentials.request.Request`
Out: {"held": {...} | null}, where the operation failed "error": {"code", "message", "hint"}, and
what was looked for to be shown to the CA, "credentials": [{"via", "reason", "until"}].
`held` has "identity", "serial", "not_before", "not_after" and "received" (unix seconds),
"copied" (obtained by another machine, whose disk this one is a copy of), "obtained" (by this
call), "via" (the kind of the credential, or "" if not obtained) and "protocol" (alike).

`inspect` only looks: an error says why nothing is held. `ensure` obtains a certificate unless a
whole one of ours is held that is not copied, and more than `grace_ratio` of its life is left; if
what is held is no good for this request, an earlier one of ours that is good is shown again,
before the CA is asked. `renew` obtains one. Beside the certificate before, the last one of another
identity is kept while it is good, so that a host can return to settings whose token is gone.
With `mounted_dir` or `secret_source` both show what somebody else renews, and ask no CA
(`mounted`).
A failure takes nothing away. Nothing printed holds a key or a token.
"""

import contextlib
import errno
import json
import os
import sys
from dataclasses import replace
from datetime import timedelta

from cryptography import x509

from ..config import model as config
from ..errors import CertificateUntrusted, HostAgentError
from ..host import access, certificatestore, cores, generations, keys, machineid
from ..identity import certificates, model, names, protocols, schedule, trust
from ..identity import credentials as credential_kinds
from ..identity.protocols import messages
from . import ca_request, certificatesets, mounted
from .credentials import pairs
from .credentials.request import Request

# SECRET_TTL asks for 90 days at most; a CA that gives longer lives on its own account is believed
# up to here.
LONGEST_LIFE = timedelta(days=3653)


def main() -> None:
    """Read one request, write one answer; an error that was foreseen is an answer."""
    cores.forbid()  # one would hold the key
    value = json.load(sys.stdin)
    value["ttl_s"] = int(value.get("ttl_s", 0))
    value["headers"] = tuple((name, text) for name, text in value.get("headers", ()))
    for name in ("named_parts", "protocols", "server_names", "token_command"):
        if name in value:
            value[name] = tuple(value[name])
    json.dump(perform(Request(**value)), sys.stdout)


def perform(request: Request) -> dict[str, object]:
    """Do what is asked and return the answer."""
    store = certificatestore.CertificateStore(request.output_dir, request.store_dir)
    looked: dict[str, credential_kinds.Credential] = {}
    try:
        match request.op:
            case "inspect":
                snapshot = store.read()
                answer = _answer(validate_held(snapshot, _identify(snapshot, request)))
            case "release":
                with store.lock():
                    store.release()
                answer = {"held": None}
            case "ensure" | "renew" if request.is_renewed_elsewhere:
                with store.lock():
                    held, is_new = mounted.adopt(store, request)
                is_file = bool(request.mounted_dir)
                via = credential_kinds.FILES if is_file else credential_kinds.SOCKET
                answer = _answer(held, via=via if is_new else "")
            case "ensure" | "renew":
                with store.lock():
                    answer = _ensure(store, request, looked)
            case _:
                raise ValueError(f"unknown op {request.op!r}")
    except HostAgentError as error:
        failure = {"code": error.code, "message": error.message, "hint": error.hint}
        answer = {"held": _held_anyway(store, request), "error": failure}
    if looked:
        answer["credentials"] = [each._asdict() for each in looked.values()]
    return answer


def _identify(snapshot: certificatestore.Snapshot, request: Request) -> Request:
    """Who this host is, where no key says so: whom a certificate names that is good for it.

    Nobody else than the default where one of ours is for that. Else the one that readers see and
    those of ours, then one that was provided; at last one of ours that has ended: the host has not
    become somebody else. The trust domain is the configured one in any case.
    """
    if request.is_renewed_elsewhere:
        return replace(request, spiffe_id=mounted.identify(snapshot.visible, request))
    if set(names.PARTS) <= set(request.named_parts):
        return request
    own = (snapshot.stored, *snapshot.kept)
    if any(_stated_name(each, request, is_ended=False) == request.spiffe_id for each in own):
        return request  # what readers see may be of a configuration that was tried and rejected
    good = (snapshot.visible, *own, *pairs.find_provided(snapshot, request))
    for is_ended, found in ((False, good), (True, own)):
        for pair in found:
            if stated := _stated_name(pair, request, is_ended=is_ended):
                return replace(request, spiffe_id=stated)
    return request


def _stated_name(pair: generations.Files, request: Request, *, is_ended: bool) -> str:
    leaf = pairs.first_certificate(pair)
    try:
        stated = certificates.uri_names(leaf) if leaf is not None else ()
    except ValueError:
        return ""
    fixed = {*request.named_parts, "trust_domain"}
    if len(stated) != 1 or not names.agrees(stated[0], request.spiffe_id, fixed):
        return ""
    if not is_ended:
        try:
            pairs.check_pair(pair, "it", stated[0])
        except CertificateUntrusted:
            return ""
    return stated[0]


def validate_held(snapshot: certificatestore.Snapshot, request: Request) -> model.Held:
    """Validate what the readers of the output directory see; raises CertificateUntrusted."""
    if snapshot.unreadable:
        path = os.path.join(request.output_dir, snapshot.unreadable[0])
        denied = OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        raise CertificateUntrusted(f"{path} {access.explain(path, denied)}")
    held = _validate(snapshot.visible, request.output_dir, request.spiffe_id)
    return held._replace(is_copied=pairs.is_copied(snapshot))


def _validate(seen: generations.Files, place: str, spiffe_id: str) -> model.Held:
    if seen.key is None or seen.chain is None or seen.root is None:
        raise CertificateUntrusted(f"no certificate is held in {place}")
    return certificatesets.validate(seen, spiffe_id, "the held certificate")


def _ensure(
    store: certificatestore.CertificateStore,
    request: Request,
    looked: dict[str, credential_kinds.Credential],
) -> dict[str, object]:
    snapshot = store.read()
    request = _identify(snapshot, request)
    held = _without_asking(store, snapshot, request) if request.op == "ensure" else None
    if held is not None:
        return _answer(held)
    sets = ca_request.trusted_roots(snapshot, request)

    def accept(key: keys.PrivateKey, answer: messages.Answer) -> ca_request.Accepted:
        return _accept(key, answer, sets, request)

    obtained = ca_request.Conversation(snapshot, request, sets, looked, accept).hold()
    chain, bundle = obtained.accepted.chain, obtained.accepted.roots
    is_traditional = request.is_key_traditional
    if is_traditional is None:
        is_traditional = obtained.protocol == protocols.CITADEL.name
    store.install(
        generations.Files(
            key=keys.render_key(obtained.key, is_traditional=is_traditional),
            chain=certificates.render_certificates(chain),
            root=certificates.render_certificates(bundle),
            machine=machineid.read(),
        ),
        spared=_of_another_identity(snapshot, request),
    )
    held = certificatesets.describe(chain, bundle, pairs.now())
    return _answer(held, via=obtained.via, protocol=obtained.protocol)


def _accept(
    key: keys.PrivateKey,
    answer: messages.Answer,
    sets: tuple[tuple[x509.Certificate, ...], ...],
    request: Request,
) -> ca_request.Accepted:
    """Check what a CA has signed; raises CertificateUntrusted."""
    limit = certificatesets.MAX_ROOTS
    with pairs.described("the CA's answer"):
        chain = certificates.parse_certificates(answer.chain)
        handed_out = certificates.parse_certificates(answer.roots or b"", limit=limit)
    with pairs.described("the CA's answer is discarded: the certificate"):
        expected = trust.Expected(keys.public_part(key), request.spiffe_id, pairs.now())
        is_left_to_us = answer.roots is None
        bundle = _find_roots(chain, sets, expected, request) if is_left_to_us else handed_out
        # Public roots say who the CA is, not what it signs with: it is believed when it says so,
        # where it had to say who it is.
        if not request.has_public_roots or request.ca_port == config.PLAIN_PORT:
            trust.validate(chain, ca_request.join(sets), expected)
        # What the readers are given must fit together as well.
        trust.validate(chain, bundle, expected)
        _check_life(chain[0])
    return ca_request.Accepted(chain, bundle)


def _check_life(leaf: x509.Certificate) -> None:
    """Refuse a life whose renewal nobody would see; raises CertificateUntrusted."""
    end = certificates.validity(leaf).not_after
    if end - pairs.now() > LONGEST_LIFE:
        raise CertificateUntrusted(
            f"is valid until {end:%Y-%m-%d}, more than ten years from now: no renewal would come"
        )


def _find_roots(
    chain: tuple[x509.Certificate, ...],
    sets: tuple[tuple[x509.Certificate, ...], ...],
    expected: trust.Expected,
    request: Request,
) -> tuple[x509.Certificate, ...]:
    """The roots for our readers, of a CA that hands out none: the first set that fits.

    Of public roots only the one that signs: readers take everybody's certificate by these.
    """
    every = ca_request.join(sets)
    for roots in [(root,) for root in every] if request.has_public_roots else sets:
        with contextlib.suppress(CertificateUntrusted):
            trust.validate(chain, roots, expected)
            return roots
    return every


def _without_asking(
    store: certificatestore.CertificateStore, snapshot: certificatestore.Snapshot, request: Request
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
            held = held._replace(is_copied=pairs.is_of_another_machine(each))
            return None if _is_due(held, request) else held
    return None


def _is_due(held: model.Held, request: Request) -> bool:
    if held.is_copied:
        return True
    now = pairs.now().timestamp()
    life = schedule.Life(held.validity.start.timestamp(), held.validity.not_after.timestamp())
    ratio = request.grace_ratio
    return schedule.next_attempt(life, now, failures=0, jitter=0.0, ratio=ratio) <= now


def _of_another_identity(snapshot: certificatestore.Snapshot, request: Request) -> str:
    """Name the last generation of ours that is good, for somebody else; empty without one."""
    for each in (snapshot.stored, *snapshot.kept):
        with (
            contextlib.suppress(CertificateUntrusted),
            pairs.described("the kept certificate"),
        ):
            leaves = certificates.parse_certificates(each.chain or b"")[:1]
            identities = {name for leaf in leaves for name in certificates.uri_names(leaf)}
            for identity in identities - {request.spiffe_id}:
                _validate(each, each.name, identity)
                return each.name
    return ""


def _held_anyway(
    store: certificatestore.CertificateStore, request: Request
) -> dict[str, object] | None:
    """What is held after a failure: it was not touched."""
    try:
        snapshot = store.read()
        return _facts(validate_held(snapshot, _identify(snapshot, request)))
    except HostAgentError:
        return None


def _answer(held: model.Held, *, via: str = "", protocol: str = "") -> dict[str, object]:
    return {"held": _facts(held, via=via, protocol=protocol)}


def _facts(held: model.Held, *, via: str = "", protocol: str = "") -> dict[str, object]:
    return {
        "identity": held.identity,
        "serial": held.serial,
        "not_before": held.validity.not_before.timestamp(),
        "not_after": held.validity.not_after.timestamp(),
        "received": held.validity.start.timestamp(),
        "copied": held.is_copied,
        "obtained": bool(via),
        "via": via,
        "protocol": protocol,
    }


if __name__ == "__main__":
    main()
