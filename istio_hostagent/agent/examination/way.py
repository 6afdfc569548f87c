"""The way to the control plane, and what this host shows there: names, roots, token, clock."""

from collections.abc import Iterator

from ...config import endpoints, model
from ...hints import HINTS
from ...host import survey
from ...host.answers import reach
from .finding import NEEDS_ROOT, Finding, Level, length, moment
from .seen import Seen, Target

# Kubernetes, istiod and certificates allow for about so much.
_TOLERANCE_S = 60.0
# Where a Pilot of 0.2, and of 0.7 and 0.8, answers without TLS whoever asks.
_PLAIN_OF_PILOT = (8080, 15007)
_CONTROL_PLANE = "control plane"
_HOSTS = "/etc/hosts"
_NO_NAME = (
    f"write the line of the file `hosts` that istioctl made into {_HOSTS}, or let the resolver"
    " know the name (classic: istio-hostagent kubedns)"
)
_SYNC = "timedatectl says whether it is synchronised; systemctl restart systemd-timesyncd"


def find_targets(config: model.Config, *, is_pilot_agent: bool) -> tuple[Target, ...]:
    """Whom this host has to reach: the CA, and the control plane of its proxy, if that has one."""
    identity, proxy = config.identity, config.proxy
    found: list[Target] = []
    if not identity.renewed_in:
        kind = "plain" if identity.is_plain else "tls"
        names = tuple(dict.fromkeys(identity.server_names))
        found.append(Target("CA", identity.ca_host, identity.ca_port, names, kind))
    if is_pilot_agent:
        host, port = endpoints.parse_host_port(proxy.discovery_address)
        kind = "tls"
        if port in _PLAIN_OF_PILOT:
            kind = "pilot"
        elif port == model.PLAIN_PORT or endpoints.is_classic_pilot(proxy.discovery_address):
            kind = "plain"
        found.append(Target(_CONTROL_PLANE, host, port, _names_of(config, host), kind))
    elif proxy.istiod is not None:
        istiod = proxy.istiod
        found.append(
            Target(_CONTROL_PLANE, istiod.host, istiod.port, (istiod.server_name,), "tls")
        )
    if len(found) == 2 and found[0][1:3] == found[1][1:3]:
        # One look is enough where both are one server.
        return (found[0]._replace(subject=f"CA and {_CONTROL_PLANE}"),)
    return tuple(found)


def _names_of(config: model.Config, host: str) -> tuple[str, ...]:
    """The names under which pilot-agent takes a control plane: what it was called, or istiod's."""
    target = Target(_CONTROL_PLANE, host, 0, (), "")
    return (host,) if target.is_named else config.identity.server_names


def examine_roots(seen: Seen) -> Iterator[Finding]:
    """By which certificates the CA is known."""
    if seen.reached is None or seen.is_renewed_elsewhere:
        return
    roots, path = seen.reached.roots, _root_file(seen)
    if roots.error:
        code = "credential-missing"
        yield Finding("root certificates", Level.WRONG, roots.error, HINTS[code], code)
    elif roots.until is not None and roots.until <= seen.now:
        words = f"of {path}, all have ended; the last one on {moment(roots.until)}"
        advice = "copy root-cert.pem of the mesh again"
        yield Finding("root certificates", Level.WRONG, words, advice)
    else:
        until = f", until {moment(roots.until)}" if roots.until is not None else ""
        words = f"{roots.number} by which the CA is known ({path} and those handed out){until}"
        yield Finding("root certificates", Level.OK, words)


def _root_file(seen: Seen) -> str:
    return seen.config.identity.root_file if seen.config is not None else "root-cert.pem"


def examine_token(seen: Seen) -> Iterator[Finding]:
    """Whether istio-proxy can read it, and what it says of itself."""
    if seen.reached is None or seen.reached.token is None or seen.is_renewed_elsewhere:
        return
    found = seen.reached.token
    if found.error:
        level = Level.WARNING if seen.has_certificate else Level.WRONG
        held = "; the certificate that is held is shown instead" if seen.has_certificate else ""
        code = "credential-missing"
        yield Finding("token", level, f"{found.error}{held}", HINTS[code], code)
    elif found.until is not None:
        left = length(found.until - seen.now)
        words = f"readable by istio-proxy, good for {left} more by its own words"
        yield Finding("token", Level.OK, words)
    else:
        words = "readable by istio-proxy; until when it is good it does not say"
        yield Finding("token", Level.OK, words)


def examine_names(seen: Seen) -> Iterator[Finding]:
    """Which addresses the names of the control plane have here, and who says so."""
    if seen.reached is None:
        yield from _unreached(seen, "names")
        return
    told: set[str] = set()
    for target, call in zip(seen.targets, seen.reached.calls, strict=True):
        if target.is_named and target.host not in told:
            told.add(target.host)
            yield _examine_name(seen, target, call)


