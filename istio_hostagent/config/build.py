"""From layers of environment files to one complete `Config`, or to every problem in the way.

Here is what needs several keys or several files to decide: fallbacks, names made from addresses,
ports that collide, what is handed to pilot-agent. Not here: how a file is read (`envfile`), who
set what (`layers`), how a value is written (`fields`), which keys there are (`settings`,
`foreign`).

`Outcome.config` is None exactly when there is a problem. Values of secrets are in no message and
in no `Value`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import Problem
from . import (
    capture,
    delivery,
    directkeys,
    discovery,
    explain,
    fields,
    foreign,
    identitykeys,
    issuing,
    jsontext,
    model,
    nontransparent,
    proxykeys,
    registry,
    settings,
    spelling,
)
from . import layers as layering
from . import reader as reading
from .setting import Setting

Value = explain.Value

# execve(2): no string of arguments or environment may be longer (MAX_ARG_STRLEN, 32 pages of 4
# KiB).
MAX_ENVIRONMENT_STRING = 131072


class Outcome(NamedTuple):
    """What came of the files; `values` has each key of the table and each other key set.

    Problems and warnings are sorted by file and line. `uncaptured`: of outbound and inbound, those
    of which a warning says that nothing is captured.
    """

    config: model.Config | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    values: tuple[explain.Value, ...]
    uncaptured: frozenset[str] = frozenset()
    log_level: int = 20  # of the agent itself; no part of what is tried and accepted


def build_config(
    layers: Sequence[model.Layer], facts: model.HostFacts, *, is_accepted: bool = False
) -> Outcome:
    """Combine the layers hostagent.env, cluster.env, sidecar.env; the later wins.

    `is_accepted`: these texts have worked, maybe with an earlier version: what has become an error
    since takes nothing away, and is a warning.
    """
    found = layering.collect(layers)
    reader = reading.Reader(found, layers[0].file, is_accepted=is_accepted)
    identity = issuing.build_identity(reader, facts)
    istiod = discovery.build_istiod(reader, identity)
    redirection = capture.build_redirection(reader, facts, has_istiod=istiod is not None)
    users = _check_listeners(reader, facts, has_istiod=istiod is not None)
    proxy = _build_proxy(reader, redirection, istiod, facts, users)
    delivering = delivery.build_delivery(reader, facts, identity.output_dir)
    registering = registry.build_registry(reader)
    capture.check_emptied(reader, redirection)
    if not redirection.is_none:
        _check_inbound(reader, facts, users)
    _check_foreign(reader)
    _check_json(reader)
    _check_discovery(reader, identity)
    _check_auth_policy(reader)
    config = model.Config(redirection, identity, proxy, delivering, registering)
    log_level = reader.read(settings.AGENT_LOG_LEVEL)
    values = explain.explain(
        reader, server_name=identity.server_name, output_dir=identity.output_dir
    )
    problems = tuple(sorted(set(found.problems)))
    warnings = tuple(sorted(set(found.warnings)))
    uncaptured = frozenset(reader.uncaptured)
    usable = None if problems else config
    return Outcome(usable, problems, warnings, values, uncaptured, log_level)


def _build_proxy(
    reader: reading.Reader,
    redirection: model.Redirection,
    istiod: model.Istiod | None,
    facts: model.HostFacts,
    users: dict[int, str],
) -> model.ProxySettings:
    host, port = reader.read(settings.PILOT_ADDRESS)
    return model.ProxySettings(
        kind=nontransparent.choose_kind(reader),
        envoy=reader.read(settings.ENVOY),
        bin_base=reader.read(settings.BIN_BASE),
        has_unit=reader.read(settings.PROXY_UNIT),
        secret_socket=reader.read(settings.SECRET_SOCKET),
        istiod=istiod,
        mesh=reader.read(settings.MESH_CIDR),
        mtls=reader.read(settings.MTLS),
        direct=nontransparent.build_direct(reader, facts, users),
        status_port=reader.read(settings.STATUS_PORT),
        prometheus_port=reader.read(settings.PROMETHEUS_PORT),
        concurrency=reader.read(settings.CONCURRENCY),
        log_level=reader.read(settings.LOG_LEVEL),
        has_access_log=reader.read(settings.ACCESS_LOG),
        agent_flags=_build_agent_flags(reader),
        instance_ip=reader.read(settings.SVC_IP),
        workload_name=reader.read(settings.POD_NAME),
        discovery_address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        discovery_root=reader.read(settings.XDS_ROOT_CA),
        drain_s=reader.read(settings.DRAIN),
        restart_drain_s=reader.read(settings.RESTART_DRAIN),
        service_cluster=reader.read(settings.SERVICE),
        environment=_build_environment(reader, redirection),
    )


def _build_agent_flags(reader: reading.Reader) -> tuple[str, ...]:
    """What has been set for the proxy, as pilot-agent's flags; the operator's own come last."""
    flags: list[str] = []
    if _is_set(reader, settings.CONCURRENCY.key):
        flags += ["--concurrency", str(reader.read(settings.CONCURRENCY))]
    if _is_set(reader, settings.LOG_LEVEL.key):
        flags += ["--proxyLogLevel", reader.read(settings.LOG_LEVEL)]
    return (*flags, *reader.read(settings.AGENT_FLAGS))


def _is_set(reader: reading.Reader, key: str) -> bool:
    origin = reader.find(key)
    return origin is not None and bool(origin.value)


def _build_environment(
    reader: reading.Reader, redirection: model.Redirection
) -> tuple[tuple[str, str], ...]:
    environment = []
    if redirection.dns.is_captured:
        # Its resolver is asked for by one key alone, and a word that Go knows.
        environment.append((settings.DNS_CAPTURE.key, "true"))
    # Otherwise the control plane would make listeners for redirected connections.
    if redirection.is_none:
        environment.append((settings.META_INTERCEPTION_MODE.key, "NONE"))
    elif redirection.transparent is not None:
        environment.append((settings.META_INTERCEPTION_MODE.key, "TPROXY"))
    written = {key for key, _ in environment}
    for key, sets in sorted(reader.history.items()):
        if key.startswith(settings.OWN_PREFIX) or key in settings.OF_RULES_ALONE:
            continue
        value = sets[-1].value
        if key in written:
            continue
        if len(f"{key}={value}".encode()) < MAX_ENVIRONMENT_STRING:
            environment.append((key, value))
        elif key not in settings.KEYS:
            reader.warn(sets[-1], f"{key} is too long to be handed on to pilot-agent")
    return tuple(sorted(environment))


def _check_listeners(
    reader: reading.Reader, facts: model.HostFacts, *, has_istiod: bool
) -> dict[int, str]:
    """Refuse ports on which two listeners would meet, or on which sshd listens.

    Returns who listens where.
    """
    users: dict[int, str] = {}
    rows: tuple[Setting[int], ...] = settings.LISTENERS
    if reader.read(directkeys.REDIRECT):
        rows = settings.DIRECT_LISTENERS
    if nontransparent.choose_kind(reader) is not model.ProxyKind.ENVOY:
        moved = reader.find(settings.PROXY_CONFIG)
        text = moved.value if moved is not None else ""
        port = proxykeys.find_port(text, "proxyAdminPort", model.AGENT_ADMIN_PORT)
        users[port] = "the admin interface below pilot-agent"
        port = proxykeys.find_port(text, "statusPort", model.AGENT_STATUS_PORT)
        users[port] = "pilot-agent's status"
        rows += settings.METRICS
    elif has_istiod:
        rows += (settings.PROMETHEUS_PORT,)
        if reader.read(settings.DNS_CAPTURE):
            rows += (settings.DNS_ADDRESS,)
    for row in rows:
        port = reader.read(row)
        if not port:
            continue
        key = row.key
        if reader.find(key) is None:
            key = settings.FALLBACKS.get(key, key)
        if key in reader.refused:
            continue  # the port is the default in place of a value that has its problem already
        origin = reader.find(key)
        if port in facts.ssh_ports and origin:
            reader.refuse_since(key, origin, f"{port} is the port on which sshd listens")
        if port not in users:
            users[port] = key
            continue
        other = reader.find(users[port])
        if origin:
            where = f" ({other.file}:{other.line})" if other else ""
            reader.refuse_since(key, origin, f"{port} is the port of {users[port]}{where} already")
        elif other:
            reader.refuse_since(users[port], other, f"{port} is the port of {row.key} already")
    return users


def _check_inbound(reader: reading.Reader, facts: model.HostFacts, users: dict[int, str]) -> None:
    """Refuse listed ports of the proxy's own; say which are sshd's, and which are excluded."""
    key = settings.INBOUND_PORTS.key
    origin = reader.find(key)
    if origin is None:
        return
    named = reader.read(settings.INBOUND_PORTS).named
    for port in sorted(named.intersection(users)):
        where = _describe(reader.find(users[port]))
        text = f"{port} is the port of {users[port]}{where}, on which the proxy itself listens"
        reader.refuse_since(key, origin, f"{text}: take it out of the list")
    excluded = {
        *reader.read(settings.LOCAL_EXCLUDE_PORTS).named,
        *reader.read(settings.INBOUND_EXCLUDE_PORTS).named,
    }
    for port in sorted(named - excluded - users.keys()):
        if port in facts.session_ports:
            who = "this session comes in"
        elif port in facts.ssh_ports:
            who = "sshd listens"
        else:
            continue
        message = f"on {port} {who}: naming captures it, so the proxy answers there"
        reader.warn(origin, f"{key}: {message}, and in strict mode lets in the mesh alone")
    for row in (settings.LOCAL_EXCLUDE_PORTS, settings.INBOUND_EXCLUDE_PORTS):
        both = sorted(named & reader.read(row).named)
        other = reader.find(row.key)
        if both and other is not None:
            ports = ", ".join(map(str, both))
            where = _describe(other)
            reader.warn(origin, f"{key}: {ports} is not captured, because {row.key}{where} has it")


def _describe(origin: layering.Origin | None) -> str:
    return f" ({origin.file}:{origin.line})" if origin else ""


def _check_json(reader: reading.Reader) -> None:
    """Say where JSON has lost its quotes, or has too many."""
    for key, sets in reader.history.items():
        value = sets[-1].value
        if key == settings.PROXY_CONFIG:
            is_lost = jsontext.is_bare_flow(value)
        elif key in settings.JSON_KEYS or key.startswith(settings.JSON_FAMILY):
            is_lost = bool(value.strip()) and not jsontext.is_plausible(value)
        else:
            continue
        if is_lost:
            spelled = jsontext.repair(value)
            hint = f"write {key}='{spelled}'" if spelled else "put the value in single quotes"
            is_fatal = key in settings.JSON_OR_NO_START
            left_out = "so pilot-agent leaves it out"
            outcome = "which keeps pilot-agent from starting" if is_fatal else left_out
            message = f"{key} is no JSON, {outcome}: {fields.show(value)}"
            reader.warn(sets[-1], f"{message}; {hint}")


def _check_discovery(reader: reading.Reader, identity: model.IdentitySettings) -> None:
    """Say where PROXY_CONFIG alone names another control plane than the CA is."""
    origin = reader.find(settings.PROXY_CONFIG)
    if origin is None:
        return
    found = proxykeys.find_discovery_address(origin.value)
    keys = (
        identitykeys.CA_ADDR,
        identitykeys.ISTIO_CA,
        identitykeys.CITADEL_ADDRESS,
        settings.PILOT_ADDRESS,
        settings.PILOT_PORT,
    )
    is_said = any(_is_set(reader, row.key) for row in keys)
    asked = f"{identity.ca_host}:{identity.ca_port}"
    if found and not is_said and found != asked:
        message = f"PROXY_CONFIG names {found}, which is for the proxy alone"
        hint = f"to have certificates from there, and not from {asked}, write CA_ADDR={found}"
        reader.warn(origin, f"{message}; {hint}")


def _check_auth_policy(reader: reading.Reader) -> None:
    """Say where pilot-agent would not check whom it takes its configuration from."""
    if reader.read(settings.PROXY) is model.ProxyKind.ENVOY:
        return
    others = (settings.PROXY_CONFIG, settings.PILOT_ADDRESS.key, settings.PILOT_PORT.key)
    key = next((key for key in settings.AUTH_POLICY if _is_set(reader, key)), "")
    origin = reader.find(key)
    if origin is None or origin.value != "NONE" or any(_is_set(reader, other) for other in others):
        return
    message = f"{key}=NONE makes pilot-agent speak plain text to the control plane"
    reader.warn(origin, f"{message}, and take its configuration from whoever answers")


def _check_foreign(reader: reading.Reader) -> None:
    """Refuse guarded keys from the wrong file; say which keys are without effect or unknown."""
    known = settings.KEYS | foreign.PASSED.keys() | foreign.INERT.keys()
    speller: spelling.Speller | None = None
    for key, sets in reader.history.items():
        origin = sets[-1]
        text = origin.value.strip()
        if not foreign.may_come_from(origin.trust, key, text):
            reader.refuse_untrusted(key, origin)
        reason = foreign.INERT.get(key)
        if reason and text and text not in foreign.AGREES.get(key, ()):
            reader.warn(origin, f"{key} is known, has no effect here, because {reason}")
        if key not in known and not foreign.find_family(key):
            speller = speller or spelling.Speller(known)
            suggestion = speller.suggest(key)
            hint = f"; did you mean {suggestion}?" if suggestion else ""
            reader.warn(origin, f"{key} is not a known key{hint}")