def _examine_name(seen: Seen, target: Target, call: reach.Call) -> Finding:
    subject, lines = f"name {target.host}", seen.lines_of(target.host)
    if call.stage == "name":
        return Finding(subject, Level.WRONG, call.error, _NO_NAME, "authority-unavailable")
    words = f"{', '.join(call.addresses)} ({_describe_source(lines)})"
    if len({each.address for each in lines}) > len({_version(each.address) for each in lines}):
        numbers = " and ".join(str(each.number) for each in lines)
        said = f"{words}; lines {numbers} of {_HOSTS} give it different addresses"
        return Finding(subject, Level.WARNING, said, "leave the one that is right")
    return Finding(subject, Level.OK, words)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _describe_source(lines: tuple[survey.HostsLine, ...]) -> str:
    if not lines:
        return "by the resolver of this host"
    return ", ".join(f"{_HOSTS}:{each.number}" for each in lines)


def _unreached(seen: Seen, subject: str) -> Iterator[Finding]:
    if seen.unreached:
        yield Finding(subject, Level.UNSEEN, seen.unreached)
    elif seen.config is None:
        words = "no configuration says where it is" if seen.is_root else NEEDS_ROOT
        yield Finding(subject, Level.UNSEEN, words)


def examine_calls(seen: Seen) -> Iterator[Finding]:
    """Whether the ends of the way answer, as whom and by which certificate."""
    if seen.reached is None:
        yield from _unreached(seen, "way to the control plane")
        return
    for target, call in zip(seen.targets, seen.reached.calls, strict=True):
        yield _examine_call(seen, target, call)


def _examine_call(seen: Seen, target: Target, call: reach.Call) -> Finding:
    where = f"{target.host}:{target.port}"
    if call.address and call.address != target.host:
        address = f"[{call.address}]" if ":" in call.address else call.address
        where += f" at {address}"
        if lines := seen.lines_of(target.host):
            where += f" ({_describe_source(lines)})"
    if call.is_done:
        return Finding(target.subject, Level.OK, f"{where}: {_describe_answer(target, call)}")
    code = "authority-unavailable" if target.subject != _CONTROL_PLANE else "control-plane-away"
    if call.stage == "tls":
        code = "certificate-untrusted" if call.shown else code
        names = " or ".join(target.names)
        words = f"{where}: TLS fails: {call.error}"
        words += f"; it answers as {call.shown}, wanted is {names}" if call.shown else ""
    elif call.stage == "name":
        words = f"{where}: {call.error}"
    elif call.stage == "answer":
        words = f"{where} takes the connection, but {call.error}"
    else:
        words = f"{where}: no connection: {call.error}"
    return Finding(target.subject, Level.WRONG, words, HINTS[code], code)


def _describe_answer(target: Target, call: reach.Call) -> str:
    took = f"{call.took_s * 1000:.0f} ms"
    if target.kind == "pilot":
        return f"lists services (GET /v1/registration), connected in {took}"
    if target.kind == "plain":
        return (
            f"takes a connection in {took}; what answers there was not asked (it needs mutual TLS)"
        )
    until = f", until {moment(call.until)}" if call.until is not None else ""
    return f"connected in {took}, TLS as {call.name} by our root certificates{until}"


def examine_clock(seen: Seen) -> Iterator[Finding]:
    """Whether this host's clock agrees with what others say, as far as anybody does."""
    agrees: list[str] = []
    for name, since, until in _validities(seen):
        if since > seen.now + _TOLERANCE_S:
            words = f"it says {moment(seen.now)}, but {name} is good only from {moment(since)}"
            yield Finding("clock", Level.WRONG, f"{words}: it is behind", _SYNC)
            return
        if until is not None and until <= seen.now:
            words = f"it says {moment(seen.now)}, and {name} has ended on {moment(until)}"
            yield Finding("clock", Level.WARNING, f"{words}: either it is ahead", _SYNC)
            return
        agrees.append(name)
    for date in _dates(seen):
        apart = date - seen.now
        if abs(apart) > _TOLERANCE_S:
            words = f"{length(abs(apart))} {'behind' if apart > 0 else 'ahead of'} that of Pilot"
            yield Finding("clock", Level.WRONG, words, _SYNC)
            return
        agrees.append("the clock of Pilot")
    if agrees:
        words = f"{moment(seen.now)}, within the validity of {', '.join(dict.fromkeys(agrees))}"
        yield Finding("clock", Level.OK, words)
    else:
        words = f"{moment(seen.now)}; nobody was reached who tells whether that is right"
        yield Finding("clock", Level.UNSEEN, words)


def _validities(seen: Seen) -> Iterator[tuple[str, float, float | None]]:
    """What says of itself from when to when it is good."""
    if seen.status is not None and seen.status["certificate"]["not_before"] is not None:
        part = seen.status["certificate"]
        # Its end is a finding of its own.
        yield "the certificate that is held", part["not_before"], None
    if seen.reached is None:
        return
    for target, call in zip(seen.targets, seen.reached.calls, strict=True):
        if call.since is not None:
            yield f"the certificate of the {target.subject}", call.since, call.until


def _dates(seen: Seen) -> Iterator[float]:
    for call in seen.reached.calls if seen.reached is not None else ():
        if call.date is not None:
            yield call.date
